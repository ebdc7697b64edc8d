"""Everything that Keras offers keeps working around GAL: optimizers, modes, rates."""

import keras
import numpy as np
import pytest
from gal_cases import (
    MODE_IDS,
    assert_same,
    build,
    cross_entropy,
    fit,
    make_data,
    make_model,
    network_variables,
)
from helpers import EACH_MODE, MODES, Table, slow_on
from keras import ops

from keras_gradres.callbacks import Diagnostics
from keras_gradres.optimizers import GAL, AdaBound, Lookahead

optimizers = keras.optimizers


# What an inner optimizer can be, and can do.
INNER = {
    "sgd": lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: optimizers.Adam(0.01),
    "rmsprop": lambda: optimizers.RMSprop(0.01),
    "adamw": lambda: optimizers.AdamW(0.01, weight_decay=0.1),
    "clipnorm": lambda: optimizers.SGD(0.1, clipnorm=0.1),
    "clipvalue": lambda: optimizers.SGD(0.1, clipvalue=0.01),
    "global_clipnorm": lambda: optimizers.SGD(0.1, global_clipnorm=0.1),
    "ema": lambda: optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5),
    "ema_overwrite": lambda: optimizers.SGD(
        0.1, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2
    ),
    "accumulation": lambda: optimizers.SGD(0.1, gradient_accumulation_steps=3),
    "loss_scale_factor": lambda: optimizers.SGD(0.1, loss_scale_factor=64.0),
    "loss_scale": lambda: optimizers.LossScaleOptimizer(optimizers.SGD(0.1)),
    "schedule": lambda: optimizers.SGD(
        optimizers.schedules.ExponentialDecay(0.1, 1, 0.7)
    ),
    "lookahead": lambda: Lookahead(optimizers.SGD(0.1), sync_period=2),
    "adabound": lambda: AdaBound(0.01),
}
NOT_ADJUSTING = {
    "alpha": {"alpha": 0.0},
    "never": {"alpha": 0.5, "policy": "never"},
    # Tentative steps that are far too long: a squared error rejects each of them.
    "rejected": {"alpha": 0.5, "beta": 1e5},
}
CASES = [
    *(("alpha", inner) for inner in INNER),
    *((name, inner) for name in ("never", "rejected") for inner in ("sgd", "ema")),
]


@pytest.mark.parametrize(("name", "inner"), CASES)
def test_without_adjustment_it_is_the_inner_optimizer(name, inner):
    # To the bit, where no compiler rounds otherwise for what surrounds an operation.
    # The network is trained all the same, unless alpha is 0. In a graph, which takes
    # seconds on TensorFlow, with one optimizer of each kind; each is in one below.
    graph = inner in ("sgd", "ema")
    mode = {"jit_compile": False} if graph else {"run_eagerly": True}

    def train(optimizer, loss):
        model = make_model()
        model.compile(optimizer, loss, **mode)
        x, _ = make_data(24)
        model.fit(x, x[:, :3], batch_size=4, shuffle=False, verbose=0)
        return model

    gal = GAL(INNER[inner](), seed=0, **NOT_ADJUSTING[name])
    expected = train(INNER[inner](), "mse")
    found = train(gal, gal.loss("mse"))
    assert_same(found.get_weights(), expected.get_weights())
    assert gal.diagnostics["accepted"] == {"alpha": 1, "never": 0, "rejected": 0}[name]
    assert int(gal.iterations) == int(expected.optimizer.iterations)
    biases = [v.numpy() for v in network_variables(gal) if "bias" in v.path]
    assert all(b.any() == (name != "alpha") for b in biases)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        pytest.param("rejected", MODES[0], marks=slow_on("torch")),
        *((n, MODES[2]) for n in NOT_ADJUSTING),
    ],
)
def test_without_adjustment_in_each_mode(name, mode):
    x, _ = make_data(24)
    weights = []
    inner = optimizers.Adam(0.01, epsilon=1e-3)
    gal = GAL(optimizers.Adam(0.01, epsilon=1e-3), seed=0, **NOT_ADJUSTING[name])
    for optimizer, loss in ((inner, "mse"), (gal, gal.loss("mse"))):
        model = make_model()
        model.compile(optimizer, loss, **mode)
        model.fit(x, x[:, :3], batch_size=4, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    # Compiled kernels are cut at the hooks, and round otherwise.
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if mode.get("jit_compile") else {}
    assert_same(*weights, **tolerance)


@pytest.mark.parametrize("inner", INNER)
def test_adjustment_trains_with_every_inner_optimizer(inner):
    plain = fit(INNER[inner](), cross_entropy())
    found = []
    for mode in MODES[1:]:
        gal = GAL(INNER[inner](), alpha=0.5, seed=0)
        model = fit(gal, mode=mode)
        found.append([*model.get_weights(), *(v.numpy() for v in gal.variables)])
        assert gal.diagnostics["accepted"] > 0
        # The biases of the network began as zeros.
        assert all(np.abs(v.numpy()).max() > 0 for v in network_variables(gal))
    assert_same(*found, rtol=1e-4, atol=1e-5)
    weights = zip(found[0], plain.get_weights(), strict=False)
    assert any(np.abs(a - b).max() > 1e-5 for a, b in weights)


@pytest.mark.slow
def test_modes_train_alike():
    found = []
    for mode in MODES:
        gal = GAL(optimizers.SGD(0.1, momentum=0.9), alpha=0.5, seed=0)
        model = fit(gal, mode=mode)
        found.append([*model.get_weights(), *(v.numpy() for v in gal.variables)])
    assert_same(found[1], found[0], rtol=1e-4, atol=1e-5)
    assert_same(found[2], found[0], rtol=1e-4, atol=1e-5)


def test_graph_is_eager_each_time():
    # What an order that is not determined would change: that of tracing, and that of
    # running what was traced.
    def runs(mode, count):
        gal = GAL(optimizers.SGD(0.1, momentum=0.9), alpha=0.5, seed=0)
        model = make_model()
        build(gal, model)
        variables = [*model.variables, *gal.variables]
        start = [np.array(v.numpy()) for v in variables]
        x, y = make_data(16)
        model.compile(gal, loss=gal.loss(cross_entropy()), **mode)
        for _ in range(count):
            for v, value in zip(variables, start, strict=True):
                v.assign(value)
            model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
            weights = [*model.variables, *network_variables(gal)]
            yield [np.array(v.numpy()) for v in weights]

    (expected,) = runs({"run_eagerly": True}, 1)
    for _ in range(4):
        for found in runs({"jit_compile": False}, 5):
            assert_same(found, expected, rtol=1e-5, atol=1e-6)


class Counting(keras.Layer):
    """A network that counts the runs of its Python code."""

    runs = 0

    def call(self, z):
        self.runs += 1
        return z + 1.0


@pytest.mark.parametrize("mode", EACH_MODE[:2], ids=MODE_IDS[:2])
def test_nothing_is_compiled_after_the_second_step(mode):
    torch = keras.backend.backend() == "torch"
    if keras.backend.backend() != "tensorflow" and not mode["jit_compile"]:
        pytest.skip("nothing is compiled")
    network = Counting()
    model = make_model()
    gal = GAL("sgd", network=network)
    model.compile(gal, gal.loss(cross_entropy()), **mode)
    x, y = make_data(8)
    found = []
    for _ in range(6):
        model.train_on_batch(x, y)
        if torch:
            from torch._dynamo.utils import counters

            found.append(counters["stats"]["unique_graphs"])
        else:
            found.append(network.runs)
    assert found[1] > 0
    assert found[1:] == [found[1]] * 5


def test_steps_per_execution():
    if keras.backend.backend() == "torch":
        pytest.skip("Keras has no steps_per_execution on PyTorch")
    found = []
    for steps in (1, 3):
        gal = GAL(optimizers.SGD(0.1), alpha=0.5, seed=0)
        mode = {"jit_compile": True, "steps_per_execution": steps}
        found.append(fit(gal, mode=mode).get_weights())
    assert_same(*found, rtol=1e-5, atol=1e-6)


def test_train_on_batch_is_fit():
    gal = GAL("sgd", alpha=0.5, seed=0)
    expected = fit(gal).get_weights()
    model = make_model()
    gal = GAL("sgd", alpha=0.5, seed=0)
    model.compile(gal, gal.loss(cross_entropy()))
    x, y = make_data(24)
    for i in range(0, 24, 4):
        model.train_on_batch(x[i : i + 4], y[i : i + 4])
    assert_same(model.get_weights(), expected, rtol=1e-5, atol=1e-6)


def test_last_batch_may_be_smaller():
    model = make_model()
    gal = GAL("sgd", alpha=0.5)
    model.compile(gal, gal.loss(cross_entropy()))
    x, y = make_data(10)
    model.fit(x, y, batch_size=4, verbose=0)
    assert int(model.optimizer.iterations) == 3


# --- the learning rate ---


def test_tentative_step_follows_the_learning_rate():
    # |r| is that of half a squared error: eta~^2 |g|^2 / 2, see test_gal.
    def half_squared_error(y_true, y_pred):
        return ops.sum(ops.square(y_pred - y_true), axis=-1) / 2

    def remainders(inner, *callbacks):
        model = Table([[3.0, 4.0]])
        gal = GAL(inner, alpha=0.0, adjustment_optimizer="sgd")
        model.compile(gal, gal.loss(half_squared_error))
        history = model.fit(
            np.zeros((1, 1)),
            np.zeros((1, 2)),
            epochs=3,
            verbose=0,
            callbacks=[*callbacks, Diagnostics()],
        )
        rates = history.history.get("learning_rate")
        return history.history["gal_remainder"], history.history["loss"], rates

    expected_rates = [0.1, 0.05, 0.025]
    schedule = optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)
    halving = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 * 0.5**epoch)
    for found, losses, _ in (
        remainders(optimizers.SGD(schedule)),
        remainders(optimizers.SGD(0.1), halving),
    ):
        # |g|^2 / 2 is the loss itself.
        expected = [r**2 * loss for r, loss in zip(expected_rates, losses, strict=True)]
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    plateau = keras.callbacks.ReduceLROnPlateau("loss", 0.5, patience=1, min_delta=1e9)
    _, _, rates = remainders(optimizers.SGD(0.1), plateau)
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.05], rtol=1e-6)


def test_network_has_the_rate_of_the_model():
    # With a rate of 0, and momentum, nothing moves.
    gal = GAL(optimizers.SGD(0.1, momentum=0.9), alpha=0.5, seed=0)
    gal.learning_rate = 0.0
    model = fit(gal)
    assert_same(model.get_weights(), make_model().get_weights())
    assert not any(v.numpy().any() for v in network_variables(gal) if "bias" in v.path)


def test_network_is_trained_in_the_rhythm_of_the_model():
    gal = GAL(optimizers.SGD(0.1, gradient_accumulation_steps=2), alpha=0.5, seed=0)
    model = make_model()
    model.compile(gal, gal.loss(cross_entropy()))
    x, y = make_data(4)
    moved = []
    before = None
    for _ in range(4):
        model.train_on_batch(x, y)
        now = [v.numpy().copy() for v in (*model.variables, *network_variables(gal))]
        if before is not None:
            same = [np.array_equal(a, b) for a, b in zip(now, before, strict=True)]
            assert all(same) or not any(same)
            moved.append(not all(same))
        before = now
    assert moved == [True, False, True]


def test_adjustment_optimizer():
    gal = GAL(
        optimizers.SGD(0.1), alpha=0.5, adjustment_optimizer=optimizers.SGD(0.0), seed=0
    )
    model = fit(gal)
    assert np.abs(model.get_weights()[1]).max() > 0
    assert not any(v.numpy().any() for v in network_variables(gal) if "bias" in v.path)
