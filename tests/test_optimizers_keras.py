"""Lookahead and AdaBound in Keras: training, files, configurations, building."""

import copy
import pickle

import keras
import numpy as np
import pytest
from helpers import MODES, Table, piecewise, slow_on
from keras import layers

from keras_gradres.optimizers import AdaBound, Lookahead

SGD = keras.optimizers.SGD

OPTIMIZERS = {
    "lookahead": lambda: Lookahead(SGD(0.1, momentum=0.9), 3, 0.5),
    "lookahead of a schedule": lambda: Lookahead(
        SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.8)), 2
    ),
    "lookahead of accumulation": lambda: Lookahead(
        SGD(0.1, gradient_accumulation_steps=2), 2
    ),
    "adabound": lambda: AdaBound(0.01, gamma=0.1),
    "amsbound": lambda: AdaBound(0.01, gamma=0.1, amsbound=True, clipnorm=0.5),
    "lookahead of adabound": lambda: Lookahead(AdaBound(0.01, use_ema=True), 2),
    "adabound from a rate of 0": lambda: AdaBound(piecewise(0.0, 0.01, 0.02, 0.01)),
}


def _fit(optimizer, mode, epochs=2):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    x = layers.Dense(8, activation="tanh")(inputs)
    model = keras.Model(inputs, layers.Dense(3)(x))
    model.compile(optimizer, "mse", **mode)
    return _train(model, epochs)


def _train(model, epochs):
    x = np.random.default_rng(0).normal(size=(28, 6)).astype("float32")
    model.fit(x, x[:, :3], batch_size=4, shuffle=False, epochs=epochs, verbose=0)
    return model


def _values(model):
    return [np.array(v.numpy()) for v in (*model.variables, *model.optimizer.variables)]


# PyTorch takes long to compile one.
COMPILED = "lookahead of adabound"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=slow_on("torch") if name == COMPILED else [])
        for name in OPTIMIZERS
    ],
)
def test_modes_train_alike(name):
    modes = MODES if name == COMPILED else MODES[1:]
    found = [_values(_fit(OPTIMIZERS[name](), mode)) for mode in modes]
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_resume_from_a_file(name, tmp_path):
    # Of two calls of `fit`: Keras puts the averages in place at the end of each.
    expected = _values(_train(_fit(OPTIMIZERS[name](), MODES[1], epochs=1), 3))
    model = _fit(OPTIMIZERS[name](), MODES[1], epochs=1)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for a, b in zip(_values(_train(loaded, 3)), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_config_round_trip(name):
    optimizer = OPTIMIZERS[name]()
    config = optimizer.get_config()
    assert type(optimizer).from_config(copy.deepcopy(config)).get_config() == config
    # With the base rate, which a changed rate must not replace.
    if isinstance(optimizer, AdaBound) and name != "adabound from a rate of 0":
        optimizer.learning_rate = 1.0
        revived = AdaBound.from_config(optimizer.get_config())
        assert revived.base_learning_rate == optimizer.base_learning_rate != 1.0


def _model(optimizer):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), layers.Dense(3)])
    # An object: `.h5` files with the name of a loss cannot be loaded by Keras.
    model.compile(optimizer, keras.losses.MeanSquaredError())
    return model


def _assert_same(model, other):
    for a, b in zip(_values(model), _values(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def _through_file(model, path):
    model.save(path)
    return keras.models.load_model(path)


def _built(model, path):
    model.optimizer.build(model.trainable_variables)
    return model


BEFORE_TRAINING = {
    "saved": _through_file,
    "pickled": lambda model, path: pickle.loads(pickle.dumps(model)),
    "copied": lambda model, path: copy.deepcopy(model),
    "built": _built,
}


@pytest.mark.parametrize("way", BEFORE_TRAINING)
def test_built_before_the_first_step(way, tmp_path):
    # Without momentum, whose state Keras misses, with a warning, in each optimizer.
    model = _model(Lookahead(SGD(0.1), 3))
    model = BEFORE_TRAINING[way](model, tmp_path / "model.keras")
    expected = _model(Lookahead(SGD(0.1), 3))
    _assert_same(_train(model, 1), _train(expected, 1))


def test_second_build():
    model = _train(_model(Lookahead(SGD(0.1, momentum=0.9), 3)), 1)
    before = _values(model)
    model.optimizer.build(model.trainable_variables)
    for a, b in zip(before, _values(model), strict=True):
        np.testing.assert_array_equal(a, b)
    for others in (
        _model("sgd").trainable_variables,
        model.trainable_variables[:1],
        model.trainable_variables[::-1],
    ):
        with pytest.raises(ValueError, match="is already built, for 2 variables"):
            model.optimizer.build(others)


def test_h5_files_keep_the_state(tmp_path):
    # Keras builds the optimizer of such a model for no variables, and sets its state.
    model = _train(_model(Lookahead("adam", 3)), 1)
    loaded = _through_file(model, tmp_path / "model.h5")
    assert int(keras.ops.convert_to_numpy(loaded.optimizer.iterations)) == 7
    _assert_same(_train(loaded, 1), _train(model, 1))


def test_state_of_another_optimizer_raises():
    optimizer = Lookahead("adam")
    optimizer.set_weights([np.zeros(())] * 5)
    with pytest.raises(ValueError, match="`weights` must have 7 entries"):
        optimizer.build([keras.Variable(np.zeros(2, "float32"))])


class Warming(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, rate):
        self.rate = rate

    def __call__(self, step):
        return self.rate * keras.ops.minimum(1.0, keras.ops.cast(step + 1, "float32"))


class Own(SGD):
    def __init__(self, rate):
        super().__init__(rate, momentum=0.9)


@pytest.mark.parametrize("make", [lambda: SGD(Warming(0.1)), lambda: Own(0.1)])
def test_lookahead_of_what_has_no_config(make):
    # With a slow step of 1 every step is that of the inner optimizer.
    found = _train(_model(Lookahead(make(), 2, slow_step_size=1)), 1)
    expected = _train(_model(make()), 1)
    for a, b in zip(found.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_lookahead_has_what_the_inner_optimizer_has():
    optimizer = Lookahead(SGD(0.5))
    model = Table([[1.0]])
    model.compile(optimizer, "mse")
    model.train_on_batch(np.zeros((1, 1)), np.zeros((1, 1)))
    assert int(optimizer.iterations) == 1
    assert float(optimizer.learning_rate) == 0.5
    optimizer.learning_rate = 0.25
    assert float(optimizer.inner_optimizer.learning_rate) == 0.25
