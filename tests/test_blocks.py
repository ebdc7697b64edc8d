"""The two blocks are the layer around the branch that their names say."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_gradres.layers import (
    GradientResidual,
    GradientResidualConv,
    GradientResidualDense,
)

BLOCKS = {
    "dense": (
        GradientResidualDense(activation="tanh"),
        lambda: [layers.Dense(4, activation="tanh"), layers.Dense(4)],
        (3, 4),
    ),
    "wider": (
        GradientResidualDense(6, use_bias=False, shortcut=layers.Dense(6), alpha=1.0),
        lambda: [
            layers.Dense(6, activation="relu", use_bias=False),
            layers.Dense(6, use_bias=False),
        ],
        (3, 2, 4),
    ),
    "1d": (
        GradientResidualConv(kernel_size=5, residual="additive"),
        lambda: [
            layers.Conv1D(4, 5, padding="same", activation="relu"),
            layers.Conv1D(4, 5, padding="same"),
        ],
        (2, 7, 4),
    ),
    "2d": (
        GradientResidualConv(6, (3, 1), "gelu", shortcut=layers.Conv2D(6, 1)),
        lambda: [
            layers.Conv2D(6, (3, 1), padding="same", activation="gelu"),
            layers.Conv2D(6, (3, 1), padding="same"),
        ],
        (2, 5, 4, 4),
    ),
    "3d": (
        GradientResidualConv(axis=None),
        lambda: [
            layers.Conv3D(2, 3, padding="same", activation="relu"),
            layers.Conv3D(2, 3, padding="same"),
        ],
        (1, 3, 4, 3, 2),
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_block_is_the_layer_around_its_branch(name):
    block, branch, shape = BLOCKS[name]
    block = type(block).from_config(block.get_config())
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    found = ops.convert_to_numpy(block(x))
    layer = GradientResidual(
        branch(), block.residual, axis=block.axis, shortcut=block.shortcut
    )
    layer.build(shape)
    layer.branch.set_weights(block.branch.get_weights())
    if block.alpha is not None:
        layer.alpha.assign(block.alpha)
    np.testing.assert_allclose(
        found, ops.convert_to_numpy(layer(x)), rtol=1e-5, atol=1e-6
    )
    assert block.parts == {
        "closed_form": ["first"],
        "affine_tail": ["second"],
        "trailing": [],
        "automatic_differentiation": [],
    }


@pytest.mark.parametrize("name", BLOCKS)
def test_config_round_trip(name):
    block, _, shape = BLOCKS[name]
    for made in (block, type(block)(**_arguments(block))):
        config = made.get_config()
        assert type(block).from_config(config).get_config() == config
    built = type(block).from_config(block.get_config())
    output = built(np.zeros(shape, "float32"))
    assert block.compute_output_shape(shape) == tuple(output.shape)


def _arguments(block):
    arguments = {
        "activation": "tanh",
        "use_bias": False,
        "kernel_initializer": keras.initializers.HeNormal(seed=3),
        "bias_initializer": "ones",
        "kernel_regularizer": keras.regularizers.L2(1e-3),
        "bias_regularizer": "l1",
        "residual": "scaled",
        "second_order": True,
    }
    if isinstance(block, GradientResidualConv):
        arguments["data_format"] = "channels_first"
    return arguments


def test_keras_arguments_reach_both_layers():
    block = GradientResidualDense(
        kernel_initializer=keras.initializers.RandomNormal(),
        bias_initializer="ones",
        kernel_regularizer=keras.regularizers.L2(0.1),
        dtype="mixed_bfloat16",
    )
    block.build((None, 8))
    first, second = block.branch.layers
    # The same initializer, and not the same values.
    assert np.abs(first.get_weights()[0] - second.get_weights()[0]).max() > 1e-3
    for layer in (first, second):
        assert (layer.get_weights()[1] == 1).all()
        assert layer.compute_dtype == "bfloat16"
    squares = sum(np.sum(k.get_weights()[0] ** 2) for k in (first, second))
    losses = [float(ops.convert_to_numpy(loss)) for loss in block.losses]
    np.testing.assert_allclose(sum(losses), 0.1 * squares, rtol=1e-5)


def test_channels_first_takes_the_norm_over_the_channels():
    assert GradientResidualConv(data_format="channels_first").axis == 1
    assert GradientResidualConv(data_format="channels_last").axis == -1
    assert GradientResidualConv(data_format="channels_first", axis=None).axis is None
