"""Does a gradient residual of second order help to classify, with a smooth activation?

ResNet-20 as in `cifar`, on the same images, with SGD: identity and gain in second
order, each with SiLU and with ReLU everywhere in the network. "longer" is the control
at the same time: identity, trained for as many more epochs as a step of gain takes more
time.

Before the verdict the report says what the study can see: the smallest difference that
the paired t-test finds with a probability of 80 %, given how far the differences of
single seeds are apart here.

    python -m benchmarks.cifar_smooth --budget cpu --data FOLDER
"""

import numpy as np

from benchmarks import cifar
from benchmarks.cifar import draw, last_error, load, train
from benchmarks.study import (
    Study,
    compared,
    detectable,
    each_learns,
    holm,
    p_value,
    statistics,
    table,
)

GAIN = {"residual": "gain", "second_order": True}
# The arguments, and what it is compared with.
VARIANTS = {
    f"{skip}, {name}": (
        {**kwargs, "activation": name.lower()},
        None if skip == "identity" else f"identity, {name}",
    )
    for name in ("SiLU", "ReLU")
    for skip, kwargs in {
        "identity": {"residual": "identity"},
        "gain": GAIN,
        "identity, longer": {"residual": "identity"},
    }.items()
}
# What a step of gain takes with SiLU, in steps of identity: the median of eight
# interleaved pairs of steps with TensorFlow, in seconds of the processor.
LONGER = 2.2
_ALL = {"seeds": 5, "variants": list(VARIANTS)}
BUDGETS = {
    "smoke": cifar.BUDGETS["smoke"] | {"variants": ["identity, SiLU", "gain, SiLU"]},
    "cpu": cifar.BUDGETS["cpu"] | _ALL,
    "gpu": cifar.BUDGETS["gpu"] | _ALL,
}


def make_runs(study):
    common = {name: study.settings[name] for name in ("depth", "epochs", "train")}
    return [
        {**common, "variant": variant, "seed": seed}
        | ({"epochs": longer(study)} if "longer" in variant else {})
        for seed in study.seeds
        for variant in study.settings["variants"]
    ]


def longer(study):
    return round(LONGER * study.settings["epochs"])


def report(study):
    variants, settings = study.settings["variants"], study.settings
    errors = {v: study.of(last_error, variant=v) for v in variants}
    bases = {v: errors[VARIANTS[v][1] or v] for v in variants}
    p_values = [statistics(errors[v], bases[v])[-1] for v in variants]
    rows = []
    for variant, p in zip(variants, holm(p_values), strict=True):
        cells = [*compared(errors[variant], bases[variant], 2), p_value(p), ""]
        if VARIANTS[variant][1] is None:
            cells[1] = ""
        elif len(study.seeds) > 1:
            spread = np.std(errors[variant] - bases[variant], ddof=1)
            cells[-1] = f"{detectable(spread, len(study.seeds)):.2f}"
        rows.append([variant, *cells])
    header = [f"ResNet-{settings['depth']}", "error, %", "difference", "p"]
    header += ["p, corrected", "detectable"]
    return (
        f"{settings['train']} training images, {settings['epochs']} epochs "
        f'({longer(study)} in "longer"), {len(study.seeds)} seeds\n\n'
        f"{table(header, rows)}\n\n± is the standard error; p that of the paired "
        "t-test against identity with the same activation, corrected by Holm's method; "
        "detectable: the smallest difference that this test finds with a probability "
        "of 80 %. Gain is of second order."
    )


def look(variant, i):
    return {"linestyle": "--" if "ReLU" in variant else "-"}


def main():
    study = Study(__doc__, BUDGETS, data=True)
    parts = load(study)
    study.run(
        make_runs(study),
        lambda runs, bar: train(runs[0], bar, parts, VARIANTS[runs[0]["variant"]][0]),
        cost=lambda run: run["epochs"],
    )
    study.conclude(report(study), lambda: draw(study, look), each_learns)


if __name__ == "__main__":
    main()
