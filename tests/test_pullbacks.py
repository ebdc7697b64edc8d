"""Every pullback rule is J^T c, in value, and in its own derivative."""

import keras
import numpy as np
import pytest
import rules
from helpers import at_once, frozen_state, gradients, to_numpy, vjp
from keras import layers, ops

from keras_gradres.layers import GradientResidual
from keras_gradres.pullbacks import Graph, register, registry

# Of transposed convolutions, in Keras before 3.15.
pytestmark = pytest.mark.filterwarnings("ignore:.*inconsistencies across backends")


def _setting(name, training):
    layer, x = rules.built(name)
    x = keras.Variable(x)
    graph = Graph(layer)

    def run(second_order=False):
        return graph.run(x + 0.0, training, second_order=second_order)

    run = frozen_state(layer, run)
    shape = at_once(lambda: run().output).shape
    c = np.random.default_rng(2).normal(size=shape).astype("float32")
    return layer, x, run, ops.convert_to_tensor(c)


# Where a call in training is another one than in inference.
_OF_TRAINING = ("batch norm", "dropout", "noise")
CALLS = [
    (name, training)
    for name in rules.CASES
    for training in (False, True)
    if training or any(word in name for word in _OF_TRAINING)
]
# JAX compiles each operation of each test by itself: there one rule of each family.
SECOND_ORDER = [
    name
    for name in rules.CASES
    if keras.backend.backend() != "jax" or name in rules.ONE_OF_EACH_FAMILY
]
WITHOUT_SECOND_DERIVATIVE = (("torch", "hard_sigmoid"), ("tensorflow", "softsign"))
# TensorFlow has no right second derivative of these to compare with.
MOMENTS = ("batch norm", "layer norm", "group norm", "instance norm")


@pytest.mark.parametrize(("name", "training"), CALLS)
def test_pullback_is_the_derivative(name, training):
    layer, x, run, c = _setting(name, training)
    plain = frozen_state(layer, lambda: layer(x + 0.0, training=training))
    # A cotangent of batch size 1 gives what the same one for each sample gives.
    cotangents = [c, c[:1], ops.broadcast_to(c[:1], c.shape)]

    def numbers():
        found = run()
        products = [ops.broadcast_to(found.pull(c), x.shape) for c in cotangents]
        return [found.output, plain(), *products]

    output, value, p, single, full = map(to_numpy, at_once(numbers))
    np.testing.assert_allclose(output, value, rtol=1e-5, atol=1e-6)
    (expected,) = gradients(lambda: ops.sum(c * plain()), [x])
    size = np.abs(expected).max()
    np.testing.assert_allclose(p, expected, rtol=0, atol=1e-5 * (1 + size))
    np.testing.assert_allclose(single, full, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_gradient_through_the_pullback(name):
    layer, x, run, c = _setting(name, True)
    variables = [x, *layer.trainable_variables]
    d = np.random.default_rng(3).normal(size=x.shape).astype("float32")
    d = ops.convert_to_tensor(d)

    def closed(second_order):
        # The output, too, so that nothing is unconnected.
        found = run(second_order)
        p = ops.broadcast_to(found.pull(c), x.shape)
        return ops.sum(d * p) + 0.0 * ops.sum(found.output)

    for gradient in gradients(lambda: closed(False), variables):
        np.testing.assert_array_equal(gradient, 0 * gradient)
    if keras.backend.backend() == "tensorflow" and name.startswith(MOMENTS):
        pytest.skip("TensorFlow's second derivative of the moments is wrong")
    if (keras.backend.backend(), name) in WITHOUT_SECOND_DERIVATIVE:
        pytest.skip("the framework has no second derivative of it")
    automatic = frozen_state(
        layer, lambda: vjp(layer, x + 0.0, c, second_order=True, training=True)
    )

    def independent():
        y, p = automatic()
        return ops.sum(d * p) + 0.0 * ops.sum(y)

    found = gradients(lambda: closed(True), variables)
    expected = gradients(independent, variables)
    for a, b in zip(found, expected, strict=True):
        size = np.abs(b).max(initial=0)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * (1 + size))


@pytest.mark.parametrize("name", ["batch norm", "layer norm", "group norm"])
def test_gradient_through_a_normalization_by_differences(name):
    # Also on TensorFlow, which has no right answer of its own.
    _, x, run, c = _setting(name, True)
    d = np.random.default_rng(3).normal(size=x.shape).astype("float32")
    d = ops.convert_to_tensor(d)
    direction = np.random.default_rng(4).normal(size=x.shape).astype("float32")

    def product():
        return ops.sum(d * run(True).pull(c))

    (found,) = gradients(product, [x])
    center, values = np.array(x.numpy()), []
    for step in (2e-3, -2e-3):
        x.assign(center + step * direction)
        values.append(float(to_numpy(product())))
    slope = (values[0] - values[1]) / 4e-3
    size = np.abs(found * direction).sum()
    np.testing.assert_allclose(np.sum(found * direction), slope, atol=2e-3 * size)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("name", rules.ONE_OF_EACH_FAMILY)
def test_half_precision(name, dtype, dtype_policy):
    # Of layers that compute in half precision: the numbers of float32, rounded.
    layer, values = rules.built(name)
    shape = at_once(lambda: layer(values)).shape
    c = np.random.default_rng(2).normal(size=shape).astype("float32")

    def product(layer, dtype):
        run = Graph(layer).run(ops.cast(values, dtype), False)
        p = ops.broadcast_to(run.pull(ops.cast(c, dtype)), values.shape)
        return ops.cast(p, "float32")

    expected = to_numpy(at_once(lambda: product(layer, "float32")))
    with dtype_policy(dtype):
        half, _ = rules.built(name)
    half.set_weights(layer.get_weights())
    compute = dtype.split("_")[1]
    p = to_numpy(at_once(lambda: product(half, compute)))
    error = np.linalg.norm(p - expected) / np.linalg.norm(expected)
    assert error < {"float16": 5e-3, "bfloat16": 5e-2}[compute]


def test_channels_first():
    if keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow has no channels_first convolution on the CPU")
    options = [
        lambda f: layers.Conv2D(3, 3, padding="same", data_format=f),
        lambda f: layers.Conv2D(3, (2, 3), strides=2, padding="same", data_format=f),
        lambda f: layers.DepthwiseConv2D(3, depth_multiplier=2, data_format=f),
        lambda f: layers.DepthwiseConv2D(2, strides=2, data_format=f),
        lambda f: layers.Conv2DTranspose(3, 3, strides=2, data_format=f),
        lambda f: layers.AveragePooling2D(2, data_format=f),
        lambda f: layers.MaxPooling2D(2, data_format=f),
        lambda f: layers.UpSampling2D(2, data_format=f),
        lambda f: layers.GlobalAveragePooling2D(data_format=f, keepdims=True),
    ]
    x = np.random.default_rng(0).normal(size=(2, 6, 8, 4)).astype("float32")
    for make in options:
        last, first = make("channels_last"), make("channels_first")
        run = Graph(last).run(ops.convert_to_tensor(x), False)
        c = np.random.default_rng(1).normal(size=run.output.shape).astype("float32")
        first.build((2, 4, 6, 8))
        first.set_weights(last.get_weights())
        x_first, c_first = (
            ops.convert_to_tensor(np.moveaxis(t, -1, 1)) for t in (x, c)
        )
        p = Graph(first).run(x_first, False).pull(c_first)
        expected = to_numpy(run.pull(ops.convert_to_tensor(c)))
        found = np.moveaxis(to_numpy(p), 1, -1)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_layers_without_a_rule():
    # A new layer of Keras shows up here: give it a rule, or put it on the list.
    found = set()
    for name in dir(layers):
        kind = getattr(layers, name)
        if isinstance(kind, type) and issubclass(kind, keras.Layer):
            found |= set() if kind in registry._RULES else {kind.__name__}
    assert found - rules.WITHOUT_RULE == set()
    assert not {
        n for n in rules.WITHOUT_RULE if getattr(layers, n, None) in registry._RULES
    }


def test_rule_of_ones_own():
    # y = sin(2 x), p = 2 cos(2 x).
    class Sine(keras.Layer):
        def call(self, x):
            return ops.sin(2 * x)

        def compute_output_shape(self, input_shape):
            return input_shape

    layer = GradientResidual(Sine(name="sine"), "gradient", normalize=False)
    layer.build((None, 3))
    assert layer.parts["automatic_differentiation"] == ["sine"]

    @register(Sine)
    def sine(call, x):
        slope = 2 * ops.cos(2 * call.saved(x))
        return call(x), lambda c: c * slope

    x = np.array([[0.1, 0.2, -0.7]], "float32")
    expected = np.sin(2 * x) + 2 * np.cos(2 * x)
    np.testing.assert_allclose(to_numpy(layer(x)), expected, rtol=1e-5)
    assert layer.parts["closed_form"] == ["sine"]
    with pytest.raises(ValueError, match="classes of Keras layers"):
        register(ops.sin)
