"""Does a gradient residual of second order sharpen super-resolution?

SEDSR as in `super_resolution`, on the same patches, with GELU in the place of ReLU,
because what second order adds needs an activation that is curved. Within the network
the colors span 8 (EDSR's `rgb_range`): in [0, 1] the sums that GELU sees are so small
that it acts as a linear function, and the network stays at the best linear filter. The
rows at range 1 show that.

Two controls: identity with one block more, and with four more, which takes the same
time as a gradient residual of second order. Each row is compared with identity of its
own activation and range; p is corrected for the number of these comparisons (Holm).

    python -m benchmarks.super_resolution_smooth --budget cpu --data FOLDER
"""

import itertools

import numpy as np

from benchmarks.study import (
    Study,
    compared,
    each_learns,
    holm,
    p_value,
    statistics,
    table,
)
from benchmarks.super_resolution import Patches, load, train
from benchmarks.super_resolution_report import draw, final

BLOCKS = 4
# A step of gain in second order takes 1.62 times that of identity, and identity with 5,
# 6 and 7 blocks 1.13, 1.30 and 1.45 times: medians of eight interleaved rounds with
# TensorFlow, 16 patches of 24 x 24, in seconds of the processor.
AS_SLOW = BLOCKS + 4
IDENTITY = {"residual": "identity"}
CONVEX = {"residual": "convex", "alpha": -3.0, "second_order": True}
GAIN = {"residual": "gain", "second_order": True}
GELU = {"activation": "gelu", "rgb_range": 8.0}
LINEAR = {"activation": "gelu", "rgb_range": 1.0}
RELU = {"activation": "relu", "rgb_range": 8.0}
# The arguments, and what it is compared with.
VARIANTS = {
    "identity, GELU": ({**IDENTITY, **GELU}, None),
    "gain, GELU": ({**GAIN, **GELU}, "identity, GELU"),
    "identity, GELU, 4 blocks more": (
        {**IDENTITY, **GELU, "blocks": AS_SLOW},
        "identity, GELU",
    ),
    "identity, GELU, 1 block more": (
        {**IDENTITY, **GELU, "blocks": BLOCKS + 1},
        "identity, GELU",
    ),
    "convex, GELU": ({**CONVEX, **GELU}, "identity, GELU"),
    "gain, GELU, whole sample": ({**GAIN, **GELU, "axis": None}, "identity, GELU"),
    "identity, GELU, range 1": ({**IDENTITY, **LINEAR}, None),
    "gain, GELU, range 1": ({**GAIN, **LINEAR}, "identity, GELU, range 1"),
    "identity, ReLU": ({**IDENTITY, **RELU}, None),
    "gain, ReLU": ({**GAIN, **RELU}, "identity, ReLU"),
}
BUDGETS = {
    "smoke": {
        "seeds": 1,
        "models": {"SEDSR": ["identity, GELU", "gain, GELU"]},
        "sizes": {"blocks": 1, "filters": 8},
        "steps": 24,
        "evaluations": 4,
        "patch": 12,
        "sets": {},
    },
    # For a busy machine.
    "short": {
        "seeds": 2,
        "models": {"SEDSR": list(VARIANTS)[:3]},
        "sizes": {},
        "steps": 1000,
        "evaluations": 4,
        "patch": 24,
        "sets": {"set5": 5},
    },
    "cpu": {
        "seeds": 3,
        "models": {"SEDSR": list(VARIANTS)},
        "sizes": {},
        "steps": 1500,
        "evaluations": 4,
        "patch": 24,
        "sets": {"set5": 5, "set14": 14},
    },
    "gpu": {
        "seeds": 5,
        "models": {"SEDSR": list(VARIANTS)},
        "sizes": {},
        "steps": 100_000,
        "evaluations": 40,
        "patch": 48,
        "sets": {"set5": 5, "set14": 14, "bsd100": 100, "urban100": 100},
    },
}


def make_runs(study):
    names = ("steps", "patch")
    common = {name: study.settings[name] for name in names} | study.settings["sizes"]
    return [
        {"model": "SEDSR", "variant": variant, "seed": seed, **common}
        for seed, variant in itertools.product(
            study.seeds, study.settings["models"]["SEDSR"]
        )
    ]


def report(study, test):
    variants = study.settings["models"]["SEDSR"]
    header = ["", "PSNR, final", "difference", "p", "p, corrected", "best"]
    parts = []
    for name in test:
        psnr, best = (
            {
                v: study.of(lambda result: reduce(result["psnr"][name]), variant=v)  # noqa: B023
                for v in variants
            }
            for reduce in (final, np.max)
        )
        bases = {v: psnr[VARIANTS[v][1] or v] for v in variants}
        p_values = [statistics(psnr[v], bases[v])[-1] for v in variants]
        rows = [
            [v, *compared(psnr[v], bases[v], 3), p_value(p), f"{best[v].mean():.3f}"]
            for v, p in zip(variants, holm(p_values), strict=True)
        ]
        parts.append(f"SEDSR x2, {name} images\n\n{table(header, rows)}")
    parts.append(
        f"{study.settings['steps']} steps, {len(study.seeds)} seeds; ± is the standard "
        "error, p that of the paired t-test against identity with the same activation "
        "and range; gain and convex (alpha -3) are of second order."
    )
    return "\n\n".join(parts)


def main():
    study = Study(__doc__, BUDGETS, data=True)
    pictures, test = load(study)
    patches = Patches(pictures, study.settings["patch"])

    def train_one(runs, bar):
        skip, _ = VARIANTS[runs[0]["variant"]]
        return [train(runs[0], skip, bar, study, patches, test)]

    study.run(make_runs(study), train_one, lambda run: run["steps"])
    study.conclude(report(study, test), lambda: draw(study, test), each_learns)


if __name__ == "__main__":
    main()
