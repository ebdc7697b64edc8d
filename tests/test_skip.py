"""The terms of the skip as functions, over many shapes and over extreme values."""

import keras
import numpy as np
import pytest
from helpers import gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

from keras_gradres.layers import GradientResidual, GradientResidualDense, skip

SHAPES = st.lists(st.integers(1, 5), min_size=2, max_size=4)


@settings(max_examples=30, deadline=None)
@given(shape=SHAPES, seed=st.integers(0, 99), exponent=st.integers(-30, 30))
def test_norms_of_any_shape_and_size(shape, seed, exponent):
    # In NumPy and float64; epsilon is one of the values that the norms pass.
    rng = np.random.default_rng(seed)
    p = (rng.normal(size=shape) * 10.0**exponent).astype("float32")
    axis = tuple(range(1, len(shape))) if seed % 2 else len(shape) - 1
    norm = np.sqrt(np.sum(p.astype("float64") ** 2, axis=axis, keepdims=True))
    p = ops.convert_to_tensor(p)
    r = ops.convert_to_numpy(skip.inverse_norm(p, axis, 1e-12))
    np.testing.assert_allclose(r, 1 / np.maximum(norm, 1e-12), rtol=1e-5)
    found = ops.convert_to_numpy(skip.norm(p, axis, 1e-12))
    expected = np.broadcast_to(norm, shape)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-31)


@settings(max_examples=10, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 4), max_size=2),
    batch=st.integers(1, 3),
    units=st.integers(1, 5),
)
def test_dense_block_of_any_shape(sizes, batch, units):
    # F(x) = W2 tanh(W1 x): p = W1 ((1 - tanh^2) * W2 1), in NumPy.
    shape = (batch, *sizes, units)
    layer = GradientResidualDense(activation="tanh", residual="gradient")
    layer.build((None, *shape[1:]))
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    w1, b1, w2, b2 = layer.get_weights()
    h = np.tanh(x @ w1 + b1)
    p = ((1 - h**2) * w2.sum(axis=1)) @ w1.T
    expected = h @ w2 + b2 + p / np.linalg.norm(p, axis=-1, keepdims=True)
    np.testing.assert_allclose(
        ops.convert_to_numpy(layer(x)), expected, rtol=1e-3, atol=1e-4
    )


def test_derivatives_where_norms_are_small_or_tied():
    # d/dp of r p = p / max(|p|, epsilon), with epsilon = 1, by hand:
    # below it I; above it (I - g g^T) / |p|, which is 0 along p; zero for one entry.
    def derivative(row, function):
        p = keras.Variable(np.array([row], "float32"))
        (found,) = gradients(lambda: ops.sum(function(p + 0.0)), [p])
        return found[0]

    def unit(p):
        return p * skip.inverse_norm(p, -1, 1.0)

    def norm(p):
        return skip.norm(p, -1, 1e-12)

    np.testing.assert_allclose(derivative([0.3, 0.4], unit), [1, 1], rtol=1e-6)
    # g = (0.6, 0.8): the rows of (I - g g^T) / 5 sum to (1 - 1.4 g) / 5.
    np.testing.assert_allclose(derivative([3.0, 4.0], unit), [0.032, -0.024], rtol=1e-5)
    np.testing.assert_allclose(derivative([5.0], unit), [0], atol=1e-6)
    np.testing.assert_allclose(derivative([0.0, 0.0], unit), [1, 1], rtol=1e-6)
    # The norm is broadcast to two entries: 2 g, and 0 at 0.
    np.testing.assert_allclose(derivative([3.0, 4.0], norm), [1.2, 1.6], rtol=1e-5)
    np.testing.assert_allclose(derivative([0.0, 0.0], norm), [0, 0])


class Scaled(keras.Layer):
    """x times a trainable factor, with a gradient of any size."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def build(self, input_shape):
        self.w = self.add_weight(shape=(), initializer="ones")

    def call(self, x):
        return self.factor * self.w * x

    def compute_output_shape(self, input_shape):
        return input_shape


BRANCHES = {
    "relu": lambda: [layers.Dense(6, activation="relu"), layers.Dense(4)],
    "norm": lambda: [layers.LayerNormalization(), layers.Dense(4, activation="tanh")],
    "zero": lambda: Scaled(0.0),
    "constant": lambda: layers.Lambda(lambda x: ops.ones_like(x)),
    "subnormal": lambda: Scaled(1e-40),
    "large": lambda: Scaled(1e30),
}


@pytest.mark.parametrize("residual", ["convex", "gradient", "additive", "magnitude"])
@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("size", [0.0, 1.0, 1e30, 1e-40])
@pytest.mark.parametrize("name", BRANCHES)
def test_extreme_values_stay_finite(name, size, second_order, residual):
    layer = GradientResidual(BRANCHES[name](), residual, second_order=second_order)
    layer.build((None, 4))
    x = keras.Variable(np.array([[1.0, -2.0, 0.5, 3.0]], "float32") * size)
    if not np.isfinite(ops.convert_to_numpy(layer.branch(x + 0.0))).all():
        pytest.skip("the branch itself overflows")
    outputs = ops.convert_to_numpy(layer(x + 0.0))
    assert np.isfinite(outputs).all()
    variables = [x, *layer.trainable_variables]
    for found in gradients(lambda: ops.sum(layer(x + 0.0)), variables):
        assert np.isfinite(found).all()
