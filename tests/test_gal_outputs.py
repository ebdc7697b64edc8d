"""GAL at outputs of any shape and weight, and with any network."""

import keras
import numpy as np
import pytest
from gal_cases import (
    MODE_IDS,
    QUICK,
    assert_same,
    build,
    cross_entropy,
    fit,
    make_data,
    make_model,
    network_variables,
)
from helpers import MODES, Assign, Table
from keras import layers, ops

from keras_gradres.optimizers import GAL

optimizers = keras.optimizers


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
    build(gal, model, z.shape)
    compiling = {k: arguments.pop(k) for k in ("loss_weights",) if k in arguments}
    model.compile(gal, gal.loss(loss), **compiling, **QUICK)
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
        plain, _ = _table_step(z, y, cross_entropy(), {"alpha": 0.0})
        found, _ = _table_step(z, y, cross_entropy(), {})
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
        model.compile(optimizer, loss, **QUICK)
        value = model.train_on_batch(steps, y)
        return value, model.get_weights()

    expected, plain = run("sgd", cross_entropy())
    gal = GAL("sgd", alpha=0.0)
    value, weights = run(gal, gal.loss(cross_entropy()))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert_same(weights, plain, rtol=1e-6, atol=1e-7)
    gal = GAL("sgd", alpha=0.5, seed=0)
    _, weights = run(gal, gal.loss(cross_entropy()))
    assert any((a != b).any() for a, b in zip(weights, plain, strict=True))
    # What stands at a masked step does not count.
    y[0, 2:] = (y[0, 2:] + 1) % 3
    other = GAL("sgd", alpha=0.5, seed=0)
    run(other, other.loss(cross_entropy()))
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
    x, y = make_data(16)
    targets = {"kind": y, "size": x[:, :2], "extra": x[:, 2:3]}
    found = []
    for weights in ({}, {"loss_weights": {"kind": 1.0, "size": 0.0, "extra": 1.0}}):
        model = _two_outputs()
        gal = GAL(optimizers.SGD(0.1), alpha=0.5, seed=0)
        losses = gal.loss({"kind": cross_entropy(), "size": "mse"})
        model.compile(gal, {**losses, "extra": "mae"}, **weights, **QUICK)
        model.fit(x, targets, epochs=2, batch_size=8, verbose=0)
        found.append(gal.diagnostics)
        assert gal.output_shapes == [(None, 3), (None, 2)]
        kernels = [v.shape for v in network_variables(gal) if "kernel" in v.path]
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
    assert_same(loaded.get_weights(), model.get_weights(), rtol=1e-5, atol=1e-6)


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
    build(gal, adjusted, shape)
    plain.compile(optimizers.SGD(0.1), loss, **QUICK)
    adjusted.compile(gal, gal.loss(loss), **QUICK)
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
    assert any(v.numpy().any() for v in network_variables(gal) if "bias" in v.path)


def test_unknown_sizes():
    def trained(shape, sizes):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((*shape, 2))
        model = keras.Model(inputs, layers.Conv2D(3, 1)(inputs))
        gal = GAL("sgd", alpha=0.5, network=layers.Conv2D(3, 3, padding="same"))
        model.compile(gal, gal.loss(cross_entropy()), **QUICK)
        rng = np.random.default_rng(0)
        for size in sizes:
            x = rng.normal(size=(3, size, size, 2))
            model.train_on_batch(x, rng.integers(0, 3, (3, size, size)))
        return [*model.get_weights(), gal.diagnostics["remainder"]]

    found, expected = trained((None, None), (4,)), trained((4, 4), (4,))
    assert_same(found, expected, rtol=1e-5, atol=1e-6)
    # Another size is another batch of the same model, not a new start.
    *weights, remainder = trained((None, None), (4, 6))
    assert remainder > 0
    assert np.abs(weights[0] - found[0]).max() > 1e-4


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
    model.compile(gal, gal.loss(cross_entropy()), **mode)
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
    fit(GAL(optimizers.SGD(0.0), network=network))
    assert_same(network.get_weights(), weights)


def test_seed_makes_the_network():
    def weights(seed):
        gal = GAL("sgd", seed=seed)
        build(gal, make_model())
        return np.concatenate([v.numpy().ravel() for v in network_variables(gal)])

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
    model = fit(gal, mode=mode)
    x, y = make_data(8)
    Raising.forbidden = True
    try:
        model.evaluate(x, y, verbose=0)
        model.predict(x, verbose=0)
        model.test_on_batch(x[:3], y[:3])
    finally:
        Raising.forbidden = False
