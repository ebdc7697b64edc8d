"""What a layer does in a branch is what it does in a plain model.

State, losses, masks, seeds, dtypes, LoRA and quantized kernels; any rank that the
layers take, and no samples at all.
"""

import keras
import numpy as np
import pytest
from helpers import gradients, penalty, to_numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

from keras_gradres.layers import (
    GradientResidual,
    GradientResidualConv,
    GradientResidualDense,
)
from keras_gradres.layers.residuals import RESIDUALS

RNG = np.random.default_rng(0)
PADDED = RNG.normal(size=(4, 5, 6)).astype("float32")
PADDED[1, 3:] = 0
PADDED[2, 1:] = 0


def _tanh():
    return layers.Dense(6, activation="tanh")


# Branches that make a mask, and what is to see it.
MAKING_MASKS = {
    "batch norm": lambda: [layers.Masking(), _tanh(), layers.BatchNormalization()],
    "batch norm inside": lambda: [
        layers.Masking(),
        layers.Dense(6, activation="gelu"),
        layers.BatchNormalization(),
        _tanh(),
    ],
    "after dropout": lambda: [
        layers.Masking(),
        layers.Dropout(0.5, seed=1),
        layers.BatchNormalization(),
        _tanh(),
    ],
    "recurrent": lambda: [layers.Masking(), layers.LSTM(6, return_sequences=True)],
    "nested": lambda: [
        keras.Sequential([layers.Masking(), _tanh()]),
        layers.BatchNormalization(),
        _tanh(),
    ],
    "attention": lambda: _attention(),
}


def _attention():
    x = keras.Input((5, 6))
    h = _tanh()(layers.Masking()(x))
    return keras.Model(x, layers.MultiHeadAttention(2, 3)(h, h))


@pytest.mark.parametrize("residual", ["gradient", "none", "identity"])
@pytest.mark.parametrize("name", MAKING_MASKS)
def test_mask_made_in_the_branch(name, residual):
    make = MAKING_MASKS[name]
    plain = make()
    plain = keras.Sequential(plain) if isinstance(plain, list) else plain
    plain.build(PADDED.shape)
    layer = GradientResidual(make(), residual)
    layer.build(PADDED.shape)
    layer.branch.set_weights(plain.get_weights())
    expected = to_numpy(plain(PADDED, training=True))
    found = to_numpy(layer(PADDED, training=True))
    if residual == "identity":
        found = found - PADDED
    if residual != "gradient":
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    for a, b in zip(layer.branch.weights, plain.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-6)


def test_masked_outputs_are_left_out_of_the_sum():
    # F = tanh(x W) W2: p = (m (1 - tanh^2) W2 1) W^T, zero at masked steps.
    layer = GradientResidual(
        [layers.Masking(), _tanh(), layers.Dense(6)], "gradient", normalize=False
    )
    layer.build(PADDED.shape)
    w, b, w2, _ = layer.get_weights()
    mask = PADDED.any(axis=-1, keepdims=True)
    h = np.tanh(PADDED @ w + b)
    p = (mask * (1 - h**2) * w2.sum(axis=1)) @ w.T * mask
    found = to_numpy(layer(PADDED)) - to_numpy(layer.branch(PADDED))
    np.testing.assert_allclose(found, p, rtol=1e-4, atol=1e-5)


def test_losses_of_the_layers_are_those_of_a_plain_model():
    x = RNG.normal(size=(4, 6)).astype("float32")
    for activation in (None, "tanh", "gelu", "softmax"):
        dense = layers.Dense(
            6,
            activation=activation,
            activity_regularizer=keras.regularizers.L2(0.1),
        )
        layer = GradientResidual([dense, _tanh()])
        layer(x)
        expected = penalty(to_numpy(dense(x)))
        layer(x)
        losses = [float(to_numpy(loss)) for loss in layer.losses]
        np.testing.assert_allclose(losses, [expected], rtol=1e-5)


def _wrapped():
    return GradientResidual([_tanh(), layers.Dense(6)])


@pytest.mark.parametrize("make", [GradientResidualDense, _wrapped])
@pytest.mark.parametrize("change", ["int8", "lora", "frozen"])
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_changed_layers_survive_a_file(make, change, tmp_path):
    x = RNG.normal(size=(4, 6)).astype("float32")
    inputs = keras.Input((6,))
    layer = make()
    model = keras.Model(inputs, layer(inputs))
    if change == "int8":
        model.quantize("int8")
    for dense in layer.branch.layers:
        if change == "lora":
            dense.enable_lora(2)
            a, b = dense.lora_kernel_a, dense.lora_kernel_b
            a.assign(RNG.normal(size=a.shape))
            b.assign(RNG.normal(size=b.shape))
        if change == "frozen":
            dense.trainable = False
    expected = model.predict(x, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict(x, verbose=0), expected, atol=1e-5)
    counts = [len(m.trainable_variables) for m in (model, loaded)]
    assert counts[0] == counts[1]
    config = loaded.layers[1].get_config()
    assert type(layer).from_config(config).get_config() == config
    if change == "int8":
        parts = loaded.layers[1].parts
        assert len(parts["automatic_differentiation"]) == 2


def test_lora_kernel_is_the_one_that_is_differentiated():
    x = RNG.normal(size=(4, 6)).astype("float32")
    first = _tanh()
    layer = GradientResidual([first, layers.Dense(6)], "gradient", normalize=False)
    layer.build(x.shape)
    w, b, w2, _ = layer.get_weights()
    first.enable_lora(2)
    a, c = RNG.normal(size=(6, 2)), RNG.normal(size=(2, 6))
    first.lora_kernel_a.assign(a)
    first.lora_kernel_b.assign(c)
    w = w + a @ c  # alpha / rank = 1
    h = np.tanh(x @ w + b)
    p = ((1 - h**2) * w2.sum(axis=1)) @ w.T
    found = to_numpy(layer(x)) - to_numpy(layer.branch(x))
    np.testing.assert_allclose(found, p, rtol=1e-4, atol=1e-4)


RANKS = st.lists(st.integers(1, 4), min_size=0, max_size=3)


@settings(max_examples=8, deadline=None)
@given(built=RANKS, called=RANKS, residual=st.sampled_from(sorted(RESIDUALS)))
def test_built_for_one_rank_and_called_with_another(built, called, residual):
    # As `Dense`: the rows are what they are alone.
    block = GradientResidualDense(activation="tanh", residual=residual)
    block.build((None, *built, 4))
    if block.gamma is not None:
        block.gamma.assign([0.5, -1.0, 2.0, 0.0])
    x = np.random.default_rng(0).normal(size=(2, *called, 4)).astype("float32")
    rows = to_numpy(block(x.reshape(-1, 4))).reshape(x.shape)
    np.testing.assert_allclose(to_numpy(block(x)), rows, rtol=1e-4, atol=1e-5)


def test_dropout_of_a_functional_branch_drops():
    # Keras writes down training=False where the model is made; what it is told counts.
    x = keras.Input((6,))
    branch = keras.Model(x, layers.Dropout(0.5, seed=1)(_tanh()(x)))
    layer = GradientResidual(branch, residual="identity")
    inputs = np.zeros((5, 6), "float32") + PADDED[0, :1]
    layer(inputs)
    branch.set_weights([RNG.normal(size=w.shape) for w in branch.get_weights()])
    expected = to_numpy(branch(inputs)) * np.array([0, 2])[:, None, None]
    found = to_numpy(layer(inputs, training=True)) - inputs
    off = np.abs(found - expected)
    assert (off.min(0) < 1e-5).all()
    assert {0, 1} == set(off.argmin(0).ravel())
    np.testing.assert_allclose(
        to_numpy(layer(inputs, training=False)) - inputs,
        to_numpy(branch(inputs)),
        atol=1e-5,
    )


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("residual", RESIDUALS)
def test_no_samples_and_no_steps(residual, training):
    block = GradientResidualDense(residual=residual)
    block.build((None, None, 4))
    for shape in ((0, 3, 4), (2, 0, 4)):
        found = block(np.zeros(shape, "float32"), training=training)
        assert tuple(found.shape) == shape
    conv = GradientResidualConv(residual=residual, axis=None)
    conv.build((None, 5, 5, 4))
    assert tuple(conv(np.zeros((0, 5, 5, 4), "float32")).shape) == (0, 5, 5, 4)


def test_gain_is_exactly_identity_at_the_start():
    for make, shape in (
        (lambda r: GradientResidualDense(activation="gelu", residual=r), (4, 6)),
        (lambda r: GradientResidualConv(residual=r), (2, 5, 6, 3)),
        (lambda r: GradientResidualDense(residual=r, dtype="mixed_float16"), (4, 6)),
    ):
        x = RNG.normal(size=shape).astype("float32")
        gain, identity = make("gain"), make("identity")
        for layer in (gain, identity):
            layer.build(shape)
        identity.branch.set_weights(gain.branch.get_weights())
        for training in (False, True):
            np.testing.assert_array_equal(
                to_numpy(gain(x, training=training)),
                to_numpy(identity(x, training=training)),
            )


@pytest.mark.parametrize("axis", [-1, 1, (1, 2)])
def test_gain_has_one_entry_for_each_feature(axis):
    # y = F(x) + x + gamma g, in NumPy; gamma is along the last axis of the norm.
    x = RNG.normal(size=(2, 3, 4)).astype("float32")
    layer = GradientResidual(layers.Dense(4, activation="tanh"), "gain", axis=axis)
    layer.build(x.shape)
    w, b = layer.branch.get_weights()
    last = axis[-1] if isinstance(axis, tuple) else axis % 3
    gamma = RNG.normal(size=x.shape[last]).astype("float32")
    layer.gamma.assign(gamma)
    f = np.tanh(x @ w + b)
    p = (1 - f**2) @ w.T
    g = p / np.sqrt(np.sum(p**2, axis=axis, keepdims=True))
    shape = [1, 1, 1]
    shape[last] = -1
    expected = f + x + gamma.reshape(shape) * g
    np.testing.assert_allclose(to_numpy(layer(x)), expected, rtol=1e-4, atol=1e-5)
    # d/dgamma of the sum of the outputs is the sum of g.
    (found,) = gradients(lambda: ops.sum(layer(x)), [layer.gamma])
    over = tuple(a for a in range(3) if a != last)
    np.testing.assert_allclose(found, g.sum(axis=over), rtol=1e-4, atol=1e-4)
