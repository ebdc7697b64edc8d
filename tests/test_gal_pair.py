"""A GAL and its losses: whose is which, which calls count, and what a file keeps."""

import copy
import gc
import pickle

import keras
import numpy as np
import pytest
from gal_cases import QUICK
from helpers import Assign, Table, gradients
from keras import layers, ops

from keras_gradres.losses import AdjustedLoss
from keras_gradres.optimizers import GAL
from keras_gradres.optimizers.gal.loss import Call

SGD = keras.optimizers.SGD
RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 4)).astype("float32")
Y = RNG.normal(size=(16, 3)).astype("float32")


def half_squared_error(y_true, y_pred):
    return ops.sum(ops.square(y_pred - y_true), axis=-1) / 2


def _constant(*v):
    """A network whose output is v, its bias, at the start."""
    network = layers.Dense(2, kernel_initializer="zeros")
    network.build((None, 2))
    network.bias.assign(v)
    return network


# --- how they are made ---


def test_losses_of_any_structure():
    gal = GAL("sgd")
    found = gal.loss({"a": "mse", "b": ["mae", None], "c": keras.losses.Hinge()})
    assert [found["a"].name, found["b"][0].name] == [
        "mean_squared_error",
        "mean_absolute_error",
    ]
    assert found["b"][1] is None
    losses = [found["a"], found["b"][0], found["c"], *gal.loss(("mse", "mae"))]
    assert all(isinstance(loss, AdjustedLoss) for loss in losses)
    assert all(loss.optimizer is gal for loss in losses)
    config = keras.losses.serialize(keras.losses.Huber(reduction="sum"))
    assert gal.loss(config).reduction == "sum"


def test_neither_keeps_the_other():
    gal = GAL("sgd")
    loss = gal.loss("mse")
    loss(Y, Y)
    del gal
    gc.collect()
    assert loss.optimizer is None
    gal = GAL("sgd")
    gal.loss("mse")(Y, Y)
    gc.collect()
    assert gal.calls.all() == []


# --- in a model of one's own ---


@pytest.mark.parametrize("eager", [False, True])
def test_two_terms_by_hand(eager):
    # z = (3, 4), beta = 2, rate 0.1, alpha = 0.2, as in test_one_step_by_hand.
    # The first term is |z|^2 / 2, with v = (0, 2):  g = (3, 5), r = 0.68, and the bias
    # of its network becomes (-0.006, 2).
    # The second is |z - (3, 0)|^2 / 2, with v = (2, 0):  dl/dz = (0, 4),
    #   v~ = 0.2 * 4 * (1, 0),  g = (0.8, 4),  r = 0.02 |g|^2 = 0.3328,
    #   dr/dv~ = 0.04 g = (0.032, 0.16), dr/dv = 0.2 * 4 / 2 * (0, 0.16) = (0, 0.064)
    # and counts half:  z <- (3, 4) - 0.1 ((3, 5) + (0.4, 2)) = (2.66, 3.3).
    gal = GAL(
        SGD(0.1),
        alpha=0.2,
        beta=2.0,
        network=[_constant(0, 2), _constant(2, 0)],
        output_shapes=[(None, 2)] * 2,
    )
    near, far = gal.loss([half_squared_error, half_squared_error])

    class Model(Table):
        def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
            return near(0 * y, y_pred) + 0.5 * far(y, y_pred)

    model = Model([[3.0, 4.0]])
    model.compile(gal, run_eagerly=eager)
    loss = model.train_on_batch(np.zeros((1, 1)), np.array([[3.0, 0.0]]))
    np.testing.assert_allclose(loss, 12.5 + 0.5 * 8, rtol=1e-6)
    np.testing.assert_allclose(model.table.numpy(), [[2.66, 3.3]], rtol=1e-6)
    found = gal.diagnostics
    np.testing.assert_allclose(found["remainder_0"], 0.68, rtol=1e-5)
    np.testing.assert_allclose(found["remainder_1"], 0.3328, rtol=1e-5)
    biases = [network.bias.numpy() for network in gal.networks]
    np.testing.assert_allclose(biases[0], [-0.006, 2], rtol=1e-5)
    np.testing.assert_allclose(biases[1], [2, -0.0064], rtol=1e-5)


# --- two of them in a loop ---


def _step_of_both(make, first_called, first_scaled):
    """Trains two tables by one backward pass; returns what came of them."""
    tables = [Table([[3.0, 4.0]]), Table([[1.0, -2.0]])]
    gals = [make(0), make(1)]
    for gal, table in zip(gals, tables, strict=True):
        gal.build(table.trainable_variables)
    losses = [gal.loss(half_squared_error) for gal in gals]

    def loss():
        values = [None, None]
        for i in sorted((0, 1), key=lambda i: i != first_called):
            values[i] = losses[i](np.zeros((1, 2)), tables[i].table + 0)
        for i in sorted((0, 1), key=lambda i: i != first_scaled):
            values[i] = gals[i].scale_loss(values[i])
        return values[0] + values[1]

    found = gradients(loss, [t.table for t in tables], compiled=False)
    for i in sorted((0, 1), key=lambda i: i == first_scaled):
        gals[i].apply([ops.convert_to_tensor(found[i])], [tables[i].table])
    weights = [t.table.numpy() for t in tables]
    return [*weights, *(gal.networks[0].bias.numpy() for gal in gals)]


@pytest.mark.parametrize("first_called", [0, 1])
@pytest.mark.parametrize("first_scaled", [0, 1])
@pytest.mark.parametrize("alphas", [(0.2, 0.2), (0.2, 0.0)])
def test_two_gals_in_one_loop(alphas, first_called, first_scaled):
    # As a GAN has. The first as in test_one_step_by_hand. The second, z = (1, -2) and
    # v = (2, 0):  v~ = 0.2 sqrt(5) (1, 0), z <- z - 0.1 (1 + 0.447214, -2).
    def make(i):
        return GAL(
            SGD(0.1),
            alpha=alphas[i],
            beta=2.0,
            network=_constant(*[(0, 2), (2, 0)][i]),
            output_shapes=[(None, 2)],
        )

    first, second, bias, _ = _step_of_both(make, first_called, first_scaled)
    np.testing.assert_allclose(first, [[2.7, 3.5]], rtol=1e-6)
    np.testing.assert_allclose(bias, [-0.006, 2], rtol=1e-5)
    change = 0.2 * np.sqrt(5) if alphas[1] else 0
    np.testing.assert_allclose(second, [[0.9 - 0.1 * change, -1.8]], rtol=1e-6)


# --- which calls count ---


def _model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Dense(3)(layers.Dense(5, "tanh")(inputs)))


@pytest.mark.parametrize("eager", [False, True])
def test_calls_of_evaluate_are_not_those_of_a_step(eager):
    # A model that trains its second loss only, and evaluates both.
    gal = GAL("sgd", alpha=0.5, output_shapes=[(None, 3)] * 2, seed=0)
    first, second = gal.loss(["mse", "mae"])

    class Model(keras.Model):
        def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
            value = second(y, y_pred)
            return value if training else first(y, y_pred) + value

    inputs = keras.Input((4,))
    model = Model(inputs, layers.Dense(3)(inputs))
    model.compile(gal, run_eagerly=eager)
    for _ in range(2):
        model.evaluate(X, Y, verbose=0)
        model.train_on_batch(X, Y)
    assert gal.diagnostics["remainder_0"] == 0
    assert gal.diagnostics["remainder_1"] > 0
    # And a loss that was evaluated only, is none of a step at all.
    gal = GAL("sgd")
    loss = gal.loss("mse")
    model = _model()
    model.compile(loss=loss, run_eagerly=eager)
    model.evaluate(X, Y, verbose=0)
    model.compile(gal, "mse", run_eagerly=eager)
    with pytest.raises(ValueError, match="found no `AdjustedLoss`"):
        model.train_on_batch(X, Y)


def test_validation_changes_nothing():
    weights = []
    for data in (None, (X[:5], Y[:5])):
        model = _model()
        gal = GAL("adam", alpha=0.5, seed=0)
        model.compile(gal, gal.loss("mse"), **QUICK)
        model.fit(X, Y, 4, 2, verbose=0, shuffle=False, validation_data=data)
        weights.append([*model.get_weights(), *(v.numpy() for v in gal.variables)])
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_memory_is_bounded():
    model = _model()
    gal = GAL("sgd", alpha=0.5)
    model.compile(gal, gal.loss("mse"), run_eagerly=True)

    def calls():
        gc.collect()
        return sum(type(o) is Call for o in gc.get_objects())

    others = calls()
    for _ in range(3):
        for _ in range(5):
            model.train_on_batch(X, Y)
            model.evaluate(X, Y, verbose=0)
        # The last of the evaluation.
        assert calls() - others <= 1


def test_an_error_is_forgotten():
    # In the loss after the adjusted one; its traceback keeps what was recorded.
    class Failing(Table):
        fails = True

        def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
            value = loss(y, y_pred)
            assert not self.fails
            return value

    gal = GAL(Assign(0.1), alpha=0.5, network=_constant(0, 2), output_shapes=[(1, 2)])
    loss = gal.loss(half_squared_error)
    model = Failing([[3.0, 4.0]])
    model.compile(gal, run_eagerly=True)
    x, y = np.zeros((1, 1)), np.zeros((1, 2))
    with pytest.raises(AssertionError) as error:
        model.train_on_batch(x, y)
    model.fails = False
    model.train_on_batch(x, y)
    # v~ = 0.5 * 5 * (0, 1).
    np.testing.assert_allclose(model.table.numpy(), [[3, 6.5]], rtol=1e-6)
    assert error is not None


# --- losses anew ---


def test_compile_again_keeps_the_networks():
    gal = GAL(SGD(0.0), alpha=0.5, adjustment_optimizer=SGD(0.1), seed=0)
    model = _model()
    for loss in ("mse", "mae"):
        model.compile(gal, gal.loss(loss), **QUICK)
        model.fit(X, Y, verbose=0)
        assert len(gal.networks) == 1
    assert int(gal._networks.optimizer.iterations) == 2


def test_loss_of_another_output_than_before():
    gal = GAL("sgd", output_shapes=[(None, 2)])
    model = Table(Y)
    model.compile(gal, gal.loss("mse"))
    with pytest.raises(ValueError, match=r"built for an output of shape \(None, 2\)"):
        model.train_on_batch(np.zeros((16, 1)), Y)


# --- files ---


def _saved(model, path):
    model.save(path / "model.keras")
    return keras.models.load_model(path / "model.keras")


WAYS = {
    "file": _saved,
    "pickle": lambda model, path: pickle.loads(pickle.dumps(model)),
    "deepcopy": lambda model, path: copy.deepcopy(model),
    "build": lambda model, path: (
        model.optimizer.build(model.trainable_variables) or model
    ),
}


def _with_two_outputs():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    x = layers.Dense(5, activation="tanh")(inputs)
    outputs = {"a": layers.Dense(3)(x), "b": layers.Dense(2)(x)}
    model = keras.Model(inputs, outputs)
    gal = GAL(keras.optimizers.Adam(0.05, epsilon=1e-3), alpha=0.5, seed=0)
    model.compile(gal, gal.loss({"a": "mse", "b": "mae"}), **QUICK)
    return model


def _fit_two(model):
    y = {"a": Y, "b": Y[:, :2]}
    model.fit(X, y, batch_size=4, shuffle=False, verbose=0)


@pytest.fixture(scope="module")
def expected_of_two():
    """Weights and variables of GAL after an epoch, and after two."""
    model, found = _with_two_outputs(), []
    for _ in range(2):
        _fit_two(model)
        variables = model.optimizer.variables
        found.append((model.get_weights(), [v.numpy().copy() for v in variables]))
    return found


# So Keras does for any optimizer that was saved without its state.
@pytest.mark.filterwarnings("ignore:Skipping variable loading")
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_the_pair_stays_together(way, trained, tmp_path, expected_of_two):
    found = _with_two_outputs()
    if trained:
        _fit_two(found)
    found = WAYS[way](found, tmp_path)
    gal = found.optimizer
    assert all(loss.optimizer is gal for loss in found.loss.values())
    _fit_two(found)
    weights, variables = expected_of_two[trained]
    for a, b in zip(found.get_weights(), weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    for a, b in zip(gal.variables, variables, strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-5, atol=1e-6)


def _from_h5(model, path):
    model.save(path / "model.h5")
    return keras.models.load_model(path / "model.h5")


def _from_config(model, path):
    other = keras.models.clone_model(model)
    other.set_weights(model.get_weights())
    other.compile_from_config(model.get_compile_config())
    return other


@pytest.mark.filterwarnings("ignore:Skipping variable loading")  # See above.
@pytest.mark.parametrize("lose", [_from_h5, _from_config])
def test_a_pair_that_was_lost(lose, tmp_path):
    model = _model()
    gal = GAL("adam", alpha=0.5, seed=0)
    model.compile(gal, gal.loss(keras.losses.MeanSquaredError()), **QUICK)
    model.fit(X, Y, verbose=0)
    found = lose(model, tmp_path)
    value = model.evaluate(X, Y, verbose=0)
    np.testing.assert_allclose(found.evaluate(X, Y, verbose=0), value, rtol=1e-5)
    # Nor does one more round through a file find it again in silence.
    again = pickle.loads(pickle.dumps(found))
    if lose is _from_h5:
        assert int(again.optimizer.iterations) == 1
    for lost in (again, found):
        with pytest.raises(
            ValueError,
            match=r"model.compile\(model.optimizer, model.optimizer.loss\(loss\)\)",
        ):
            lost.fit(X, Y, verbose=0)
    found = lose(model, tmp_path)
    found.compile(found.optimizer, found.optimizer.loss("mse"), **QUICK)
    found.fit(X, Y, verbose=0)
    assert found.optimizer.diagnostics["remainder"] > 0


def test_h5_keeps_the_state(tmp_path):
    expected = _model()
    gal = GAL(keras.optimizers.Adam(0.05, epsilon=1e-3), alpha=0.5, seed=0)
    expected.compile(gal, gal.loss("mse"), **QUICK)
    expected.fit(X, Y, 4, 2, verbose=0, shuffle=False)
    found = _from_h5(expected, tmp_path)
    assert int(found.optimizer.iterations) == 8
    found.compile(found.optimizer, found.optimizer.loss("mse"), **QUICK)
    for model in (expected, found):
        model.optimizer.build(model.trainable_variables)
        model.fit(X, Y, 4, verbose=0, shuffle=False)
    for a, b in zip(
        [*found.weights, *found.optimizer.variables],
        [*expected.weights, *expected.optimizer.variables],
        strict=True,
    ):
        np.testing.assert_allclose(a.numpy(), b.numpy(), 1e-5, 1e-6, err_msg=b.path)


def test_building_twice():
    model = _model()
    gal = GAL("adam", alpha=0.5, seed=0)
    model.compile(gal, gal.loss("mse"))
    model.fit(X, Y, verbose=0)
    before = [v.numpy().copy() for v in gal.variables]
    gal.build(model.trainable_variables)
    for a, b in zip(gal.variables, before, strict=True):
        np.testing.assert_array_equal(a.numpy(), b)
    with pytest.raises(ValueError, match="already built"):
        gal.build(_model().trainable_variables)
