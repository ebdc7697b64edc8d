"""Central differences in float64 of what the layer's mathematics is tested against.

No derivative of the library or of a framework is used here. Only TensorFlow computes
in float64 throughout (Keras rounds to float32 elsewhere), so the numbers are made
there and stored, and compared on all backends:

    KERAS_BACKEND=tensorflow python tests/finite_differences.py
"""

import pathlib

import keras
import numpy as np
from branches import BRANCHES
from helpers import frozen_state
from keras import ops

PATH = pathlib.Path(__file__).with_suffix(".npz")
# Where a training loss is differentiated, one branch of each kind is enough.
TRAINED = ("dense", "batch norm inside", "srresnet", "attention", "parallel", "nested")
RESIDUALS = ("convex", "magnitude")
DIRECTIONS = 3
STEP = 1e-6


def reference():
    """All numbers, by name."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        numbers = {}
        for name, case in BRANCHES.items():
            for training in (False, True):
                if name != "dropout" or not training:  # Random on each backend.
                    numbers[f"{name}/{training}/p"] = product(case, training)
        for name in TRAINED:
            for residual in RESIDUALS:
                for order in (1, 2):
                    numbers[f"{name}/{residual}/{order}"] = loss_slopes(
                        BRANCHES[name], residual, order
                    )
    finally:
        keras.config.set_dtype_policy("float32")
        keras.config.set_floatx("float32")
    return numbers


def product(case, training):
    """p: the gradient of the sum of the branch's outputs, entry by entry."""
    layer = case.layer()
    x = keras.Variable(case.inputs(), dtype=keras.config.floatx())
    total = frozen_state(
        layer, lambda: sum_before_trailing(case, layer.branch, x + 0.0, training)
    )
    p = np.zeros(case.shape)
    for index in np.ndindex(*case.shape):
        direction = np.zeros(case.shape)
        direction[index] = 1
        p[index] = slope(total, [x], [direction])
    return p


def sum_before_trailing(case, branch, x, training):
    if not isinstance(branch, keras.Sequential):
        if case.trailing:
            cut = branch.layers[-case.trailing].input
            branch = keras.Model(branch.inputs, cut)
        return ops.sum(branch(x, training=training))
    chain = flatten(branch)
    for layer in chain[: len(chain) - case.trailing]:
        x = layer(x, training=training)
    return ops.sum(x)


def flatten(layer):
    if not isinstance(layer, keras.Sequential):
        return [layer]
    return [*layer.layers[:-1], *flatten(layer.layers[-1])]


def training_loss(case, layer, x):
    """Half the mean square error in training mode, against fixed targets."""
    shape = layer.compute_output_shape(tuple(x.shape))
    targets = ops.cast(np.random.default_rng(2).normal(size=shape), x.dtype)

    def loss():
        return ops.mean(ops.square(layer(x + 0.0, training=True) - targets)) / 2

    return frozen_state(layer, loss)


def loss_slopes(case, residual, order):
    """Slopes of the training loss along random directions of input and weights.

    For order 1, of a loss written anew, with p as it is at the point of expansion.
    """
    layer = case.layer(residual=residual)
    x = keras.Variable(case.inputs(), dtype=keras.config.floatx())
    loss = training_loss(case, layer, x)
    if order == 1:
        p = product(case, training=True)
        norm = np.linalg.norm(p, axis=-1, keepdims=True)

        def frozen(inputs, training):
            skip = norm
            if residual == "convex":
                s = ops.sigmoid(layer.alpha)
                skip = (1 - s) * inputs + s * (p / norm)
            return layer.branch(inputs, training=training) + skip

        frozen.compute_output_shape = layer.compute_output_shape
        frozen.variables = layer.variables
        loss = training_loss(case, frozen, x)
    variables = [x, *layer.trainable_variables]
    return np.array(
        [slope(loss, variables, directions(variables, i)) for i in range(DIRECTIONS)]
    )


def directions(variables, seed):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=v.shape) for v in variables]


def slope(function, variables, directions):
    centers = [np.array(v.numpy()) for v in variables]

    def at(t):
        for v, center, direction in zip(variables, centers, directions, strict=True):
            v.assign(center + t * direction)
        return float(ops.convert_to_numpy(function()))

    difference = (at(STEP) - at(-STEP)) / (2 * STEP)
    at(0.0)
    return difference


if __name__ == "__main__":
    np.savez_compressed(PATH, **reference())
