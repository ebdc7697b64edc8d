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

import dataclasses

from benchmarks.super_resolution import BEST, PSNR, SuperResolution

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
BUDGETS = SuperResolution.budgets


class SuperResolutionSmooth(SuperResolution):
    variants = {
        "identity, GELU": {**IDENTITY, **GELU},
        "gain, GELU": {**GAIN, **GELU},
        "identity, GELU, 4 blocks more": {**IDENTITY, **GELU, "blocks": AS_SLOW},
        "identity, GELU, 1 block more": {**IDENTITY, **GELU, "blocks": BLOCKS + 1},
        "convex, GELU": {**CONVEX, **GELU},
        "gain, GELU, whole sample": {**GAIN, **GELU, "axis": None},
        "identity, GELU, range 1": {**IDENTITY, **LINEAR},
        "gain, GELU, range 1": {**GAIN, **LINEAR},
        "identity, ReLU": {**IDENTITY, **RELU},
        "gain, ReLU": {**GAIN, **RELU},
    }
    budgets = {
        "smoke": BUDGETS["smoke"]
        | {"steps": {"SEDSR": 24}, "few": {"SEDSR": list(variants)[:2]}},
        # For a busy machine.
        "short": {"seeds": 2, "steps": {"SEDSR": 1000}, "evaluations": 4, "patch": 24}
        | {"few": {"SEDSR": list(variants)[:3]}, "sets": {"set5": 5}},
        "cpu": {"seeds": 3, "steps": {"SEDSR": 1500}, "evaluations": 4, "patch": 24}
        | {"sets": {"set5": 5, "set14": 14}},
        "gpu": BUDGETS["gpu"] | {"steps": {"SEDSR": 100_000}},
    }
    swept = ()
    columns = (dataclasses.replace(PSNR, corrected=True), BEST)
    against = "identity with the same activation and range"
    note = "Gain and convex (alpha -3) are of second order."

    def baseline_of(self, variant):
        _, activation, *rest = variant.split(", ")
        ranges = [name for name in rest if name.startswith("range")]
        return ", ".join(["identity", activation, *ranges])

    def settings_of(self, variant):
        return self.settings.get("sizes", {})


if __name__ == "__main__":
    SuperResolutionSmooth.main()
