"""The functions that `sine` fits, the networks that fit them, and their skips."""

import functools

import keras
import numpy as np
from keras import initializers, layers

from benchmarks import coordinates
from benchmarks.functions import BASELINE, with_second_order
from keras_gradres import models
from keras_gradres.layers import GradientResidual


def piecewise(x):
    return np.where(x < 0, np.sin(8 * np.pi * x), np.sin(0.5 * np.pi * x))


def sine(frequency):
    return lambda x: np.sin(2 * np.pi * frequency * x)


TARGETS = {f"f = {f}": sine(f) for f in (1, 4, 5)} | {"piecewise": piecewise}
# The kind of block, the activation and the target.
TASKS = {
    "single-layer blocks, tanh, f = 5": ("single", "tanh", "f = 5"),
    "two-layer blocks, GELU, f = 4": ("mlp", "gelu", "f = 4"),
    "two-layer blocks, tanh, f = 4": ("mlp", "tanh", "f = 4"),
    "single-layer blocks, tanh, piecewise": ("single", "tanh", "piecewise"),
    "two-layer blocks, GELU, piecewise": ("mlp", "gelu", "piecewise"),
    "single-layer blocks, GELU, f = 5": ("single", "gelu", "f = 5"),
    "single-layer blocks, tanh, f = 1": ("single", "tanh", "f = 1"),
}
FIRST, GELU, TANH, *OTHERS, SMOKE = TASKS
SIZES = {"width": 16, "blocks": 2}
IDENTITY = {"residual": "identity"}
ONE_MORE = "identity, one block more"
LONGER = "identity, twice the steps"
DEEP = [BASELINE, "gain, second order", "convex, alpha 3, second order"]
# At last what is trained more, or another network, at about the time of second order.
VARIANTS = {
    BASELINE: IDENTITY,
    "scaled": {"residual": "scaled"},
    "none": {"residual": "none"},
    **with_second_order(
        {
            "magnitude": {"residual": "magnitude"},
            "gradient": {"residual": "gradient"},
            "gradient, raw": {"residual": "gradient", "normalize": False},
            "additive": {"residual": "additive"},
            "additive, raw": {"residual": "additive", "normalize": False},
            "convex, alpha -3": {"residual": "convex", "alpha": -3.0},
            "convex, alpha 0": {"residual": "convex", "alpha": 0.0},
            "convex, alpha 3": {"residual": "convex", "alpha": 3.0},
            "gain": {"residual": "gain"},
        }
    ),
    ONE_MORE: {**IDENTITY, "more": 1},
    LONGER: {**IDENTITY, "longer": 2},
    "sine network": {"network": "siren"},
    "Fourier features": {"network": "fourier"},
}
# From what a verdict needs first to the rest, so that a part of them is of use.
CORE = [*DEEP, ONE_MORE, "additive, raw, second order"]
FIRST_ORDER = ["convex, alpha 3", "gain", "additive, raw"]
MORE = [LONGER, "sine network", "none", "Fourier features", "scaled"]
ALL = list(dict.fromkeys([*CORE, *MORE, *VARIANTS]))
TIMED = [name for name in ALL if name != LONGER]
# The task, the variants, and the width and the blocks where they are not `SIZES`.
PARTS = [
    *((task, CORE) for task in (FIRST, GELU, TANH)),
    (FIRST, MORE[:3]),
    *((task, FIRST_ORDER) for task in (FIRST, GELU)),
    *((FIRST, DEEP, 16, blocks) for blocks in (1, 3, 4, 6)),
    *((task, MORE) for task in (GELU, TANH)),
    *((task, ALL) for task in (FIRST, GELU, TANH)),
    *((task, CORE) for task in OTHERS),
    *((FIRST, DEEP, 32, blocks) for blocks in (1, 2, 3, 4, 6)),
]


def network(block, activation, width, blocks, variant):
    """A model from one number to one.

    Args:
        block: "single", for F = act(W x + b) after a first layer with the activation,
            or "mlp", for `models.MLP`, whose F has two layers.
        activation: Its name.
        width: Units of each layer.
        blocks: The number of blocks.
        variant: A key of `VARIANTS`. The last two have the same number of parameters.
    """
    arguments = dict(VARIANTS[variant])
    arguments.pop("longer", None)
    blocks += arguments.pop("more", 0)
    hidden = blocks if block == "single" else 2 * blocks
    kind = arguments.pop("network", block)
    if kind == "siren":
        return coordinates.siren(1, 1, width, hidden)
    if kind == "mlp":
        sizes = {"units": width, "blocks": blocks, "activation": activation}
        return models.MLP(1, **sizes, **arguments)
    x = inputs = keras.Input((1,))
    if kind == "fourier":
        x = coordinates.FourierFeatures(width // 2 + 1, scale=5.0)(x)
        for _ in range(hidden):
            x = layers.Dense(width, activation=activation)(x)
    else:
        x = dense(width, 1, activation=activation)(x)
        for _ in range(hidden):
            branch = [dense(width, width, activation=activation)]
            x = GradientResidual(branch, **arguments)(x)
    return keras.Model(inputs, dense(1, width)(x))


def dense(units, inputs, **kwargs):
    """Weights and biases uniform up to 1 / sqrt(inputs), as PyTorch has them."""
    uniform = functools.partial(
        initializers.RandomUniform, -(inputs**-0.5), inputs**-0.5
    )
    return layers.Dense(
        units, kernel_initializer=uniform(), bias_initializer=uniform(), **kwargs
    )
