"""Rounding noise never passes for a gradient.

The sum of a branch's outputs may not depend on its input. Then the gradient is taken
before the normalization that is the cause, or the layer raises.
"""

import keras
import numpy as np
import pytest
from helpers import gradients, to_numpy
from keras import layers, ops

from keras_gradres.layers import GradientResidual, GradientResidualDense

X = np.random.default_rng(0).normal(size=(16, 8)).astype("float32")


def dense(**kwargs):
    return layers.Dense(8, **kwargs)


def tanh():
    return dense(activation="tanh")


def norm(name="norm"):
    return layers.BatchNormalization(name=name)


class Centered(keras.Layer):
    """A layer of a user's, which takes out the mean of the features."""

    def call(self, x):
        return x - ops.mean(x, axis=-1, keepdims=True)

    def compute_output_shape(self, input_shape):
        return input_shape


class Subclassed(keras.Model):
    """A model whose calls cannot be seen from outside."""

    def __init__(self):
        super().__init__()
        self.parts = [tanh(), norm()]

    def call(self, x, training=None):
        return self.parts[1](self.parts[0](x), training=training)

    def compute_output_shape(self, input_shape):
        return input_shape


def functional(function):
    x = keras.Input((8,))
    return keras.Model(x, function(x))


def in_a_sequence(layer):
    return [layers.Reshape((2, 4)), layers.TimeDistributed(layer), layers.Reshape((8,))]


# What ends in a normalization: p is that of the sum before it, of what is named here.
BEFORE = {
    "batch norm": (lambda: [tanh(), norm()], 1),
    "layer norm and a scale": (
        lambda: [tanh(), layers.LayerNormalization(), layers.Rescaling(0.1)],
        1,
    ),
    "nested": (
        lambda: [keras.Sequential([tanh(), dense()]), keras.Sequential([norm()])],
        1,
    ),
    "two normalizations": (lambda: [tanh(), norm(), layers.Softmax()], 1),
    "softmax as a layer": (lambda: [tanh(), layers.Softmax()], 1),
    "reshaped": (
        lambda: [tanh(), layers.Reshape((2, 4)), layers.GroupNormalization(1),
                 layers.Flatten()],
        1,
    ),
    "functional": (
        lambda: functional(lambda x: layers.LayerNormalization()(tanh()(x))),
        1,
    ),
}  # fmt: skip


def before_normalization(branch):
    """The layers up to the first normalization, by hand."""
    kinds = (
        layers.BatchNormalization,
        layers.LayerNormalization,
        layers.GroupNormalization,
        layers.Softmax,
    )
    found = []

    def walk(inner):
        for layer in inner.layers:
            if isinstance(layer, kinds):
                return True
            if isinstance(layer, keras.Model):
                if walk(layer):
                    return True
            elif not isinstance(layer, layers.InputLayer):
                found.append(layer)
        return False

    walk(branch)
    return found


def product(layer, x, training):
    """p, as the layer adds it without a normalization of it."""
    state = layer.get_weights()
    with_p = to_numpy(layer(x, training=training))
    layer.set_weights(state)
    without = to_numpy(layer.branch(x, training=training))
    layer.set_weights(state)
    return with_p - without


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", BEFORE)
def test_sum_is_taken_before_a_normalization_at_the_end(name, training):
    layer = GradientResidual(BEFORE[name][0](), "gradient", normalize=False)
    layer.build(X.shape)
    head = before_normalization(layer.branch)
    x = keras.Variable(X)

    def total():
        y = x + 0.0
        for inner in head:
            y = inner(y)
        return ops.sum(y)

    (expected,) = gradients(total, [x])
    assert np.abs(expected).max() > 0.1
    found = product(layer, X, training)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", ["softmax", layers.Softmax()])
def test_softmax_as_the_activation_of_the_last_layer(activation):
    # The sum is that of x W + b: p is the sum over the columns of W.
    layer = GradientResidual(
        [dense(activation=activation)], "gradient", normalize=False
    )
    layer.build(X.shape)
    kernel = layer.branch.get_weights()[0]
    expected = np.broadcast_to(kernel.sum(axis=1), X.shape)
    np.testing.assert_allclose(product(layer, X, True), expected, rtol=1e-4, atol=1e-5)
    assert len(layer.parts["affine_tail"]) == 1


def test_paths_that_all_end_in_a_normalization():
    first, second = tanh(), dense(activation="sigmoid")
    branch = functional(
        lambda x: layers.Add()(
            [norm()(first(x)), layers.LayerNormalization()(second(x))]
        )
    )
    layer = GradientResidual(branch, "gradient", normalize=False)
    layer.build(X.shape)
    x = keras.Variable(X)
    (expected,) = gradients(
        lambda: ops.sum(first(x + 0.0)) + ops.sum(second(x + 0.0)), [x]
    )
    np.testing.assert_allclose(product(layer, X, True), expected, rtol=1e-4, atol=1e-5)


def test_one_path_that_ends_in_a_normalization_gives_nothing():
    # In training the sum of the normalized path is fixed; that of the other is not.
    second = dense(activation="sigmoid")
    branch = functional(lambda x: layers.Add()([norm()(tanh()(x)), second(x)]))
    layer = GradientResidual(branch, "gradient", normalize=False)
    layer.build(X.shape)
    x = keras.Variable(X)
    (expected,) = gradients(lambda: ops.sum(second(x + 0.0)), [x])
    np.testing.assert_allclose(product(layer, X, True), expected, rtol=1e-4, atol=1e-5)


# What takes the gradient in the middle of a branch: (the branch, whether only training
# has no gradient).
LOST = {
    "batch norm between": (lambda: [tanh(), norm(), dense()], True),
    "nested": (lambda: [keras.Sequential([tanh(), norm()]), dense()], True),
    "nested twice": (
        lambda: keras.Sequential([keras.Sequential([keras.Sequential([tanh(),
        norm()])]), dense()]), True,
    ),
    "functional": (lambda: functional(lambda x: dense()(norm()(tanh()(x)))), True),
    "both paths": (
        lambda: functional(
            lambda x: layers.Add()(
                [dense()(norm()(tanh()(x))), norm("other")(tanh()(x))]
            )
        ),
        True,
    ),
    "subclassed": (lambda: [Subclassed(), dense()], True),
    "subclassed at the end": (Subclassed, True),
    "wrapped at the end": (
        lambda: [tanh(), *in_a_sequence(layers.LayerNormalization())],
        False,
    ),
    "lambda": (
        lambda: [tanh(), layers.Lambda(lambda x: x - ops.mean(x, -1, keepdims=True))],
        False,
    ),
    "layer of one's own": (lambda: [tanh(), Centered()], False),
    "as an activation": (lambda: [tanh(), dense(activation=Centered())], False),
    "operations": (
        lambda: functional(lambda x: (h := tanh()(x)) - ops.mean(h, -1, keepdims=True)),
        False,
    ),
    "subtracted": (
        lambda: functional(
            lambda x: layers.Flatten()(
                layers.Subtract()(
                    [
                        h := layers.Reshape((8, 1))(tanh()(x)),
                        layers.GlobalAveragePooling1D(keepdims=True)(h),
                    ]
                )
            )
        ),
        False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LOST)
def test_gradient_that_would_be_noise_raises(name):
    make, in_training_only = LOST[name]
    layer = GradientResidual(make(), "gradient")
    if not in_training_only:
        with pytest.raises(ValueError, match="gradient of `branch` is zero"):
            layer.build(X.shape)
        return
    layer.build(X.shape)  # What is frozen may change.
    with pytest.raises(ValueError, match="gradient of `branch` is zero"):
        layer(X, training=True)
    # In inference the moving statistics do not depend on the input.
    assert np.abs(product(layer, X, False)).max() > 0.1


def test_the_message_names_the_layer_and_the_way_out():
    layer = GradientResidual([tanh(), norm(), dense()])
    layer.build(X.shape)
    with pytest.raises(ValueError, match=r"'norm'.*activation after it.*frozen"):
        layer(X, training=True)


@pytest.mark.parametrize("make", [lambda: [tanh(), norm(), dense()],
                                  lambda: [Subclassed(), dense()]])  # fmt: skip
def test_frozen_and_unfrozen_at_any_time(make, tmp_path):
    def norm_of(layer):
        inner = layer.branch.layers[0]
        return (
            inner.parts[1] if isinstance(inner, Subclassed) else layer.branch.layers[1]
        )

    layer = GradientResidual(make(), "gradient", normalize=False)
    norm_of(layer).trainable = False
    layer.build(X.shape)
    x = keras.Variable(X)
    (expected,) = gradients(lambda: ops.sum(layer.branch(x + 0.0)), [x])
    found = product(layer, X, True)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    norm_of(layer).trainable = True
    state = layer.get_weights()
    with pytest.raises(ValueError, match="gradient of `branch` is zero"):
        layer(X, training=True)
    layer.set_weights(state)  # That call has moved the statistics.
    norm_of(layer).trainable = False
    np.testing.assert_allclose(product(layer, X, True), expected, rtol=1e-4, atol=1e-4)


def test_unfrozen_after_build_loads():
    frozen = norm()
    frozen.trainable = False
    x = keras.Input((8,))
    layer = GradientResidual([tanh(), frozen, dense()])
    model = keras.Model(x, layer(x))
    frozen.trainable = True
    loaded = keras.Model.from_config(model.get_config())
    loaded.set_weights(model.get_weights())
    np.testing.assert_allclose(
        to_numpy(loaded(X)), to_numpy(model(X)), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("used", ["before", "after"])
def test_other_users_of_the_layers_change_nothing(used, tmp_path):
    # A functional model finds its layers' other nodes where it looks for its own.
    first, last, end = tanh(), dense(), layers.LayerNormalization()

    def another():
        return functional(lambda x: end(last(first(x))))

    if used == "before":
        another()
    branch = another()
    if used == "after":
        another()
    layer = GradientResidual(branch, "gradient", normalize=False)
    x = keras.Input((8,))
    model = keras.Model(x, layer(x))
    kernel = last.get_weights()[0]
    w, b = first.get_weights()
    expected = ((1 - np.tanh(X @ w + b) ** 2) * kernel.sum(axis=1)) @ w.T
    np.testing.assert_allclose(product(layer, X, True), expected, rtol=1e-4, atol=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        to_numpy(loaded(X)), to_numpy(model(X)), rtol=1e-5, atol=1e-6
    )


def test_the_measurement_leaves_state_and_seeds_alone():
    def made():
        keras.utils.set_random_seed(1)
        return [tanh(), layers.Dropout(0.5, seed=4)]

    class Opaque(keras.Layer):
        def __init__(self):
            super().__init__()
            self.inner = [
                *made(),
                layers.BatchNormalization(),
                dense(activation="tanh"),
            ]

        def build(self, input_shape):
            for layer in self.inner:
                layer.build(input_shape)

        def call(self, x, training=None):
            for layer in self.inner:
                x = layer(x, training=training)
            return x

        def compute_output_shape(self, input_shape):
            return input_shape

    opaque = Opaque()
    opaque.build(X.shape)
    before = [np.array(v.numpy()) for v in opaque.variables]
    GradientResidual(opaque).build(X.shape)
    for a, v in zip(before, opaque.variables, strict=True):
        np.testing.assert_array_equal(a, v.numpy())


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_noise_is_not_brought_to_unit_length(dtype):
    # The rows of the last kernel sum to zero, so that p does; their sums round.
    layer = GradientResidualDense(64, "tanh", residual="gradient", dtype=dtype)
    x = np.random.default_rng(1).normal(size=(32, 64)).astype("float32")
    layer.build(x.shape)
    last = layer.branch.layers[1]
    kernel = np.random.default_rng(2).normal(size=(64, 64)) / 8
    kernel = (kernel - kernel.mean(axis=1, keepdims=True)).astype("float32")
    last.set_weights([kernel, np.zeros(64)])
    if dtype != "float32":
        # In half precision the rounded kernel sums to something else than zero.
        kernel = kernel * 0 + np.tile([0.125, -0.125], 32).astype("float32")
        last.set_weights([kernel, np.zeros(64)])
    g = to_numpy(ops.cast(layer(x), "float32") - ops.cast(layer.branch(x), "float32"))
    assert np.linalg.norm(g, axis=-1).max() < 0.1


def test_first_steps_from_a_last_layer_of_zeros():
    # F = W2 tanh(W1 x) with W2 = 0: p = 0, so g = 0 and y = x (additive). The loss is
    # |y - t|^2 / 2 of one sample: dW2 = h^T (y - t), nothing else has a gradient, and
    # after a step of rate 0.1 W2 = -0.1 h^T (y - t).
    layer = GradientResidualDense(
        activation="tanh", residual="additive", use_bias=False
    )
    x = np.array([[0.5, -1.0, 0.25]], "float32")
    t = np.array([[1.0, 0.0, -1.0]], "float32")
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layer(inputs))
    w1 = np.array([[1.0, 0.5, 0.0], [0.0, 1.0, 0.5], [0.5, 0.0, 1.0]], "float32")
    layer.set_weights([w1, np.zeros((3, 3))])
    np.testing.assert_allclose(to_numpy(layer(x)), x, rtol=1e-6)

    def loss(t, y):
        return ops.sum(ops.square(y - t), axis=-1) / 2

    model.compile(keras.optimizers.SGD(0.1), loss, run_eagerly=True)
    model.fit(x, t, verbose=0)
    h = np.tanh(x @ w1)
    w2 = -0.1 * h.T @ (x - t)
    np.testing.assert_allclose(layer.get_weights()[1], w2, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(layer.get_weights()[0], w1)
    # Then p is small, and no noise: its direction is that of the formula.
    p = ((1 - h**2) * w2.sum(axis=1)) @ w1.T
    expected = x + h @ w2 + p / np.linalg.norm(p)
    np.testing.assert_allclose(to_numpy(layer(x)), expected, rtol=1e-4, atol=1e-5)
