"""Everything that Keras offers keeps working around the layers."""

import keras
import numpy as np
import pytest
from branches import BRANCHES
from helpers import frozen_state, penalty
from keras import layers, ops

from keras_gradres.layers import (
    GradientResidual,
    GradientResidualConv,
    GradientResidualDense,
)

MODES = [{"jit_compile": True}, {"jit_compile": False}, {"run_eagerly": True}]


def _numpy(x):
    return ops.convert_to_numpy(x)


def _data(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def _image_model():
    x = inputs = keras.Input((None, None, 4))
    x = GradientResidualConv(activation="gelu", name="first")(x)
    x = GradientResidual(
        [
            layers.Conv2D(4, 3, padding="same"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dropout(0.3, seed=1),
            layers.Conv2D(6, 1),
            layers.BatchNormalization(),
        ],
        alpha=-1.0,
        shortcut=layers.Conv2D(6, 1),
        activation="relu",
        name="second",
    )(x)
    x = GradientResidualDense(residual="magnitude", axis=None, second_order=True)(x)
    return keras.Model(inputs, x)


# --- configuration and files ---


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize("name", BRANCHES)
def test_config_round_trip(name, built):
    case = BRANCHES[name]
    layer = GradientResidual(
        case.make(),
        residual="scaled" if case.trailing else "convex",
        alpha=keras.initializers.RandomNormal(seed=3),
        axis=(-1,),
        shortcut=case.shortcut(),
        activation="tanh",
        epsilon=1e-6,
        name="a_name",
        dtype="mixed_bfloat16",
    )
    if built:
        layer.build(case.shape)
    config = layer.get_config()
    copy = GradientResidual.from_config(config)
    assert copy.get_config() == config
    revived = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(layer)
    )
    assert revived.get_config() == config


@pytest.mark.parametrize("name", BRANCHES)
def test_clone_has_the_same_outputs(name):
    case = BRANCHES[name]
    layer = case.layer()
    copy = type(layer).from_config(layer.get_config())
    copy.build(case.shape)
    copy.set_weights(layer.get_weights())
    x = case.inputs()
    np.testing.assert_allclose(_numpy(copy(x)), _numpy(layer(x)), rtol=1e-6, atol=1e-7)


def test_files(tmp_path):
    x, y = _data((4, 6, 5, 4)), _data((4, 6, 5, 6), 1)
    model = _image_model()
    model.compile("adam", "mse")
    model.fit(x, y, batch_size=2, epochs=2, verbose=0)
    expected = model.predict(x, verbose=0)

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)
    assert loaded.get_layer("second").mix == model.get_layer("second").mix
    for a, b in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())

    model.save_weights(tmp_path / "model.weights.h5")
    clone = keras.models.clone_model(model)
    clone.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(clone.predict(x, verbose=0), expected)

    fresh = _image_model()
    fresh.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(fresh.predict(x, verbose=0), expected)


# --- training ---


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_one_step_of_fit(mode):
    # With a learning rate of 0 all that moves is the state. The last kernel is zero, so
    # that F and p are, whatever is dropped, and the output is x / 2.
    dense = layers.Dense(3, activity_regularizer=keras.regularizers.L2(0.1))
    norm = layers.BatchNormalization(momentum=0.9)
    drop = layers.Dropout(0.5, seed=4)
    branch = [
        dense,
        norm,
        layers.Activation("tanh"),
        drop,
        layers.Dense(3, kernel_initializer="zeros"),
    ]
    model = keras.Sequential([keras.Input((3,)), GradientResidual(branch)])
    x = _data((8, 3))
    model.compile(keras.optimizers.SGD(0.0), "mse", **mode)
    seed = np.array(drop.seed_generator.state.numpy())
    h = x @ _numpy(dense.kernel) + _numpy(dense.bias)
    history = model.fit(x, 0 * x, batch_size=8, shuffle=False, verbose=0)

    np.testing.assert_allclose(norm.moving_mean.numpy(), 0.1 * h.mean(0), rtol=1e-4)
    np.testing.assert_allclose(
        norm.moving_variance.numpy(), 0.9 + 0.1 * h.var(0), rtol=1e-4
    )
    state = drop.seed_generator.state.numpy()
    np.testing.assert_array_equal(state, np.add(seed, [0, 1]))
    loss = np.mean((x / 2) ** 2) + penalty(h)
    np.testing.assert_allclose(history.history["loss"], [loss], rtol=1e-4)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_modes_train_alike(mode):
    x, y = _data((8, 5)), _data((8, 5), 1)

    def weights(**mode):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input((5,)),
                GradientResidualDense(activation="tanh"),
                GradientResidualDense(activation="tanh", second_order=True),
            ]
        )
        model.compile(keras.optimizers.SGD(0.1), "mse", **mode)
        model.fit(x, y, batch_size=4, epochs=3, shuffle=False, verbose=0)
        return model.get_weights()

    expected = weights(run_eagerly=True)
    for a, b in zip(weights(**mode), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("mode", MODES[1:], ids=str)
def test_rematerialization_trains_alike(mode, second_order):
    # TensorFlow's stops all tapes, and the product would be zero in silence.
    x, y = _data((8, 5)), _data((8, 5), 1)

    def weights(scope):
        keras.utils.set_random_seed(0)
        branch = [layers.Dense(6, activation="tanh"), layers.Dense(5)]
        with keras.RematScope(mode=scope):
            layer = GradientResidual(branch, second_order=second_order)
        model = keras.Sequential([keras.Input((5,)), layer])
        model.compile(keras.optimizers.SGD(0.1), "mse", **mode)
        model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
        return model.get_weights()

    for a, b in zip(weights("full"), weights(None), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_steps_per_execution_and_evaluate():
    x = _data((8, 6, 5, 4))
    model = _image_model()
    steps = 1 if keras.backend.backend() == "torch" else 2  # Keras has no more there.
    model.compile("sgd", "mse", steps_per_execution=steps)
    target = model.predict(x, verbose=0)
    model.fit(x, target, batch_size=2, verbose=0)
    assert np.isfinite(model.evaluate(x, target, batch_size=2, verbose=0))
    model.train_on_batch(x, target)
    np.testing.assert_allclose(
        model.predict_on_batch(x[:2]), _numpy(model(x[:2])), rtol=1e-4, atol=1e-5
    )


def test_alpha_trains_and_can_be_frozen():
    x = _data((8, 5))
    for trainable in (True, False):
        layer = GradientResidualDense(trainable_alpha=trainable)
        model = keras.Sequential([keras.Input((5,)), layer])
        model.compile(keras.optimizers.SGD(0.1), "mse")
        model.fit(x, 2 * x, verbose=0)
        assert (layer.mix != 0.5) == trainable


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_dtype_policies(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = _image_model()
        model.compile("sgd", "mse")
        x = _data((4, 6, 5, 4))
        history = model.fit(x, _data((4, 6, 5, 6), 1), verbose=0)
    finally:
        keras.config.set_dtype_policy("float32")
    assert np.isfinite(history.history["loss"]).all()
    outputs = model(x)
    compute = policy.removeprefix("mixed_")
    assert keras.backend.standardize_dtype(outputs.dtype) == compute
    exact = _image_model()
    exact.set_weights(model.get_weights())
    np.testing.assert_allclose(
        np.asarray(_numpy(outputs), "float32"), _numpy(exact(x)), rtol=0.1, atol=0.1
    )


def test_layer_and_branch_of_different_dtypes():
    layer = GradientResidual(layers.Dense(3), dtype="float16")
    outputs = layer(_data((2, 3)).astype("float16"))
    assert keras.backend.standardize_dtype(outputs.dtype) == "float16"


# --- masks ---


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
    x = _data((2, 3, 4))
    other = np.where(mask[..., None], x, 7).astype("float32")
    layer.build(x.shape)

    def call(x):
        return _numpy(layer(x, mask=mask, training=True))

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
    np.testing.assert_array_equal(_numpy(seen[-1]), mask)


def test_mask_through_functional_branch_and_shortcut():
    x = keras.Input((None, 4))
    h = layers.LayerNormalization()(x)
    branch = keras.Model(x, layers.MultiHeadAttention(2, 2)(h, h))
    layer = GradientResidual(branch, shortcut=layers.Identity())
    mask = np.array([[True, True, False]])
    inputs = _data((1, 3, 4))
    other = np.where(mask[..., None], inputs, 7).astype("float32")
    a, b = (_numpy(layer(i, mask=mask)) for i in (inputs, other))
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
    x = _data((2, 3, 4))
    expected = _numpy(layer(x))
    for padding in (1, 4):
        padded = np.pad(x, ((0, 0), (0, padding), (0, 0)), constant_values=7)
        mask = np.broadcast_to(np.arange(3 + padding) < 3, padded.shape[:2])
        found = _numpy(layer(padded, mask=mask))[:, :3]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


# --- shapes and containers ---


@pytest.mark.parametrize("name", BRANCHES)
def test_symbolic_shape_is_the_eager_shape(name):
    case = BRANCHES[name]
    layer = case.layer()
    eager = tuple(layer(case.inputs()).shape)
    assert layer.compute_output_shape(case.shape) == eager
    unknown = layer(keras.KerasTensor((None, *case.shape[1:])))
    assert tuple(unknown.shape) == (None, *eager[1:])


def test_unknown_sizes():
    model = _image_model()
    assert model.output_shape == (None, None, None, 6)
    for shape in ((1, 7, 3, 4), (3, 4, 9, 4)):
        assert model.predict(_data(shape), verbose=0).shape == (*shape[:3], 6)
    layer = GradientResidualConv()
    layer.build((2, 8, 8, 3))
    for shape in ((2, 8, 8, 3), (3, 5, 6, 3)):
        other = GradientResidualConv()
        other.build(shape)
        other.set_weights(layer.get_weights())
        x = _data(shape)
        found, expected = _numpy(layer(x)), _numpy(other(x))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_model_around_the_layer(capsys):
    model = _image_model()
    model.summary()
    assert "second (GradientResidual)" in capsys.readouterr().out
    layer = model.get_layer("second")
    # alpha; two convolutions 3x3 and 1x1; two normalizations; the shortcut.
    assert layer.count_params() == 1 + (144 + 4) + 16 + (24 + 6) + 24 + (24 + 6)
    model.trainable = False
    assert model.trainable_variables == []
    assert isinstance(layer.branch, keras.Sequential)
    assert layer.branch(_data((1, 3, 3, 4))).shape == (1, 3, 3, 6)


def test_shared_layer():
    # Called twice, the layer is its own composition.
    inputs = keras.Input((5,))
    layer = GradientResidualDense(activation="tanh")
    model = keras.Model(inputs, layer(layer(inputs)))
    x = _data((3, 5))
    np.testing.assert_allclose(
        model.predict(x, verbose=0), _numpy(layer(layer(x))), rtol=1e-5, atol=1e-6
    )
    model.compile("sgd", "mse")
    model.fit(x, x, verbose=0)
    assert len(model.trainable_variables) == 5


def test_activity_losses():
    # In the first layer the regularized layer is in a part that was split off.
    def dense():
        return layers.Dense(5, activity_regularizer=keras.regularizers.L2(0.1))

    inputs = keras.Input((5,))
    split = GradientResidual([dense(), layers.Activation("tanh"), layers.Dense(5)])
    whole = GradientResidual([dense(), layers.Activation("tanh"), dense()])
    model = keras.Model(inputs, whole(split(inputs)))
    x = h = _data((4, 5))
    expected = 0.0
    for layer in (split, whole):
        inner = h
        for part in layer.branch.layers:
            inner = _numpy(part(inner))
            if part.activity_regularizer is not None:
                expected += penalty(inner)
        h = _numpy(layer(h))
    expected += np.mean(h**2)
    for mode in MODES:
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
    x = _data((4, 5))
    model.fit(x, x[:, :2], verbose=0)
    np.testing.assert_allclose(
        model.predict(x, verbose=0),
        _numpy(model.last(model.first(x))),
        rtol=1e-5,
        atol=1e-6,
    )
