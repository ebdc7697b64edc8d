"""The contract of `keras_gradres.backend`, as its package docstring states it."""

import gc
import os
import subprocess
import sys
import weakref

import keras
import numpy as np
import pytest
from backend_cases import X, tensor
from helpers import frozen_state, gradients, penalty, to_numpy, vjp
from keras import layers, ops

from keras_gradres.layers import GradientResidual


def _built(layer, shape=(None, 2)):
    layer.build(shape)
    return layer


def _square():
    """Y = x^2 W: y and J^T c = 2 x (W c) can be worked by hand."""

    class Square(keras.Layer):
        def build(self, input_shape):
            self.w = self.add_weight(shape=(2, 2), name="w")
            self.w.assign([[1.0, 2.0], [3.0, 4.0]])

        def call(self, x):
            return ops.matmul(ops.square(x), self.w)

    return _built(Square())


@pytest.mark.parametrize("second_order", [False, True])
def test_value_and_product(second_order):
    # c = (1, 10): W c = (21, 43), J^T c = 2 x (21, 43).
    c = np.array([[1.0, 10.0]], "float32")
    expected = 2 * X * np.array([21, 43])
    for cotangent in (tensor(c), lambda y: ops.broadcast_to(tensor(c), ops.shape(y))):
        y, p = vjp(
            _square(), tensor(), cotangent, second_order=second_order, training=True
        )
        np.testing.assert_allclose(to_numpy(y), X**2 @ [[1, 2], [3, 4]], rtol=1e-6)
        np.testing.assert_allclose(to_numpy(p), expected, rtol=1e-6)


def test_orders_of_the_gradient():
    # Loss sum(p): with c = (1, 1), p = 2 x (3, 7), d/dx = 2 (3, 7), and
    # d/dw_ij = 2 sum_n x_ni. Loss sum(y): d/dx = p, d/dw_ij = sum_n x_ni^2.
    layer = _square()
    x = keras.Variable(X)

    def loss(which, second_order):
        def call():
            result = vjp(layer, x + 0.0, ops.ones_like, second_order=second_order)
            return ops.sum(result[which])

        return call

    def column(v):
        return np.stack([v, v], axis=1)

    for second_order in (False, True):
        dx, dw = gradients(loss(0, second_order), [x, layer.w])
        np.testing.assert_allclose(dx, 2 * X * [3, 7], rtol=1e-6)
        np.testing.assert_allclose(dw, column((X**2).sum(0)), rtol=1e-6)
    dx, dw = gradients(loss(1, True), [x, layer.w])
    np.testing.assert_allclose(dx, 2 * np.ones_like(X) * [3, 7], rtol=1e-6)
    np.testing.assert_allclose(dw, column(2 * X.sum(0)), rtol=1e-6)

    def both():  # The product alone may not be connected to anything.
        y, p = vjp(layer, x + 0.0, ops.ones_like)
        return ops.sum(p) + 0.0 * ops.sum(y)

    dx, dw = gradients(both, [x, layer.w])
    assert not dx.any()
    assert not dw.any()


def test_gradient_flows_to_the_cotangent_at_second_order():
    # sum(p) = sum 2 x (W c): d/dc_j = sum_n,i 2 x_ni w_ij.
    c = keras.Variable(np.ones((1, 2), "float32"))
    layer = _square()

    def loss():
        y, p = vjp(layer, tensor(), c + 0.0, second_order=True)
        return ops.sum(p) + 0.0 * ops.sum(y)

    (dc,) = gradients(loss, [c])
    np.testing.assert_allclose(dc[0], 2 * X.sum(0) @ [[1, 2], [3, 4]], rtol=1e-6)


def test_constant_layer_has_zero_product():
    for layer in (
        layers.Lambda(lambda x: ops.zeros_like(x)),
        layers.Lambda(lambda x: ops.stop_gradient(x)),
    ):
        _, p = vjp(_built(layer), tensor(), ops.ones_like)
        np.testing.assert_array_equal(to_numpy(p), np.zeros_like(X))


class Counting(keras.Layer):
    """Counts its calls and adds a loss; a state that no other layer helps to move."""

    def build(self, input_shape):
        self.count = self.add_weight(shape=(), trainable=False, initializer="zeros")

    def call(self, x):
        self.count.assign(self.count + 1)
        self.add_loss(ops.sum(x))
        return ops.square(x)

    def compute_output_shape(self, input_shape):
        return input_shape


def test_layer_is_called_once():
    branch = keras.Sequential(
        [
            layers.Dense(2, activity_regularizer="l2"),
            Counting(),
            layers.BatchNormalization(),
            layers.Dropout(0.5, seed=3),
        ]
    )
    _built(branch)
    initial = [np.array(v.numpy()) for v in branch.variables]

    def state(call):
        for v, value in zip(branch.variables, initial, strict=True):
            v.assign(value)
        call()
        return [np.array(v.numpy()) for v in branch.variables]

    expected = state(lambda: branch(tensor(), training=True))
    found = state(lambda: vjp(branch, tensor(), ops.ones_like, training=True))
    assert any((a != b).any() for a, b in zip(initial, expected, strict=True))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert branch.layers[1].count.numpy() == 1


def test_losses_are_kept():
    dense = layers.Dense(2, activity_regularizer=keras.regularizers.L2(0.1))
    layer = _built(keras.Sequential([dense, layers.Dense(2)]))
    kernel, bias = dense.get_weights()
    expected = penalty(X @ kernel + bias)
    vjp(layer, tensor(), ops.ones_like)
    losses = [to_numpy(loss) for loss in layer.losses]
    np.testing.assert_allclose(losses, [expected], rtol=1e-5)


def test_losses_keep_their_ids():
    # Keras remembers losses by `id`, for longer than it holds them. Were the ids free
    # to be reused, the next step would now and then miss a loss.
    if keras.backend.backend() != "jax":
        pytest.skip("losses outlive the scope that collected them on JAX only")
    dense = layers.Dense(2, activity_regularizer=keras.regularizers.L2(0.1))
    layer = _built(keras.Sequential([dense]))
    scope = keras.StatelessScope(collect_losses=True)
    with scope:
        vjp(layer, tensor(), ops.ones_like)
    losses = [weakref.ref(loss) for loss in scope.losses]
    assert len(losses) == 1
    del scope
    gc.collect()
    assert losses[0]() is not None


def test_float32_layer_in_a_half_precision_layer_keeps_its_weights():
    # 1 + 2^-12 rounds to 1 in bfloat16, the compute dtype of the layer around it.
    kernel = np.array([[1 + 2.0**-12]], "float32")
    inner = _built(layers.Dense(1, use_bias=False, dtype="float32"), (None, 1))
    inner.set_weights([kernel])
    found = []

    class Outer(keras.Layer):
        def call(self, x):
            x = ops.cast(x, "float32")
            found.extend(vjp(inner, x, ops.ones_like))
            return x

    Outer(dtype="mixed_bfloat16")(np.ones((1, 1)))
    for value in found:
        np.testing.assert_array_equal(to_numpy(value), kernel)


def test_cotangent_has_the_dtype_of_the_output():
    for dtype in ("float16", "bfloat16"):
        layer = _built(layers.Dense(2, dtype=dtype, activation="relu"))
        y, p = vjp(layer, tensor(dtype=dtype), tensor(np.ones((1, 2))))
        assert keras.backend.standardize_dtype(y.dtype) == dtype
        assert keras.backend.standardize_dtype(p.dtype) == dtype


@pytest.mark.parametrize("second_order", [False, True])
def test_rematerialization(second_order):
    # The same gradients, whether the layer is rematerialized or not.
    layer = GradientResidual(
        [layers.Dense(5, activation="tanh"), layers.Dense(2)],
        second_order=second_order,
    )
    layer.build(X.shape)
    x = keras.Variable(X)
    variables = [x, *layer.trainable_variables]

    def plain():
        return ops.sum(ops.square(layer(x + 0.0)))

    with keras.RematScope(mode="full"):
        scoped = GradientResidual.from_config(
            {**layer.get_config(), "branch": layer.branch}
        )
    scoped.build(X.shape)
    scoped.alpha.assign(layer.alpha)
    expected = gradients(plain, variables)
    found = gradients(
        lambda: ops.sum(ops.square(scoped(x + 0.0))), [x, *scoped.trainable_variables]
    )
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_no_gradient_is_left_where_none_is_recorded():
    if keras.backend.backend() != "torch":
        pytest.skip("only PyTorch switches recording off")
    import torch

    layer = GradientResidual([layers.Dense(3, activation="tanh"), layers.Dense(2)])
    expected = to_numpy(layer(X))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            x = torch.tensor(X)
            y = layer(x)
        assert not y.requires_grad
        np.testing.assert_allclose(to_numpy(y), expected, rtol=1e-6)


def test_unrecorded_outer_gradient_of_a_constant_input():
    # The input of the first layer of a model requires no gradient.
    layer = GradientResidual([layers.Dense(3, activation="tanh"), layers.Dense(2)])
    layer.build(X.shape)
    found = gradients(lambda: ops.sum(layer(X)), layer.trainable_variables)
    assert all(np.abs(g).max() > 0 for g in found)


@pytest.mark.parametrize("name", ["numpy", "openvino"])
def test_backends_without_gradients(name):
    # Keras's numpy backend imports jax.
    pytest.importorskip({"numpy": "jax"}.get(name, name))
    # In closed form: tanh(x w), w = 1, has p = 1 - tanh(x)^2, and g = 1.
    code = (
        "import numpy, keras, keras_gradres\n"
        "gal = keras_gradres.optimizers.GAL('sgd')\n"
        "loss = gal.loss('mse')\n"
        "assert loss(numpy.ones((1, 2)), numpy.zeros((1, 2))) == 1\n"
        "x = numpy.array([[0.5]], 'float32')\n"
        "dense = keras.layers.Dense(1, 'tanh', kernel_initializer='ones')\n"
        "layer = keras_gradres.layers.GradientResidual(dense)\n"
        "y = keras.ops.convert_to_numpy(layer(x))\n"
        "assert abs(y - (numpy.tanh(0.5) + 0.25 + 0.5)) < 1e-6\n"
        "lstm = keras.layers.LSTM(2, return_sequences=True, name='the_cause')\n"
        "layer = keras_gradres.layers.GradientResidual(lstm)\n"
        "layer.build((None, 3, 2))\n"
        "layer(numpy.ones((1, 3, 2), 'float32'))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "KERAS_BACKEND": name},
        capture_output=True,
        text=True,
    )
    assert "NotImplementedError" in run.stderr
    assert f"'{name}' cannot differentiate" in run.stderr
    assert "'the_cause' (of type LSTM)" in run.stderr


def test_nested_state_moves_once():
    inner = GradientResidual([layers.Dense(2), Counting(), layers.Dense(2)])
    outer = GradientResidual([inner, layers.Activation("tanh"), layers.Dense(2)])
    outer.build(X.shape)
    frozen_state(outer, lambda: None)()
    outer(X, training=True)
    assert inner.branch.layers[1].count.numpy() == 1
