"""Configurations, files, training and dtypes: Keras around the layers."""

import keras
import numpy as np
import pytest
from branches import BRANCHES
from helpers import EACH_MODE, MODES, penalty, to_numpy
from keras import layers
from keras_cases import data, image_model

from keras_gradres.layers import (
    GradientResidual,
    GradientResidualDense,
)


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
    np.testing.assert_allclose(
        to_numpy(copy(x)), to_numpy(layer(x)), rtol=1e-6, atol=1e-7
    )


def test_files(tmp_path):
    x, y = data((4, 6, 5, 4)), data((4, 6, 5, 6), 1)
    model = image_model()
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

    fresh = image_model()
    fresh.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(fresh.predict(x, verbose=0), expected)


@pytest.mark.parametrize("mode", EACH_MODE, ids=str)
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
    x = data((8, 3))
    model.compile(keras.optimizers.SGD(0.0), "mse", **mode)
    seed = np.array(drop.seed_generator.state.numpy())
    h = x @ to_numpy(dense.kernel) + to_numpy(dense.bias)
    history = model.fit(x, 0 * x, batch_size=8, shuffle=False, verbose=0)

    np.testing.assert_allclose(norm.moving_mean.numpy(), 0.1 * h.mean(0), rtol=1e-4)
    np.testing.assert_allclose(
        norm.moving_variance.numpy(), 0.9 + 0.1 * h.var(0), rtol=1e-4
    )
    state = drop.seed_generator.state.numpy()
    np.testing.assert_array_equal(state, np.add(seed, [0, 1]))
    loss = np.mean((x / 2) ** 2) + penalty(h)
    np.testing.assert_allclose(history.history["loss"], [loss], rtol=1e-4)


@pytest.mark.parametrize("mode", EACH_MODE, ids=str)
def test_modes_train_alike(mode):
    x, y = data((8, 5)), data((8, 5), 1)

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
    x, y = data((8, 5)), data((8, 5), 1)

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
    x = data((8, 6, 5, 4))
    model = image_model()
    steps = 1 if keras.backend.backend() == "torch" else 2  # Keras has no more there.
    model.compile("sgd", "mse", steps_per_execution=steps)
    target = model.predict(x, verbose=0)
    model.fit(x, target, batch_size=2, verbose=0)
    found = model.evaluate(x, target, batch_size=2, verbose=0)
    expected = np.mean(np.square(model.predict(x, verbose=0) - target))
    assert found == pytest.approx(expected, rel=1e-4)
    model.train_on_batch(x, target)
    np.testing.assert_allclose(
        model.predict_on_batch(x[:2]), to_numpy(model(x[:2])), rtol=1e-4, atol=1e-5
    )


def test_alpha_trains_and_can_be_frozen():
    x = data((8, 5))
    for trainable in (True, False):
        layer = GradientResidualDense(trainable_alpha=trainable)
        model = keras.Sequential([keras.Input((5,)), layer])
        model.compile(keras.optimizers.SGD(0.1), "mse")
        model.fit(x, 2 * x, verbose=0)
        assert (layer.mix != 0.5) == trainable


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_dtype_policies(policy, dtype_policy):
    with dtype_policy(policy):
        model = image_model()
        model.compile("sgd", "mse")
        x = data((4, 6, 5, 4))
        history = model.fit(x, data((4, 6, 5, 6), 1), verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    outputs = model(x)
    compute = policy.removeprefix("mixed_")
    assert keras.backend.standardize_dtype(outputs.dtype) == compute
    exact = image_model()
    exact.set_weights(model.get_weights())
    np.testing.assert_allclose(
        np.asarray(to_numpy(outputs), "float32"), to_numpy(exact(x)), rtol=0.1, atol=0.1
    )


def test_layer_and_branch_of_different_dtypes():
    layer = GradientResidual(layers.Dense(3), dtype="float16")
    outputs = layer(data((2, 3)).astype("float16"))
    assert keras.backend.standardize_dtype(outputs.dtype) == "float16"
