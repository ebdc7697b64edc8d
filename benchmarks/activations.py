"""Each skip with a smooth activation and with ReLU, against identity with the same."""


def with_each_activation(skips):
    """The arguments of each skip, with SiLU and with ReLU."""
    return {
        f"{skip}, {name}": {**arguments, "activation": name.lower()}
        for name in ("SiLU", "ReLU")
        for skip, arguments in skips.items()
    }


class EachActivation:
    """What a `Study` of such variants compares them with; stands before `Study`."""

    against = "identity with the same activation"

    def baseline_of(self, variant):
        return f"identity, {variant.rpartition(', ')[-1]}"
