"""Everything that Keras offers keeps working around GAL."""

import json
import os
import pathlib
import subprocess
import sys

import gal_resume_worker as resume
import keras
import numpy as np
import pytest
from helpers import Assign, Table
from keras import layers, ops

from keras_gradres.callbacks import Diagnostics
from keras_gradres.layers import GradientResidualDense
from keras_gradres.optimizers import GAL, AdaBound, Lookahead

MODES = [{"jit_compile": True}, {"jit_compile": False}, {"run_eagerly": True}]
MODE_IDS = ["jit", "graph", "eager"]
# Without, JAX compiles each operation by itself; with, the others take long.
QUICK = {"jit_compile": keras.backend.backend() == "jax"}
optimizers = keras.optimizers


def _data(n=32, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6)).astype("float32")
    return x, rng.integers(0, classes, n)


def _model(seed=0):
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((6,))
    x = layers.Dense(8, activation="tanh")(x)
    return keras.Model(inputs, layers.Dense(3)(x))


def _loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _fit(optimizer, loss=None, *, steps=6, mode=None, model=None, **arguments):
    model = model or _model()
    mode = mode or QUICK
    model.compile(optimizer, loss=loss or optimizer.loss(_loss()), **mode)
    x, y = _data(4 * steps)
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0, **arguments)
    return model


def _networks(gal):
    return [v for network in gal.networks for v in network.variables]


def _assert_same(found, expected, **tolerance):
    for a, b in zip(found, expected, strict=True):
        if tolerance:
            np.testing.assert_allclose(a, b, **tolerance)
        else:
            np.testing.assert_array_equal(a, b)


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
    # The network is trained all the same, unless alpha is 0.
    def train(optimizer, loss):
        model = _model()
        model.compile(optimizer, loss, jit_compile=False)
        x, _ = _data(24)
        model.fit(x, x[:, :3], batch_size=4, shuffle=False, verbose=0)
        return model

    gal = GAL(INNER[inner](), seed=0, **NOT_ADJUSTING[name])
    expected = train(INNER[inner](), "mse")
    found = train(gal, gal.loss("mse"))
    _assert_same(found.get_weights(), expected.get_weights())
    assert gal.diagnostics["accepted"] == {"alpha": 1, "never": 0, "rejected": 0}[name]
    assert int(gal.iterations) == int(expected.optimizer.iterations)
    biases = [v.numpy() for v in _networks(gal) if "bias" in v.path]
    assert all(b.any() == (name != "alpha") for b in biases)


@pytest.mark.parametrize(
    ("name", "mode"), [("rejected", MODES[0]), *((n, MODES[2]) for n in NOT_ADJUSTING)]
)
def test_without_adjustment_in_each_mode(name, mode):
    x, _ = _data(24)
    weights = []
    inner = optimizers.Adam(0.01, epsilon=1e-3)
    gal = GAL(optimizers.Adam(0.01, epsilon=1e-3), seed=0, **NOT_ADJUSTING[name])
    for optimizer, loss in ((inner, "mse"), (gal, gal.loss("mse"))):
        model = _model()
        model.compile(optimizer, loss, **mode)
        model.fit(x, x[:, :3], batch_size=4, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    # Compiled kernels are cut at the hooks, and round otherwise.
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if mode.get("jit_compile") else {}
    _assert_same(*weights, **tolerance)


@pytest.mark.parametrize("inner", INNER)
def test_adjustment_trains_with_every_inner_optimizer(inner):
    plain = _fit(INNER[inner](), _loss())
    found = []
    for mode in MODES[1:]:
        gal = GAL(INNER[inner](), alpha=0.5, seed=0)
        model = _fit(gal, mode=mode)
        found.append([*model.get_weights(), *(v.numpy() for v in gal.variables)])
        assert gal.diagnostics["accepted"] > 0
        # The biases of the network began as zeros.
        assert all(np.abs(v.numpy()).max() > 0 for v in _networks(gal))
    _assert_same(*found, rtol=1e-4, atol=1e-5)
    weights = zip(found[0], plain.get_weights(), strict=False)
    assert any(np.abs(a - b).max() > 1e-5 for a, b in weights)


def test_modes_train_alike():
    found = []
    for mode in MODES:
        gal = GAL(optimizers.SGD(0.1, momentum=0.9), alpha=0.5, seed=0)
        model = _fit(gal, mode=mode)
        found.append([*model.get_weights(), *(v.numpy() for v in gal.variables)])
    _assert_same(found[1], found[0], rtol=1e-4, atol=1e-5)
    _assert_same(found[2], found[0], rtol=1e-4, atol=1e-5)


def test_graph_is_eager_each_time():
    def run(mode):
        gal = GAL(optimizers.SGD(0.1, momentum=0.9), alpha=0.5, seed=0)
        model = _fit(gal, mode=mode, steps=4)
        return [*model.get_weights(), *(v.numpy() for v in _networks(gal))]

    expected = run({"run_eagerly": True})
    for _ in range(20):
        _assert_same(run({"jit_compile": False}), expected, rtol=1e-5, atol=1e-6)


class Counting(keras.Layer):
    """A network that counts the runs of its Python code."""

    runs = 0

    def call(self, z):
        self.runs += 1
        return z + 1.0


@pytest.mark.parametrize("mode", MODES[:2], ids=MODE_IDS[:2])
def test_nothing_is_compiled_after_the_second_step(mode):
    torch = keras.backend.backend() == "torch"
    if keras.backend.backend() != "tensorflow" and not mode["jit_compile"]:
        pytest.skip("nothing is compiled")
    network = Counting()
    model = _model()
    gal = GAL("sgd", network=network)
    model.compile(gal, gal.loss(_loss()), **mode)
    x, y = _data(8)
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
        found.append(_fit(gal, mode=mode).get_weights())
    _assert_same(*found, rtol=1e-5, atol=1e-6)


def test_train_on_batch_is_fit():
    gal = GAL("sgd", alpha=0.5, seed=0)
    expected = _fit(gal).get_weights()
    model = _model()
    gal = GAL("sgd", alpha=0.5, seed=0)
    model.compile(gal, gal.loss(_loss()))
    x, y = _data(24)
    for i in range(0, 24, 4):
        model.train_on_batch(x[i : i + 4], y[i : i + 4])
    _assert_same(model.get_weights(), expected, rtol=1e-5, atol=1e-6)


def test_last_batch_may_be_smaller():
    model = _model()
    gal = GAL("sgd", alpha=0.5)
    model.compile(gal, gal.loss(_loss()))
    x, y = _data(10)
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
    model = _fit(gal)
    _assert_same(model.get_weights(), _model().get_weights())
    assert not any(v.numpy().any() for v in _networks(gal) if "bias" in v.path)


def test_network_is_trained_in_the_rhythm_of_the_model():
    gal = GAL(optimizers.SGD(0.1, gradient_accumulation_steps=2), alpha=0.5, seed=0)
    model = _model()
    model.compile(gal, gal.loss(_loss()))
    x, y = _data(4)
    moved = []
    before = None
    for _ in range(4):
        model.train_on_batch(x, y)
        now = [v.numpy().copy() for v in (*model.variables, *_networks(gal))]
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
    model = _fit(gal)
    assert np.abs(model.get_weights()[1]).max() > 0
    assert not any(v.numpy().any() for v in _networks(gal) if "bias" in v.path)


# --- outputs and upstream gradients ---


def _table_step(z, y, loss, gal_arguments, **arguments):
    """The gradient at the table, the gradient of the network's bias."""
    z = np.array(z, "float32")
    network = keras.Sequential([layers.Dense(z.shape[-1])])
    network.build((None, *z.shape[1:]))
    rng = np.random.default_rng(1)
    network.set_weights([rng.normal(size=w.shape) for w in network.get_weights()])
    gal = GAL(
        Assign(0.5),
        network=network,
        adjustment_optimizer=Assign(1.0),
        **{"alpha": 0.5, "policy": "always", **gal_arguments},
    )
    model = Table(z)
    compiling = {k: arguments.pop(k) for k in ("loss_weights",) if k in arguments}
    model.compile(gal, gal.loss(loss), **compiling)
    model.train_on_batch(np.zeros((len(z), 1)), np.array(y), **arguments)
    return model.table.numpy(), network.layers[0].bias.numpy()


@pytest.mark.parametrize("granularity", ["sample", "batch"])
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum"])
def test_upstream_gradient_is_the_true_one(granularity, reduction):
    z = np.random.default_rng(0).normal(size=(4, 3))
    y = [0, 1, 2, 0]
    loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction=reduction
    )
    arguments = {"granularity": granularity}
    plain, _ = _table_step(z, y, loss, {**arguments, "alpha": 0.0})
    base, base_theta = _table_step(z, y, loss, arguments)
    assert np.abs(base - plain).max() > 1e-3
    # The adjustment is half as long as the gradient, of each sample.
    lengths = np.linalg.norm(base - plain, axis=1) / np.linalg.norm(plain, axis=1)
    np.testing.assert_allclose(lengths, 0.5, rtol=1e-5)
    # A loss weight is a factor of the gradient, and none of the remainder.
    found, theta = _table_step(z, y, loss, arguments, loss_weights=4.0)
    np.testing.assert_allclose(found, 4 * base, rtol=1e-6)
    np.testing.assert_allclose(theta, base_theta, rtol=1e-5)
    found, _ = _table_step(z, y, loss, arguments, loss_weights=3.0)
    np.testing.assert_allclose(found, 3 * base, rtol=1e-6)
    weight = np.array([1.0, 0.0, 3.0, 1.0])
    found, _ = _table_step(z, y, loss, arguments, sample_weight=weight)
    expected, _ = _table_step(z, y, loss, {"alpha": 0.0}, sample_weight=weight)
    np.testing.assert_array_equal(found[1], 0 * found[1])
    if granularity == "sample":
        np.testing.assert_allclose(found, weight[:, None] * base, rtol=1e-6)
    else:
        lengths = np.linalg.norm(found - expected, axis=1)
        lengths /= np.maximum(np.linalg.norm(expected, axis=1), 1e-9)
        np.testing.assert_allclose(lengths, [0.5, 0, 0.5, 0.5], rtol=1e-5)
    found, _ = _table_step(z, y, loss, arguments, class_weight={0: 1.0, 1: 0.0, 2: 3.0})
    if granularity == "sample":
        np.testing.assert_allclose(found, weight[:, None] * base, rtol=1e-6)


def test_labels_do_not_reach_the_network():
    # Whatever the labels, the direction of the adjustment is that of h(z).
    z = np.random.default_rng(0).normal(size=(4, 3))
    directions = []
    for y in ([0, 1, 2, 0], [1, 1, 0, 2]):
        plain, _ = _table_step(z, y, _loss(), {"alpha": 0.0})
        found, _ = _table_step(z, y, _loss(), {})
        change = found - plain
        directions.append(change / np.linalg.norm(change, axis=1, keepdims=True))
    np.testing.assert_allclose(directions[1], directions[0], rtol=1e-4, atol=1e-5)


def test_masked_samples_are_left_out():
    rng = np.random.default_rng(0)
    steps = rng.normal(size=(2, 4, 5)).astype("float32")
    steps[0, 2:] = 0
    y = rng.integers(0, 3, (2, 4))

    def run(optimizer, loss):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((None, 5))
        masked = layers.Masking()(inputs)
        outputs = layers.Dense(3)(layers.Dense(4)(masked))
        model = keras.Model(inputs, outputs)
        model.compile(optimizer, loss)
        value = model.train_on_batch(steps, y)
        return value, model.get_weights()

    expected, plain = run("sgd", _loss())
    gal = GAL("sgd", alpha=0.0)
    value, weights = run(gal, gal.loss(_loss()))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    _assert_same(weights, plain, rtol=1e-6, atol=1e-7)
    gal = GAL("sgd", alpha=0.5, seed=0)
    _, weights = run(gal, gal.loss(_loss()))
    assert any((a != b).any() for a, b in zip(weights, plain, strict=True))
    # What stands at a masked step does not count.
    y[0, 2:] = (y[0, 2:] + 1) % 3
    other = GAL("sgd", alpha=0.5, seed=0)
    run(other, other.loss(_loss()))
    for name, value in gal.diagnostics.items():
        np.testing.assert_allclose(other.diagnostics[name], value, rtol=1e-6)


def _two_outputs():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    x = layers.Dense(8, activation="tanh")(inputs)
    outputs = {
        "kind": layers.Dense(3, name="kind")(x),
        "size": layers.Dense(2, name="size")(x),
        "extra": layers.Dense(1, name="extra")(x),
    }
    return keras.Model(inputs, outputs)


def test_several_outputs_each_with_a_network(tmp_path):
    x, y = _data(16)
    targets = {"kind": y, "size": x[:, :2], "extra": x[:, 2:3]}
    found = []
    for weights in ({}, {"loss_weights": {"kind": 1.0, "size": 0.0, "extra": 1.0}}):
        model = _two_outputs()
        gal = GAL(optimizers.SGD(0.1), alpha=0.5, seed=0)
        losses = gal.loss({"kind": _loss(), "size": "mse"})
        model.compile(gal, {**losses, "extra": "mae"}, **weights)
        model.fit(x, targets, epochs=2, batch_size=8, verbose=0)
        found.append(gal.diagnostics)
        assert gal.output_shapes == [(None, 3), (None, 2)]
        kernels = [v.shape for v in _networks(gal) if "kernel" in v.path]
        assert kernels[0] == (3, 100)
        assert kernels[4] == (2, 100)
    assert found[0]["remainder_0"] > 0
    assert found[0]["remainder_1"] > 0
    assert set(found[0]) == set(found[1])
    assert found[1]["remainder_1"] == 0  # It has no gradient.
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for m in (model, loaded):
        m.fit(x, targets, batch_size=8, shuffle=False, verbose=0)
    _assert_same(loaded.get_weights(), model.get_weights(), rtol=1e-5, atol=1e-6)


SHAPES = {
    "numbers": ((6,), lambda y, z: ops.square(y - z)),
    "one": ((6, 1), "mse"),
    "vector": ((6, 3), "mse"),
    "boxes": ((2, 5, 4), "mse"),
    "maps": ((2, 4, 4, 3), "mse"),
    "whole maps": ((2, 4, 4, 3), lambda y, z: ops.mean(ops.square(y - z), (1, 2, 3))),
    "elementwise": ((6, 3), lambda y, z: ops.square(y - z)),
}


@pytest.mark.parametrize("granularity", ["sample", "batch", "reference"])
@pytest.mark.parametrize("name", SHAPES)
def test_outputs_of_any_rank(name, granularity):
    shape, loss = SHAPES[name]
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(2, *shape)).astype("float32")
    gal = GAL(
        optimizers.SGD(0.1), alpha=0.5, policy="always", granularity=granularity, seed=0
    )
    plain, adjusted = Table(z), Table(z)
    plain.compile(optimizers.SGD(0.1), loss)
    adjusted.compile(gal, gal.loss(loss))
    for model in (plain, adjusted):
        model.train_on_batch(np.zeros((len(z), 1)), y)
    change = (adjusted.table.numpy() - plain.table.numpy()) / 0.1
    gradient = (plain.table.numpy() - z) / 0.1
    # Alike long, by half, as the gradient, over what has one loss; over all entries
    # where these are the samples themselves.
    samples = {"boxes": 2, "maps": 3}.get(name, 1)
    axes = tuple(range(samples, len(shape)))
    if name in ("numbers", "one") or (name, granularity) == ("elementwise", "sample"):
        axes = tuple(range(len(shape)))
    if name == "elementwise":
        axes = tuple(range(len(shape)))
    ratio = np.sqrt((change**2).sum(axes) / (gradient**2).sum(axes))
    np.testing.assert_allclose(ratio, 0.5, rtol=1e-3)
    assert any(v.numpy().any() for v in _networks(gal) if "bias" in v.path)


def test_unknown_sizes():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None, None, 2))
    model = keras.Model(inputs, layers.Conv2D(3, 1)(inputs))
    gal = GAL("sgd", alpha=0.5, network=layers.Conv2D(3, 3, padding="same"))
    model.compile(gal, gal.loss(_loss()))
    rng = np.random.default_rng(0)
    for size in (4, 6):
        x = rng.normal(size=(3, size, size, 2))
        model.train_on_batch(x, rng.integers(0, 3, (3, size, size)))
    assert gal.diagnostics["remainder"] > 0


# --- networks ---


class Noise(keras.Layer):
    """The random generator of Table VI."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.generator = keras.random.SeedGenerator(0)

    def call(self, z):
        return keras.random.normal(ops.shape(z), seed=self.generator)


NETWORKS = {
    "recurrent": lambda: layers.GRU(3, return_sequences=True),
    "convolutional": lambda: layers.Conv1D(3, 3, padding="same"),
    "stateful": lambda: keras.Sequential(
        [layers.Dense(8), layers.BatchNormalization(), layers.Dropout(0.5, seed=0),
         layers.Dense(3, kernel_regularizer="l2")]
    ),
    "random": Noise,
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES[1:], ids=MODE_IDS[1:])
@pytest.mark.parametrize("name", NETWORKS)
def test_any_network(name, mode):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 7, 5)).astype("float32")
    y = rng.integers(0, 3, (4, 7))
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((7, 5)), layers.Dense(3)])
    network = NETWORKS[name]()
    gal = GAL(optimizers.SGD(0.1), alpha=0.5, network=network)
    model.compile(gal, gal.loss(_loss()), **mode)
    model.train_on_batch(x, y)
    ids = {id(v) for v in gal.variables}
    assert all(id(v) in ids for v in network.variables)
    before = [v.numpy().copy() for v in network.variables]
    model.train_on_batch(x, y)
    for v, old in zip(network.variables, before, strict=True):
        # But for the seed of the GRU, which has no dropout.
        assert (v.numpy() != old).any() or name == "recurrent", v.path
    assert gal.diagnostics["accepted"] > 0


@pytest.mark.parametrize("normalize", [True, False])
def test_normalization_of_the_network_output(normalize):
    z = np.array([[3.0, 4.0]], "float32")
    network = layers.Dense(2, kernel_initializer="zeros", bias_initializer="ones")
    model = Table(z)
    gal = GAL(
        Assign(0.1), 0.2, network=network, normalize=normalize, policy="always",
        adjustment_optimizer=optimizers.SGD(0.0),
    )  # fmt: skip
    model.compile(gal, gal.loss("mse"))
    model.train_on_batch(np.zeros((1, 1)), np.zeros((1, 2)))
    # dl/dz = z, of length 5; v = (1, 1), of length sqrt(2).
    change = 0.2 * 5 * (1 / np.sqrt(2) if normalize else 1)
    np.testing.assert_allclose(model.table.numpy(), z + change, rtol=1e-5)


def test_built_network_keeps_its_weights():
    network = layers.Dense(3)
    network.build((None, 3))
    weights = network.get_weights()
    _fit(GAL(optimizers.SGD(0.0), network=network))
    _assert_same(network.get_weights(), weights)


def test_seed_makes_the_network():
    def weights(seed):
        gal = GAL("sgd", seed=seed)
        gal.output_shapes = [(None, 3)]
        gal.build(_model().trainable_variables)
        return np.concatenate([v.numpy().ravel() for v in _networks(gal)])

    assert (weights(1) == weights(1)).all()
    assert (weights(1) != weights(2)).any()


class Raising(keras.Layer):
    """Returns its input, or raises where it is told to."""

    forbidden = False

    def call(self, z):
        assert not Raising.forbidden
        return z + 1.0


@pytest.mark.parametrize("mode", MODES[1:], ids=MODE_IDS[1:])
def test_network_is_not_run_outside_training(mode):
    gal = GAL("sgd", network=Raising())
    model = _fit(gal, mode=mode)
    x, y = _data(8)
    Raising.forbidden = True
    try:
        model.evaluate(x, y, verbose=0)
        model.predict(x, verbose=0)
        model.test_on_batch(x[:3], y[:3])
    finally:
        Raising.forbidden = False


# --- models ---


def test_model_with_its_own_loss_and_subclass():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = GradientResidualDense(activation="tanh")
            self.last = layers.Dense(3)

        def call(self, x, training=None):
            return self.last(self.dense(x))

        def compute_loss(self, x, y, y_pred, sample_weight, training=True):
            return adjusted(y, y_pred) + 0.1 * ops.mean(ops.square(y_pred))

    gal = GAL("sgd", alpha=0.5, output_shapes=[(None, 3)])
    adjusted = gal.loss(_loss())
    model = Model()
    model.compile(gal)
    x, y = _data(8)
    model.fit(x, y, verbose=0)
    assert gal.diagnostics["remainder"] > 0


def test_model_with_its_own_train_step():
    class Model(keras.Model):
        def train_step(self, *arguments):
            self.steps = getattr(self, "steps", 0) + 1
            return super().train_step(*arguments)

    inputs = keras.Input((6,))
    model = Model(inputs, layers.Dense(3)(inputs))
    gal = GAL("sgd", alpha=0.5)
    _fit(gal, model=model)
    assert model.steps > 0
    assert gal.diagnostics["remainder"] > 0


def test_keras_application():
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNet(
        (32, 32, 3), alpha=0.25, weights=None, classes=4, classifier_activation=None
    )
    gal = GAL("sgd", alpha=0.1)
    model.compile(gal, gal.loss(_loss()), **QUICK)
    rng = np.random.default_rng(0)
    model.fit(rng.normal(size=(4, 32, 32, 3)), rng.integers(0, 4, 4), verbose=0)
    assert gal.diagnostics["accepted"] > 0


# --- precision ---


@pytest.mark.parametrize("mode", MODES[1:], ids=MODE_IDS[1:])
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy, mode):
    keras.config.set_dtype_policy(policy)
    try:
        inner = optimizers.SGD(0.1)
        if policy == "mixed_float16":
            inner = optimizers.LossScaleOptimizer(inner, initial_scale=2.0**10)
        gal = GAL(inner, alpha=0.5, seed=0)
        half = _fit(gal, mode={**mode, "auto_scale_loss": False})
    finally:
        keras.config.set_dtype_policy("float32")
    assert gal.diagnostics["dropped"] == 0
    assert all(keras.backend.standardize_dtype(v.dtype) == "float32"
               for v in _networks(gal))  # fmt: skip
    full = _fit(GAL(optimizers.SGD(0.1), alpha=0.5, seed=0), mode=mode)
    _assert_same(half.get_weights(), full.get_weights(), rtol=0.05, atol=0.05)


def test_overflow_under_loss_scaling_skips_the_step():
    inner = optimizers.LossScaleOptimizer(optimizers.SGD(0.1), initial_scale=3e38)
    gal = GAL(inner, alpha=0.5, seed=0)
    model = _model()
    before = model.get_weights()
    model.compile(gal, gal.loss("mse"))
    x, _ = _data(4)
    model.train_on_batch(x, 1e3 + x[:, :3])
    _assert_same(model.get_weights(), before)
    assert gal.diagnostics["dropped"] == 1
    np.testing.assert_allclose(inner.dynamic_scale.numpy(), 1.5e38, rtol=1e-6)


# --- files ---


def test_resume_in_another_process(tmp_path):
    script = pathlib.Path(resume.__file__)
    expected = resume.train(resume.make_model(), epochs=2)
    model = resume.make_model()
    resume.train(model, epochs=1)
    model.save(tmp_path / "model.keras")
    run = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", str(script), str(tmp_path)],
        env={**os.environ},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    found = dict(np.load(tmp_path / "resumed.npz"))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(
            found[name], value, rtol=1e-5, atol=1e-6, err_msg=name
        )


@pytest.mark.parametrize("given", [True, False])
def test_backup_and_restore(given, tmp_path):
    def train(epochs, folder, delete=True):
        shapes = [(None, 3)] if given else None
        gal = GAL(optimizers.Adam(0.01), alpha=0.5, seed=0, output_shapes=shapes)
        model = _model()
        model.compile(gal, gal.loss(_loss()), **QUICK)
        backup = keras.callbacks.BackupAndRestore(folder, delete_checkpoint=delete)
        x, y = _data(16)
        model.fit(x, y, 8, epochs, verbose=0, shuffle=False, callbacks=[backup])
        return [np.array(v.numpy()) for v in (*model.variables, *gal.variables)]

    expected = train(3, tmp_path / "other")
    train(2, tmp_path / "this", delete=False)
    _assert_same(train(3, tmp_path / "this"), expected, rtol=1e-5, atol=1e-6)


def test_loads_without_gal_for_inference(tmp_path):
    model = _fit(GAL("adam", alpha=0.5))
    model.save(tmp_path / "model.keras")
    code = (
        "import keras, numpy as np, sys\n"
        "model = keras.models.load_model('model.keras', compile=False)\n"
        "assert 'keras_gradres' not in sys.modules\n"
        "np.save('y.npy', model.predict(np.ones((2, 6)), verbose=0))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    np.testing.assert_allclose(
        np.load(tmp_path / "y.npy"), model.predict(np.ones((2, 6)), verbose=0), 1e-5
    )


@pytest.mark.parametrize("built", [False, True])
def test_config_round_trip(built):
    for arguments in (
        {"hidden_units": (5, 4), "activation": "tanh", "seed": 3, "skip": False},
        {"network": layers.Dense(3), "normalize": False, "granularity": "batch"},
        {"adjustment_optimizer": optimizers.Adam(0.5), "policy": "improve"},
    ):
        gal = GAL(
            Lookahead(AdaBound(optimizers.schedules.CosineDecay(0.1, 10))),
            alpha=0.25, beta=2.0, name="its_name", **arguments,
        )  # fmt: skip
        if built:
            _fit(gal)
        # As JSON: Keras makes lists of the tuples in the config of a built network.
        config = gal.get_config()
        revived = optimizers.deserialize(optimizers.serialize(gal))
        for other in (GAL.from_config(config), revived):
            assert json.dumps(other.get_config()) == json.dumps(config)


def test_set_weights_and_load_own_variables():
    gal, other = GAL("adam", seed=0), GAL("adam", seed=1)
    first, second = _fit(gal), _fit(other)
    weights = [v.numpy().copy() for v in gal.variables]
    other.set_weights(weights)
    second.set_weights(first.get_weights())
    _assert_same([v.numpy() for v in other.variables], weights)
    with pytest.raises(ValueError, match="`weights` must have"):
        other.set_weights(weights[:-1])


# --- the callback ---


def test_diagnostics_in_the_logs(tmp_path):
    inputs = keras.Input((6,))
    x = GradientResidualDense(activation="tanh", name="one")(inputs)
    x = GradientResidualDense(activation="tanh", residual="none", name="two")(x)
    model = keras.Model(inputs, layers.Dense(3)(x))
    gal = GAL("sgd", alpha=0.5)
    model.compile(gal, gal.loss(_loss()))
    data = _data(8)
    log = keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    history = model.fit(
        *data, epochs=2, verbose=0, callbacks=[Diagnostics(), log]
    ).history
    names = {
        f"gal_{n}" for n in ("remainder", "accepted", "cosine", "drift", "dropped")
    }
    assert set(history) == {"loss", "mix_one", *names}
    assert history["mix_one"][-1] == pytest.approx(model.get_layer("one").mix)
    assert history["gal_drift"][-1] == pytest.approx(
        model.optimizer.diagnostics["drift"]
    )
    assert "gal_remainder" in (tmp_path / "log.csv").read_text().splitlines()[0]


def test_diagnostics_of_another_optimizer():
    model = _model()
    model.compile("sgd", _loss())
    history = model.fit(*_data(8), verbose=0, callbacks=[Diagnostics()]).history
    assert set(history) == {"loss"}
