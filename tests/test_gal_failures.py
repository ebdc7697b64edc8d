"""What cannot work raises and says what to write; what is not finite does no harm."""

import keras
import numpy as np
import pytest
from gal_cases import QUICK
from helpers import Assign, Table
from keras import layers, ops

from keras_gradres.losses import AdjustedLoss
from keras_gradres.optimizers import GAL, Lookahead

X = np.zeros((2, 1), "float32")
Z = np.array([[1.0, 2.0], [3.0, -1.0]], "float32")
Y = np.array([[0.0, 1.0], [1.0, 1.0]], "float32")


def _train(gal, loss="mse", z=Z, y=Y, **arguments):
    """A model after a step, with a loss of its GAL."""
    model = Table(z)
    if isinstance(gal, GAL) and not isinstance(loss, AdjustedLoss):
        loss = gal.loss(loss)
    model.compile(gal, loss, **(arguments or QUICK))
    model.train_on_batch(X, y)
    return model


WRONG = {
    "alpha below": ({"alpha": -0.1}, r"`alpha` must be in \[0, 1\]. Received: alpha"),
    "alpha above": ({"alpha": 2}, r"`alpha` must be in \[0, 1\]. Received: alpha=2"),
    "alpha nan": ({"alpha": float("nan")}, "`alpha` must be in"),
    "alpha text": ({"alpha": "0.1"}, "`alpha` must be in"),
    "beta zero": ({"beta": 0}, "`beta` must be positive. Received: beta=0"),
    "beta below": ({"beta": -1.0}, "`beta` must be positive"),
    "beta infinite": ({"beta": float("inf")}, "`beta` must be positive"),
    "hidden zero": ({"hidden_units": (8, 0)}, "`hidden_units` must be a list of pos"),
    "hidden number": ({"hidden_units": 8}, "`hidden_units` must be a list of pos"),
    "hidden float": ({"hidden_units": (8.0,)}, "`hidden_units` must be a list of pos"),
    "policy": ({"policy": "sometimes"}, "`policy` must be one of .*less_equal"),
    "granularity": ({"granularity": "row"}, "`granularity` must be one of .*batch"),
    "network": ({"network": "mlp"}, "`network` must be a Keras layer"),
    "no networks": ({"network": []}, "`network` must be a Keras layer"),
    "two widths": (
        {"network": layers.Dense(2), "hidden_units": (2,)},
        "Only one of `network` and `hidden_units`",
    ),
    "shapes": ({"output_shapes": (None, 2)}, "`output_shapes` must be a list with"),
    "inner": ({"inner_optimizer": 3}, "`inner_optimizer` must be|Could not interpret"),
    "class": (
        {"inner_optimizer": keras.optimizers.Adam},
        r"Write `GAL\(Adam\(...\)\)`",
    ),
    "rate": (
        {"learning_rate": 0.1},
        r"Write `GAL\(keras.optimizers.SGD\(learning_rate",
    ),
    "clipping": (
        {"inner_optimizer": keras.optimizers.Adam(), "clipnorm": 1.0},
        r"argument of the inner optimizer. Write `GAL\(Adam\(clipnorm=1.0\)\)`",
    ),
    "two skips": (
        {"network": layers.Dense(2), "skip": False},
        "Only one of `network` and `skip`",
    ),
    "gal in gal": ({"inner_optimizer": GAL("sgd")}, "must not be a `GAL` itself"),
    "activation": ({"activation": "no_such_one"}, "Could not interpret activation"),
}


def test_unknown_argument():
    with pytest.raises(TypeError, match="has no argument `alhpa`"):
        GAL("sgd", alhpa=0.1)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name):
    arguments, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        GAL(**arguments)


def test_no_adjusted_loss():
    gal = GAL("sgd")
    model = Table(Z)
    model.compile(gal, "mse")
    with pytest.raises(
        ValueError, match=r"found no `AdjustedLoss` in this step.*loss=gal.loss"
    ):
        model.train_on_batch(X, Y)
    # Nor is one that was evaluated, or is another GAL's, taken for it.
    gal.loss("mse")(Y, Z)
    other = GAL("sgd")
    for loss in ("mse", other.loss("mse")):
        model.compile(gal, loss)
        with pytest.raises(ValueError, match=r"found no `AdjustedLoss`"):
            model.train_on_batch(X, Y)


def test_step_without_scale_loss():
    model = _train(GAL("sgd"))
    with pytest.raises(RuntimeError, match=r"gradient of `gal.scale_loss"):
        model.optimizer.apply([Z], model.trainable_variables)


@pytest.mark.parametrize("by", ["hand", "policy"])
def test_loss_scale_optimizer_around_gal(by, dtype_policy):
    gal = optimizer = GAL("sgd")
    if by == "hand":
        optimizer = keras.optimizers.LossScaleOptimizer(gal)
    with (
        dtype_policy("float32" if by == "hand" else "mixed_float16"),
        pytest.raises(RuntimeError, match="auto_scale_loss=False"),
    ):
        _train(optimizer, gal.loss("mse"))


def test_network_of_another_shape():
    with pytest.raises(ValueError, match="`network` must return a tensor of the shape"):
        _train(GAL("sgd", network=layers.Dense(3)))


def test_network_built_for_another_shape():
    network = layers.Dense(2)
    network.build((None, 5))
    with pytest.raises(ValueError, match=r"`network`|incompatible|dimension"):
        _train(GAL("sgd", network=network))


def test_number_of_networks():
    gal = GAL("sgd", network=[layers.Dense(2), layers.Dense(2)])
    with pytest.raises(ValueError, match=r"a list of 1 networks.*Received: 2"):
        _train(gal)


def test_loss_of_the_batch_with_granularity_sample():
    def reduced(y_true, y_pred):
        return ops.mean(ops.square(y_true - y_pred))

    with pytest.raises(ValueError, match="Use `granularity='batch'`"):
        _train(GAL("sgd"), reduced)
    # That is of the mean loss of the batch, whoever takes the mean.
    tables = [Z]
    for loss in (reduced, "mse"):
        gal = GAL("sgd", alpha=0.5, granularity="batch", policy="always", seed=0)
        tables.append(_train(gal, loss).table.numpy())
    assert np.abs(tables[1] - tables[0]).max() > 0
    np.testing.assert_allclose(tables[1], tables[2], rtol=1e-6)


@pytest.mark.parametrize("wrapper", [GAL, Lookahead])
def test_inner_optimizer_in_use(wrapper):
    inner = keras.optimizers.SGD()
    _train(inner, "mse")
    with pytest.raises(ValueError, match=r"must not be built.*Make a new one"):
        wrapper(inner)
    # Or is used between its being given and its first step.
    inner = keras.optimizers.SGD()
    first, second = wrapper(inner), wrapper(inner)
    first.build(Table(Z).trainable_variables)
    with pytest.raises(ValueError, match="must not be built"):
        second.build(Table(Z).trainable_variables)


@pytest.mark.parametrize("wrapper", [GAL, Lookahead])
def test_optimizer_of_two_models(wrapper):
    optimizer = wrapper("sgd")
    optimizer.build(Table(Z).trainable_variables)
    with pytest.raises(ValueError, match=r"is already built.*Make a new one"):
        optimizer.build(Table(Z).trainable_variables)


def test_one_loss_twice_in_a_step():
    class Twice(Table):
        def compute_loss(self, x, y, y_pred, sample_weight, training=True):
            loss = self.adjusted
            return loss(y, y_pred) + loss(y, 2 * y_pred)

    model = Twice(Z)
    gal = GAL("sgd", output_shapes=[(None, 2)])
    model.adjusted = gal.loss("mse")
    model.compile(gal)
    with pytest.raises(RuntimeError, match="was called twice in one step"):
        model.train_on_batch(X, Y)


class Growing(Table):
    """A model with one adjusted loss, or two of them."""

    more = True

    def __init__(self, gal):
        super().__init__(Z)
        self.first, self.second = gal.loss(["mse", "mse"])

    def compute_loss(self, x, y, y_pred, sample_weight, training=True):
        loss = self.first(y, y_pred)
        return loss + self.second(y, y_pred) if self.more else loss


@pytest.mark.parametrize("first_step", [True, False])
def test_more_losses_than_networks(first_step):
    gal = GAL("sgd", output_shapes=[(None, 2)])
    model = Growing(gal)
    model.compile(gal, run_eagerly=True)
    if not first_step:
        model.more = False
        model.train_on_batch(X, Y)
        model.more = True
    with pytest.raises(ValueError, match=r"built for 1 adjusted losses.*Received: 2"):
        model.train_on_batch(X, Y)


def test_errors_leave_nothing_behind():
    # Though their tracebacks are kept, and what was recorded with them.
    errors = []
    for _ in range(3):
        gal = GAL("sgd", output_shapes=[(None, 2)])
        wrong = Growing(gal)
        wrong.compile(gal, run_eagerly=True)
        with pytest.raises(ValueError, match="built for 1") as error:
            wrong.train_on_batch(X, Y)
        errors.append(error)
        gal = _train(GAL("sgd"), run_eagerly=True).optimizer
        assert len(gal.networks) == 1


def test_weights_of_another_optimizer():
    gal = _train(GAL("sgd")).optimizer
    with pytest.raises(ValueError, match="`weights` must have"):
        gal.set_weights([np.zeros(3)])


# --- what is not finite ---


class Where(keras.Layer):
    """A network of one weight, whose output is `value` where z is above 100."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def build(self, input_shape):
        self.scale = self.add_weight(shape=(2,), initializer="ones", name="scale")

    def call(self, z):
        return self.scale * ops.where(z > 100, self.value, 1.0)


def _steps(z, y, network, loss="mse", **arguments):
    """Weights, theta and the number of dropped steps after a bad and a good step."""
    optimizer = Assign(0.1)
    if network is not None:
        optimizer = GAL(
            optimizer, alpha=0.5, policy="always", network=network,
            adjustment_optimizer=keras.optimizers.SGD(0.1, momentum=0.9),
        )  # fmt: skip
        loss = optimizer.loss(loss)
    model = Table(z)
    model.compile(optimizer, loss, **arguments)
    found = []
    for targets in (y, Y):
        model.train_on_batch(X, targets)
        found.append(model.table.numpy().copy())
        if network is not None:
            found.append(network.scale.numpy().copy())
            assert np.isfinite(list(optimizer.diagnostics.values())).all()
            found.append(optimizer.diagnostics["dropped"])
        model.table.assign(Z)
    return found


NOT_FINITE = {
    "loss": (Z, np.array([[np.nan, 0], [0, 0]], "float32"), 1.0),
    "overflow": (Z, np.array([[1e30, 0], [0, 0]], "float32"), 1.0),
    "network": (np.array([[200.0, 0], [0, 1]], "float32"), Y, np.nan),
    "infinite network": (np.array([[200.0, 0], [0, 1]], "float32"), Y, np.inf),
}


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("name", NOT_FINITE)
def test_step_that_is_not_finite(name, eager):
    z, y, value = NOT_FINITE[name]
    expected = _steps(z, y, None, run_eagerly=eager)
    table, theta, dropped, after, theta_after, still = _steps(
        z, y, Where(value), run_eagerly=eager
    )
    # As the inner optimizer alone would, and theta as it was.
    np.testing.assert_array_equal(table, expected[0])
    np.testing.assert_array_equal(theta, [1, 1])
    assert dropped == 1
    # And on, as if it had not been: the state of the optimizers is that of a start.
    clean, theta_clean, none, *_ = _steps(Z, Y, Where(value), run_eagerly=eager)
    assert (still, none) == (1, 0)
    np.testing.assert_array_equal(after, clean)
    np.testing.assert_array_equal(theta_after, theta_clean)
    assert (theta_after != 1).any()


@pytest.mark.parametrize("eager", [False, True])
def test_theta_stays_in_spite_of_momentum(eager):
    network = Where(1.0)
    momentum = keras.optimizers.SGD(0.1, momentum=0.9)
    gal = GAL(Assign(0.1), 0.5, network=network, adjustment_optimizer=momentum)
    model = Table(Z)
    model.compile(gal, gal.loss("mse"), run_eagerly=eager)
    model.train_on_batch(X, Y)
    before = network.scale.numpy().copy()
    assert (before != 1).any()
    model.table.assign(Z)
    model.train_on_batch(X, np.nan * Y)
    np.testing.assert_array_equal(network.scale.numpy(), before)
    assert gal.diagnostics["dropped"] == 1
