"""What cannot work raises, at the earliest moment, and names the way out."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_gradres.layers import (
    GradientResidual,
    GradientResidualConv,
    GradientResidualDense,
)

INPUTS = [keras.Input((4,)), keras.Input((4,))]


def _dense():
    return layers.Dense(4)


@pytest.mark.parametrize(
    ("error", "match", "kwargs"),
    [
        (TypeError, "`branch` must be a Keras layer", {"branch": "relu"}),
        (TypeError, "`branch` must be a Keras layer", {"branch": ops.relu}),
        (TypeError, "non-empty list", {"branch": []}),
        (TypeError, "non-empty list", {"branch": [_dense(), 3]}),
        (
            ValueError,
            "one input and one output.*with 2 outputs",
            {
                "branch": keras.Model(
                    INPUTS[0], [_dense()(INPUTS[0]), _dense()(INPUTS[0])]
                )
            },
        ),
        (
            ValueError,
            "one input and one output.*with 2 inputs",
            {"branch": keras.Model(INPUTS, layers.Add()(INPUTS))},
        ),
        (
            ValueError,
            "'convex', 'gradient'.*Received: residual=sum",
            {"residual": "sum"},
        ),
        (ValueError, "`alpha` must be finite. Received: alpha=nan", {"alpha": np.nan}),
        (ValueError, "`alpha` must be finite", {"alpha": -np.inf}),
        (ValueError, "batch axis 0. Received: axis=0", {"axis": 0}),
        (ValueError, "batch axis 0", {"axis": (0, 1)}),
        (ValueError, "must be an int", {"axis": 1.5}),
        (ValueError, "must be an int", {"axis": ()}),
        (ValueError, "`epsilon` must be.*Received: epsilon=0", {"epsilon": 0.0}),
        (ValueError, "`epsilon` must be", {"epsilon": -1e-3}),
        (ValueError, "`epsilon` must be", {"epsilon": np.inf}),
        (ValueError, "`epsilon` must be", {"epsilon": np.nan}),
        (TypeError, "`shortcut` must be a Keras layer", {"shortcut": "same"}),
        (
            ValueError,
            "`shortcut` cannot be used with residual='none'",
            {"residual": "none", "shortcut": layers.Identity()},
        ),
    ],
)
def test_constructor(error, match, kwargs):
    with pytest.raises(error, match=match):
        GradientResidual(**{"branch": _dense(), **kwargs})


@pytest.mark.parametrize("axis", [2, -2, -3, (1, -1)])
def test_axis_of_the_built_layer(axis):
    with pytest.raises(ValueError, match=r"Received: axis=.*inputs of rank 2"):
        GradientResidual(_dense(), axis=axis).build((None, 4))


def test_input_without_features():
    with pytest.raises(ValueError, match="inputs of rank 1"):
        GradientResidual(layers.Identity()).build((None,))


def test_shapes_that_differ():
    message = r"Give a `shortcut`.*\(None, 3\).*\(None, 4\)"
    with pytest.raises(ValueError, match=message):
        GradientResidual(layers.Dense(3)).build((None, 4))
    message = r"\(None, 3\).*\(None, 5\)"
    with pytest.raises(ValueError, match=message):
        GradientResidual(layers.Dense(3), shortcut=layers.Dense(5)).build((None, 4))
    GradientResidual(layers.Dense(3), shortcut=layers.Dense(3)).build((None, 4))
    GradientResidual(layers.Dense(3), residual="none").build((None, 4))


def test_branch_with_two_outputs_of_its_own():
    class Two(keras.Layer):
        def call(self, x):
            return x, x

    with pytest.raises(ValueError, match="`branch` must have one output"):
        GradientResidual(Two()).build((None, 4))


def test_integer_inputs():
    layer = GradientResidual(_dense())
    for inputs in (keras.Input((4,), dtype="int32"), np.ones((2, 4), "int32")):
        with pytest.raises(TypeError, match=r"floating-point.*int32"):
            layer(inputs)


def test_mix_before_build():
    layer = GradientResidual(_dense(), name="early")
    with pytest.raises(ValueError, match="Layer 'early' has no `mix` before"):
        _ = layer.mix


@pytest.mark.parametrize("value", [0, -1, 1.5, "3", True])
def test_sizes_of_the_blocks(value):
    with pytest.raises(ValueError, match="`units` must be a positive integer"):
        GradientResidualDense(units=value)
    with pytest.raises(ValueError, match="`filters` must be a positive integer"):
        GradientResidualConv(filters=value)
    with pytest.raises(ValueError, match="`kernel_size` must be a positive integer"):
        GradientResidualConv(kernel_size=(3, value))


def test_inputs_of_the_blocks():
    with pytest.raises(ValueError, match="`data_format` must be"):
        GradientResidualConv(data_format="first")
    with pytest.raises(ValueError, match="one, two or three axes"):
        GradientResidualConv().build((None, 4))
    with pytest.raises(ValueError, match="The size of axis -1 of the inputs"):
        GradientResidualDense().build((None, None))
    with pytest.raises(ValueError, match="Give a `shortcut`"):
        GradientResidualDense(3).build((None, 4))
