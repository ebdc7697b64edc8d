"""Does the gradient residual approximate high frequencies better, with ReLU?

Trains a residual perceptron to be sin(2 pi f x) on [-1, 1], from random points, with
different skips: nothing, the identity, a trainable multiple of it, the magnitude of the
gradient, the gradient, and the convex mix with alpha started at -3, 0 and 3; the
gradient with unit norm and as it is ("raw"), and with gradients flowing through it
("second order") and not. The error is the mean square on a grid of 401 points.

The paper gives no sizes. `--sweep` trains the identity network with several, and the
settings here are those with which *it* does best at the middle frequency: large, and
with ReLU, whose second derivative is zero. Small networks with other activations are
in `sine.py`.

    KERAS_BACKEND=jax python -m benchmarks.sine_relu --budget cpu [--sweep]
"""

import itertools

import keras
import numpy as np

from benchmarks.functions import (
    BASELINE,
    LOG_ERROR,
    Factor,
    Functions,
    final,
    log_errors,
    with_second_order,
)
from benchmarks.tables import Value, mean_of
from keras_gradres import models
from keras_gradres.layers import GradientResidual

SIZES = ("units", "blocks", "activation")
SETTINGS = {"units": 64, "blocks": 4, "activation": "relu", "learning_rate": 1e-3}
SETTINGS |= {"steps": 3000, "batch": 128}
DIRECTED = {
    "gradient": {"residual": "gradient"},
    **{
        f"convex, alpha {alpha}": {"residual": "convex", "alpha": float(alpha)}
        for alpha in (-3, 0, 3)
    },
}


def halfway(result):
    return log_errors(result)[len(result["errors"]) // 2]


class SineRelu(Functions):
    variants = {
        BASELINE: {"residual": "identity"},
        "none (regular)": {"residual": "none"},
        "scaled": {"residual": "scaled"},
        **with_second_order(
            {
                "magnitude": {"residual": "magnitude"},
                **{
                    name + suffix: {**arguments, "normalize": not suffix}
                    for name, arguments in DIRECTED.items()
                    for suffix in ("", ", raw")
                },
            }
        ),
    }
    budgets = {
        "smoke": {"seeds": 2, "frequencies": [1], "evaluations": 4, **SETTINGS}
        | {"units": 16, "blocks": 1, "steps": 100}
        | {"variants": [BASELINE, "convex, alpha 0", "convex, alpha 0, second order"]},
        "cpu": {"seeds": 30, "frequencies": [2, 5, 8], "evaluations": 15, **SETTINGS},
        "gpu": {"seeds": 30, "frequencies": [2, 5, 8, 16, 32], "evaluations": 50}
        | {**SETTINGS, "steps": 50_000},
    }
    recorded = tuple(SETTINGS)
    swept = tuple(
        dict(zip((*SIZES, "learning_rate"), values, strict=True))
        for values in itertools.product(
            (32, 64), (2, 4), ("relu", "gelu", "tanh"), (1e-3, 3e-3)
        )
    )
    sweep_columns = (LOG_ERROR,)
    columns = (
        LOG_ERROR,
        Factor("factor", final),
        Factor("factor, halfway", halfway),
        Value("sigmoid(alpha)", mean_of("mix"), 3),
    )
    against = BASELINE
    note = (
        "factor: the geometric mean of the error in units of that of identity; below 1 "
        "is better. halfway: after half of the steps."
    )
    learned = (BASELINE, "none (regular)", *DIRECTED)
    drawn = {variant: f"C{i}" for i, variant in enumerate(learned)}

    def groups(self):
        frequencies = self.settings["frequencies"]
        if not self.sweep:
            return [{"frequency": frequency} for frequency in frequencies]
        middle = frequencies[len(frequencies) // 2]
        groups = [{"frequency": middle, **swept} for swept in self.swept]
        if self.results:  # The best first.
            groups.sort(key=lambda group: self.of(final, **group).mean())
        return groups

    def variants_of(self, group):
        return [BASELINE] if self.sweep else super().variants_of(group)

    def function(self, run):
        return lambda x: np.sin(2 * np.pi * run["frequency"] * x)

    def make(self, run, seed):
        sizes = {name: run[name] for name in SIZES}
        model = models.MLP(1, **sizes, **self.variants[run["variant"]])
        model.compile(keras.optimizers.Adam(run["learning_rate"]), "mse")
        return model

    def measure(self, run, found, model):
        result = super().measure(run, found, model)
        blocks = [m for m in model.layers if isinstance(m, GradientResidual)]
        if blocks[0].mix is not None:
            result["mix"] = [block.mix for block in blocks]
        return result

    def heading(self, group):
        return f"Frequency {group['frequency']}"


if __name__ == "__main__":
    SineRelu.main()
