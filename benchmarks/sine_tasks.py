"""The functions that `sine` fits, the networks that fit them, and their skips."""

import functools

import keras
import numpy as np
from keras import initializers, layers

from benchmarks import coordinates
from keras_gradres import models
from keras_gradres.layers import GradientResidual

POINTS = 1024
GRID = np.linspace(-1, 1, 401, dtype="float32")[:, None]


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
BASELINE = "identity"
LONGER = "identity, twice the steps"
SAME_TIME = ("identity, one block more", LONGER)
DEEP = [BASELINE, "gain, second order", "convex, alpha 3, second order"]
SECONDS = "seconds"  # In the place of a variant: how long a step of each takes.
# What is trained more, or another network, at about the time of second order.
CONTROLS = {
    "identity, one block more": {**IDENTITY, "more": 1},
    LONGER: {**IDENTITY, "longer": 2},
    "sine network": {"network": "siren"},
    "Fourier features": {"network": "fourier"},
}


def _skips():
    found = {
        "identity": IDENTITY,
        "scaled": {"residual": "scaled"},
        "none": {"residual": "none"},
    }
    gradients = {
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
    for name, arguments in gradients.items():
        found[name] = arguments
        found[name + SECOND] = {**arguments, "second_order": True}
    return found


SECOND = ", second order"
VARIANTS = _skips() | CONTROLS
# From what a verdict needs first to the rest, so that a part of them is of use.
CORE = [*DEEP, "identity, one block more", "additive, raw, second order"]
FIRST_ORDER = ["convex, alpha 3", "gain", "additive, raw"]
MORE = [LONGER, "sine network", "none", "Fourier features", "scaled"]
ALL = list(dict.fromkeys([*CORE, *MORE, *VARIANTS]))
TIMED = [name for name in ALL if name != LONGER]


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


def maker(run, variant):
    """A function of a seed that makes the compiled network of a run."""
    block, activation, _ = TASKS[run["task"]]

    def make(seed):
        model = network(block, activation, run["width"], run["blocks"], variant)
        model.compile(keras.optimizers.Adam(), "mse")
        return model

    return make


def data(run, seed):
    """Points of the training, and the grid of the test."""
    truth = TARGETS[TASKS[run["task"]][-1]]
    x = np.random.default_rng(seed).uniform(-1, 1, (POINTS, 1)).astype("float32")
    return (x, truth(x).astype("float32")), GRID
