"""Masks, sizes and containers of Keras around the layers."""

import keras
import numpy as np
import pytest
from branches import BRANCHES
from helpers import EACH_MODE, frozen_state, penalty, to_numpy
from keras import layers
from keras_cases import data, image_model

from keras_gradres.layers import (
    GradientResidual,
    GradientResidualConv,
    GradientResidualDense,
)


@pytest.mark.parametrize(
    "last", [[], [layers.BatchNormalization]], ids=["", "batch norm"]
)
def test_mask_reaches_the_branch_and_comes_out(last):
    # Masked steps are left out of the moments and stop an LSTM, so what stands there
    # must not matter elsewhere.
    layer = GradientResidual(
        [layers.LSTM(4, return_sequences=True), *(make() for make in last)]
    )
    mask = np.array([[True, True, False], [True, False, False]])
    x = data((2, 3, 4))
    other = np.where(mask[..., None], x, 7).astype("float32")
    layer.build(x.shape)

    def call(x):
        return to_numpy(layer(x, mask=mask, training=True))

    call = frozen_state(layer, call)
    np.testing.assert_allclose(call(x)[mask], call(other)[mask], rtol=1e-4, atol=1e-5)
    seen = []

    class Seen(keras.Layer):
        supports_masking = True

        def call(self, x, mask=None):
            seen.append(mask)
            return x

    inputs = keras.Input((3, 4))
    masked = layers.Masking(0.0)(inputs)
    model = keras.Model(inputs, Seen()(layer(masked)))
    model(np.where(mask[..., None], x, 0).astype("float32"))
    np.testing.assert_array_equal(to_numpy(seen[-1]), mask)


def test_mask_through_functional_branch_and_shortcut():
    x = keras.Input((None, 4))
    h = layers.LayerNormalization()(x)
    branch = keras.Model(x, layers.MultiHeadAttention(2, 2)(h, h))
    layer = GradientResidual(branch, shortcut=layers.Identity())
    mask = np.array([[True, True, False]])
    inputs = data((1, 3, 4))
    other = np.where(mask[..., None], inputs, 7).astype("float32")
    a, b = (to_numpy(layer(i, mask=mask)) for i in (inputs, other))
    np.testing.assert_allclose(a[mask], b[mask], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["lstm", "attention", "mlp", "affine"])
def test_padding_does_not_matter(kind):
    # The padded outputs are no part of the sum that is differentiated.
    branch = {
        "lstm": lambda: layers.LSTM(4, return_sequences=True),
        "attention": BRANCHES["attention"].make,
        "mlp": BRANCHES["transformer mlp"].make,
        "affine": lambda: layers.Dense(4),
    }[kind]()
    layer = GradientResidual(branch, normalize=False)
    layer.build((None, None, 4))
    x = data((2, 3, 4))
    expected = to_numpy(layer(x))
    for padding in (1, 4):
        padded = np.pad(x, ((0, 0), (0, padding), (0, 0)), constant_values=7)
        mask = np.broadcast_to(np.arange(3 + padding) < 3, padded.shape[:2])
        found = to_numpy(layer(padded, mask=mask))[:, :3]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", BRANCHES)
def test_symbolic_shape_is_the_eager_shape(name):
    case = BRANCHES[name]
    layer = case.layer()
    eager = tuple(layer(case.inputs()).shape)
    assert layer.compute_output_shape(case.shape) == eager
    unknown = layer(keras.KerasTensor((None, *case.shape[1:])))
    assert tuple(unknown.shape) == (None, *eager[1:])


def test_unknown_sizes():
    model = image_model()
    assert model.output_shape == (None, None, None, 6)
    for shape in ((1, 7, 3, 4), (3, 4, 9, 4)):
        assert model.predict(data(shape), verbose=0).shape == (*shape[:3], 6)
    layer = GradientResidualConv()
    layer.build((2, 8, 8, 3))
    for shape in ((2, 8, 8, 3), (3, 5, 6, 3)):
        other = GradientResidualConv()
        other.build(shape)
        other.set_weights(layer.get_weights())
        x = data(shape)
        found, expected = to_numpy(layer(x)), to_numpy(other(x))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_model_around_the_layer(capsys):
    model = image_model()
    model.summary()
    assert "second (GradientResidual)" in capsys.readouterr().out
    layer = model.get_layer("second")
    # alpha; two convolutions 3x3 and 1x1; two normalizations; the shortcut.
    assert layer.count_params() == 1 + (144 + 4) + 16 + (24 + 6) + 24 + (24 + 6)
    model.trainable = False
    assert model.trainable_variables == []
    assert isinstance(layer.branch, keras.Sequential)
    assert layer.branch(data((1, 3, 3, 4))).shape == (1, 3, 3, 6)


def test_shared_layer():
    # Called twice, the layer is its own composition.
    inputs = keras.Input((5,))
    layer = GradientResidualDense(activation="tanh")
    model = keras.Model(inputs, layer(layer(inputs)))
    x = data((3, 5))
    np.testing.assert_allclose(
        model.predict(x, verbose=0), to_numpy(layer(layer(x))), rtol=1e-5, atol=1e-6
    )
    model.compile("sgd", "mse")
    model.fit(x, x, verbose=0)
    assert len(model.trainable_variables) == 5


@pytest.mark.parametrize("mode", EACH_MODE, ids=str)
def test_activity_losses(mode):
    # In the first layer the regularized layer is in a part that was split off.
    def dense():
        return layers.Dense(5, activity_regularizer=keras.regularizers.L2(0.1))

    inputs = keras.Input((5,))
    split = GradientResidual([dense(), layers.Activation("tanh"), layers.Dense(5)])
    whole = GradientResidual([dense(), layers.Activation("tanh"), dense()])
    model = keras.Model(inputs, whole(split(inputs)))
    x = h = data((4, 5))
    expected = 0.0
    for layer in (split, whole):
        inner = h
        for part in layer.branch.layers:
            inner = to_numpy(part(inner))
            if part.activity_regularizer is not None:
                expected += penalty(inner)
        h = to_numpy(layer(h))
    expected += np.mean(h**2)
    model.compile(keras.optimizers.SGD(0.0), "mse", **mode)
    loss = model.fit(x, 0 * x, batch_size=4, verbose=0).history["loss"]
    np.testing.assert_allclose(loss, [expected], rtol=1e-4)


def test_subclassed_model():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.first = GradientResidualDense(activation="tanh")
            self.last = GradientResidual(layers.Dense(2), shortcut=layers.Dense(2))

        def call(self, x, training=None):
            return self.last(self.first(x, training=training), training=training)

    model = Model()
    model.compile("sgd", "mse")
    x = data((4, 5))
    model.fit(x, x[:, :2], verbose=0)
    np.testing.assert_allclose(
        model.predict(x, verbose=0),
        to_numpy(model.last(model.first(x))),
        rtol=1e-5,
        atol=1e-6,
    )
