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

from benchmarks.cifar import WATCHED, last_error, load, train
from benchmarks.study import (
    Study,
    compared,
    detectable,
    holm,
    p_value,
    pyplot,
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
BUDGETS = {
    "smoke": {
        "seeds": 1,
        "depth": 8,
        "epochs": 2,
        "train": 256,
        "variants": ["identity, SiLU", "gain, SiLU"],
    },
    "cpu": {
        "seeds": 5,
        "depth": 20,
        "epochs": 4,
        "train": 10_000,
        "variants": list(VARIANTS),
    },
    "gpu": {
        "seeds": 5,
        "depth": 20,
        "epochs": 200,
        "train": 50_000,
        "variants": list(VARIANTS),
    },
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


def draw(study):
    plt = pyplot()
    figure, axes = plt.subplots(1, 2, figsize=(14, 5), layout="constrained")
    for axis, name in zip(axes, ("loss", "errors"), strict=True):
        for variant in study.settings["variants"]:
            curves = study.of(lambda r: r[name], variant=variant)  # noqa: B023
            style = "--" if "ReLU" in variant else "-"
            axis.plot(
                1 + np.arange(curves.shape[1]), curves.mean(0), style, label=variant
            )
        axis.set(xlabel="epoch")
    axes[0].set(title="training loss, mean over seeds", yscale="log")
    axes[1].set(title=f"error of the first {WATCHED} test images, %")
    axes[1].legend(fontsize=8)
    study.save(figure)


def main():
    study = Study(__doc__, BUDGETS, data=True)
    parts = load(study)
    study.run(
        make_runs(study),
        lambda runs, bar: train(runs[0], bar, parts, VARIANTS[runs[0]["variant"]][0]),
        cost=lambda run: run["epochs"],
    )
    study.conclude(report(study), lambda: draw(study), check)


def check(study):
    """That the networks learn, each in its own way."""
    losses = [result["loss"] for _, result in study.results]
    assert all(loss[-1] < loss[0] for loss in losses), losses
    assert len({loss[-1] for loss in losses}) == len(losses), losses


if __name__ == "__main__":
    main()
