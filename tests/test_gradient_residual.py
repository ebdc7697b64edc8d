"""The mathematics: what the layer returns, and what trains through it.

Expected numbers come from central differences in float64 (finite_differences.py), from
derivations by hand, and from the formulas of the paper in NumPy.
"""

import functools

import finite_differences
import keras
import numpy as np
import pytest
from branches import BRANCHES
from helpers import at_once, frozen_state, gradients
from keras import layers, ops

from keras_gradres.layers import GradientResidual

REFERENCE = dict(np.load(finite_differences.PATH))
EPSILON = 1e-12


def _numpy(call, *args, **kwargs):
    return ops.convert_to_numpy(call(*args, **kwargs))


def _sigmoid(a):
    return 1 / (1 + np.exp(-a))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", BRANCHES)
def test_product_is_the_gradient_of_the_sum(name, training):
    # With residual="gradient" and no normalization y = F(x) + S(p).
    if (name, training) == ("dropout", True):
        pytest.skip("see test_dropout")
    case = BRANCHES[name]
    layer = case.layer(residual="gradient", normalize=False)
    x = case.inputs()
    output, value = (
        _numpy(at_once, frozen_state(layer, functools.partial(f, x, training=training)))
        for f in (layer, layer.branch)
    )
    skip = p = REFERENCE[f"{name}/{training}/p"]
    if layer.shortcut is not None:
        skip = _numpy(layer.shortcut, p)
    assert np.abs(p).max() > 1e-2
    np.testing.assert_allclose(output - value, skip, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", BRANCHES)
def test_parts_are_what_the_table_says(name):
    parts = BRANCHES[name].layer().parts
    assert len(parts["affine_tail"]) == BRANCHES[name].affine_tail
    assert len(parts["trailing"]) == BRANCHES[name].trailing


def test_stored_differences_are_those_of_this_version():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("Keras computes in float64 on TensorFlow only")
    made = finite_differences.reference()
    assert made.keys() == REFERENCE.keys()
    for name, value in made.items():
        np.testing.assert_allclose(value, REFERENCE[name], rtol=1e-6, atol=1e-8)


def test_dropout():
    # F(x) = b + W2 (m * tanh(W1 x)): p = W1 (m * (1 - tanh^2) * W2 1), with the mask m
    # that the branch has drawn, which is read off its output at W2 = 1.
    dense = layers.Dense(8, activation="tanh", use_bias=False)
    last = layers.Dense(8, use_bias=False)
    layer = GradientResidual(
        [dense, layers.Dropout(0.5, seed=1), last],
        residual="gradient",
        normalize=False,
        shortcut=layers.Identity(),
    )
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 8)).astype("float32")
    layer.build(x.shape)
    call = frozen_state(layer, lambda f: _numpy(f, x, training=True))
    h = np.tanh(x @ dense.get_weights()[0])
    last.set_weights([np.eye(8)])
    mask = call(layer.branch) / h
    assert set(np.round(mask.ravel(), 3)) == {0, 2}
    w2 = rng.normal(size=(8, 8))
    last.set_weights([w2])
    p = (mask * (1 - h**2) * w2.sum(axis=1)) @ dense.get_weights()[0].T
    np.testing.assert_allclose(call(layer) - call(layer.branch), p, atol=1e-5)


@pytest.mark.parametrize("residual", ["convex", "gradient", "additive", "magnitude"])
@pytest.mark.parametrize("axis", [-1, (1, -1), None])
def test_residuals_are_the_formulas(residual, axis):
    # Eq. 2 and the paper's variants, in NumPy.
    case = BRANCHES["conv"]
    x = case.inputs()
    layer = case.layer(residual=residual, axis=axis)
    p = REFERENCE["conv/False/p"]
    norm = np.sqrt(np.sum(p**2, axis=axis or (1, 2, 3), keepdims=True))
    g = p / np.maximum(norm, EPSILON)
    if residual == "convex":
        s = _sigmoid(layer.alpha.numpy())
        skip = (1 - s) * x + s * g
        np.testing.assert_allclose(layer.mix, s, rtol=1e-6)
    else:
        skip = {"gradient": g, "additive": x + g, "magnitude": norm + 0 * p}[residual]
    expected = _numpy(layer.branch, x) + skip
    np.testing.assert_allclose(_numpy(layer, x), expected, rtol=1e-4, atol=1e-5)


def test_residuals_without_gradient():
    x = BRANCHES["one layer"].inputs()
    for residual, factor in {"identity": 1, "scaled": 0.7, "none": 0}.items():
        layer = GradientResidual(layers.Dense(5), residual, activation="tanh")
        layer.build(x.shape)
        if residual == "scaled":
            assert layer.scale.numpy() == 1
            layer.scale.assign(0.7)
        expected = np.tanh(_numpy(layer.branch, x) + factor * x)
        np.testing.assert_allclose(_numpy(layer, x), expected, rtol=1e-5, atol=1e-6)
        assert layer.mix is None
        assert layer.parts is None


def test_worked_by_hand():
    # F(x) = 3 tanh(2 x), so p = 6 (1 - tanh(2 x)^2). At x = 0.5:
    # tanh(1) = 0.7615941560, F = 2.2847824679, p = 2.5198460498, g = 1, and with
    # s = sigmoid(0) = 0.5
    # y = 2.2847824679 + 0.5 * 0.5 + 0.5 * 1.
    branch = [
        layers.Dense(1, activation="tanh", use_bias=False),
        layers.Dense(1, use_bias=False),
    ]
    layer = GradientResidual(branch)
    layer.build((1, 1))
    branch[0].set_weights([np.array([[2.0]])])
    branch[1].set_weights([np.array([[3.0]])])
    x = np.array([[0.5]], "float32")
    np.testing.assert_allclose(_numpy(layer, x), [[3.0347824679]], rtol=1e-6)
    layer = GradientResidual(branch, normalize=False)
    expected = [[2.2847824679 + 0.25 + 0.5 * 2.5198460498]]
    np.testing.assert_allclose(_numpy(layer, x), expected, rtol=1e-6)


def test_channels_first_is_channels_last_transposed():
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if not tf.config.list_physical_devices("GPU"):
            pytest.skip("TensorFlow has no channels_first convolution on the CPU")
    case = BRANCHES["conv"]
    layer, x = case.layer(), case.inputs()
    conv = {"kernel_size": 3, "padding": "same", "data_format": "channels_first"}
    branch = [layers.Conv2D(6, **conv), layers.ReLU(), layers.Conv2D(4, **conv)]
    first = GradientResidual(branch, axis=1)
    transposed = np.moveaxis(x, -1, 1)
    first.build(transposed.shape)
    first.set_weights(layer.get_weights())
    output = np.moveaxis(_numpy(first, transposed), 1, -1)
    np.testing.assert_allclose(output, _numpy(layer, x), rtol=1e-4, atol=1e-5)


def test_batch_is_differentiated_sample_by_sample():
    case = BRANCHES["conv"]
    layer, x = case.layer(), case.inputs()
    single = [_numpy(layer, x[i : i + 1]) for i in range(len(x))]
    np.testing.assert_allclose(_numpy(layer, x), np.concatenate(single), atol=1e-5)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("residual", finite_differences.RESIDUALS)
@pytest.mark.parametrize("name", finite_differences.TRAINED)
def test_gradient_of_a_training_loss(name, residual, order):
    key = f"{name}/{residual}/{order}"
    case = BRANCHES[name]
    layer = case.layer(residual=residual, second_order=order == 2)
    x = keras.Variable(case.inputs())
    variables = [x, *layer.trainable_variables]
    loss = finite_differences.training_loss(case, layer, x)
    found = gradients(loss, variables)
    for seed, expected in enumerate(REFERENCE[key]):
        directions = finite_differences.directions(variables, seed)
        terms = [g * d for g, d in zip(found, directions, strict=True)]
        size = sum(np.sum(np.abs(t)) for t in terms)
        dot = sum(np.sum(t) for t in terms)
        np.testing.assert_allclose(dot, expected, rtol=0, atol=1e-4 * size)


def test_orders_differ():
    # Else the test above could not tell them apart.
    for name in ("dense", "srresnet", "attention"):
        first, second = (REFERENCE[f"{name}/convex/{order}"] for order in (1, 2))
        assert np.abs(first - second).max() > 1e-2 * np.abs(first).max()


def test_frozen_layer():
    layer = BRANCHES["dense"].layer()
    assert layer.trainable_variables[0] is layer.alpha
    layer.trainable = False
    assert layer.trainable_variables == []
    layer = BRANCHES["dense"].layer(trainable_alpha=False)
    assert not layer.alpha.trainable
    assert len(layer.trainable_variables) == 4


def test_alpha_is_a_number_or_an_initializer():
    for alpha in (1.5, keras.initializers.Constant(1.5)):
        layer = GradientResidual(layers.Dense(4), alpha=alpha)
        layer.build((None, 4))
        np.testing.assert_allclose(layer.mix, _sigmoid(1.5), rtol=1e-6)
