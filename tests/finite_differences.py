"""Central differences in float64 of what the layer's mathematics is tested against.

No derivative of the library or of a framework is used here. Only TensorFlow computes
in float64 throughout (Keras rounds to float32 elsewhere), so the numbers are made
there and stored, and compared on all backends:

    KERAS_BACKEND=tensorflow python tests/finite_differences.py
"""

import functools
import pathlib

import keras
import numpy as np
from branches import BRANCHES
from helpers import frozen_state
from keras import layers, ops

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


@functools.cache  # A loss has the p of its branch for each residual.
def product(case, training):
    """p: the gradient of the sum of the branch's outputs, entry by entry."""
    layer = case.layer()
    total, moments = sum_before_trailing(case, layer.branch)
    total = frozen_state(layer, functools.partial(total, training=training))
    x = case.inputs().astype("float64")
    if training and moments:
        return entry_by_entry(total, x)
    # Samples are apart. So all entries of all of them are moved in one batch, in which
    # each sample is repeated for each of its entries.
    size = x[0].size
    moves = STEP * np.eye(size).reshape(size, *x.shape[1:])
    moves = np.tile(moves, (len(x), *(1 for _ in x.shape[1:])))
    repeated = x.repeat(size, axis=0)
    difference = total(repeated + moves) - total(repeated - moves)
    return (difference / (2 * STEP)).reshape(x.shape)


def entry_by_entry(total, x):
    p = np.zeros(x.shape)
    for index in np.ndindex(*x.shape):
        move = np.zeros(x.shape)
        move[index] = STEP
        p[index] = np.sum(total(x + move) - total(x - move)) / (2 * STEP)
    return p


def sum_before_trailing(case, branch):
    """The sum of each sample's outputs, and whether moments of the batch are in it."""
    if isinstance(branch, keras.Sequential):
        chain = flatten(branch)
        chain = inner = chain[: len(chain) - case.trailing]
    else:
        if case.trailing:
            cut = branch.layers[-case.trailing].input
            branch = keras.Model(branch.inputs, cut)
        chain, inner = [branch], getattr(branch, "layers", [])

    def total(x, training):
        x = ops.convert_to_tensor(x, dtype=keras.config.floatx())
        for layer in chain:
            x = layer(x, training=training)
        y = ops.convert_to_numpy(x)
        return y.reshape(len(y), -1).sum(axis=1)

    return total, any(isinstance(x, layers.BatchNormalization) for x in inner)


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
