"""The loss that `gal.loss` makes is the loss in it, to everyone but its GAL."""

import keras
import numpy as np
import pytest
from helpers import Table, gradients
from keras import layers, ops

from keras_gradres.losses import AdjustedLoss
from keras_gradres.optimizers import GAL

MADE_BY = GAL("sgd")
RNG = np.random.default_rng(0)
Z = RNG.normal(size=(4, 3)).astype("float32")
LABELS = RNG.integers(0, 3, (4,))
VALUES = RNG.normal(size=(4, 3)).astype("float32")
SIGNS = np.sign(VALUES)


def squared_error(y_true, y_pred):
    return ops.mean(ops.square(y_true - y_pred), axis=-1)


LOSSES = {
    "name": ("mse", VALUES),
    "function": (squared_error, VALUES),
    "lambda": (lambda y, z: ops.sum(ops.abs(y - z), -1), VALUES),
    "keras function": (keras.losses.huber, VALUES),
    "object": (keras.losses.Hinge(), SIGNS),
    "from logits": (
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        LABELS,
    ),
    "named": (keras.losses.LogCosh(name="its_name"), VALUES),
    "sum": (keras.losses.MeanSquaredError(reduction="sum"), VALUES),
    "mean": (keras.losses.MeanSquaredError(reduction="mean"), VALUES),
    "mean_with_sample_weight": (
        keras.losses.MeanSquaredError(reduction="mean_with_sample_weight"),
        VALUES,
    ),
    "none": (keras.losses.MeanSquaredError(reduction="none"), VALUES),
    "half": (keras.losses.MeanSquaredError(dtype="float16"), VALUES),
}


def _evaluate(loss, y, z, weights=None):
    """The value of a loss, or of a function as `compile` makes a loss of it."""
    model = Table(z)
    model.compile(loss=loss)
    return model.evaluate(np.zeros((len(z), 1)), y, sample_weight=weights, verbose=0)


@pytest.mark.parametrize("weights", [None, np.array([1.0, 0.0, 2.0, 0.5], "float32")])
@pytest.mark.parametrize("name", LOSSES)
def test_same_value(name, weights):
    loss, y = LOSSES[name]
    if isinstance(loss, keras.losses.Loss):
        found = MADE_BY.loss(loss)(y, Z, sample_weight=weights)
        expected = loss(y, Z, sample_weight=weights)
        assert found.dtype == expected.dtype
    else:
        found = _evaluate(MADE_BY.loss(loss), y, Z, weights)
        expected = _evaluate(loss, y, Z, weights)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(found), ops.convert_to_numpy(expected)
    )


def test_same_shapes_of_targets():
    # (4, 1) against (4,) is one number for each sample, not (4, 4).
    for y, z in ((VALUES[:, :1], Z[:, 0]), (VALUES[:, 0], Z[:, :1])):
        for loss in ("mse", lambda y, z: ops.square(y - z)):
            found = _evaluate(MADE_BY.loss(loss), y, z)
            np.testing.assert_array_equal(found, _evaluate(loss, y, z))
            expected = np.square(VALUES[:, 0] - Z[:, 0]).mean()
            np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_same_mask():
    # Both masks: that of the prediction, and that the loss makes of the labels.
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    labels = np.array([0, 1, -1, 2])
    values = []
    for used in (loss, MADE_BY.loss(loss)):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((2, 3))
        outputs = layers.Dense(3)(layers.Masking()(inputs))
        model = keras.Model(inputs, outputs)
        model.compile("sgd", used, weighted_metrics=[])
        steps = np.stack([Z, VALUES], 1)
        steps[0, 1] = 0
        y = np.stack([labels, labels[::-1]], 1)
        logs = model.evaluate(steps, y, verbose=0)
        after = model.train_on_batch(steps, y)
        values.append([logs, after, *(w.ravel() for w in model.get_weights())])
    np.testing.assert_allclose(
        np.concatenate([np.ravel(v) for v in values[1]]),
        np.concatenate([np.ravel(v) for v in values[0]]),
        rtol=1e-6,
        atol=1e-7,
    )


def test_same_gradient_where_nobody_adjusts():
    model = Table(Z)
    model.build((None, 1))
    found, expected = (
        gradients(lambda used=used: used(VALUES, model.table + 0), [model.table])[0]
        for used in (MADE_BY.loss("mse"), keras.losses.MeanSquaredError())
    )
    np.testing.assert_array_equal(found, expected)
    assert np.abs(found).max() > 0


def test_same_training_under_another_optimizer():
    weights = []
    for loss in ("mse", MADE_BY.loss("mse")):
        model = Table(Z)
        model.compile(keras.optimizers.Adam(0.1), loss, jit_compile=False)
        for _ in range(3):
            model.train_on_batch(np.zeros((4, 1)), VALUES)
        weights.append(model.table.numpy())
    np.testing.assert_array_equal(*weights)


def test_name():
    assert MADE_BY.loss("mse").name == "mean_squared_error"
    assert MADE_BY.loss(squared_error).name == "squared_error"
    assert MADE_BY.loss(keras.losses.Hinge(name="its_name")).name == "its_name"
    assert MADE_BY.loss("mse", name="other").name == "other"


@pytest.mark.parametrize("alive", [True, False])
def test_config_round_trip(alive):
    inner = keras.losses.Huber(delta=0.5, reduction="sum")
    gal = GAL("adam", alpha=0.25, network=layers.Dense(3))
    for loss in (gal.loss(inner, name="other"), gal.loss("mse"), gal.loss("ce")):
        config = keras.losses.serialize(loss)
        assert config["config"]["optimizer"]["config"]["alpha"] == 0.25
        revived = keras.losses.deserialize(config)
        if not alive:  # One that is loaded without its GAL keeps the configuration.
            revived = keras.losses.deserialize(keras.losses.serialize(revived))
        assert revived.optimizer is None
        assert keras.losses.serialize(revived) == config
        assert revived.reduction == loss.reduction
        assert revived.name == loss.name
        assert isinstance(revived, AdjustedLoss)


def test_loss_whose_gal_is_gone():
    # As one that was made in a function for another optimizer than it returned.
    loss = GAL("sgd").loss(keras.losses.Hinge(name="its_name"))
    revived = keras.losses.deserialize(keras.losses.serialize(loss))
    assert revived.optimizer is loss.optimizer is None
    for found in (loss, revived):
        value = ops.convert_to_numpy(found(SIGNS, Z))
        np.testing.assert_allclose(value, keras.losses.Hinge()(SIGNS, Z), rtol=1e-6)


def test_without_a_gal():
    with pytest.raises(ValueError, match=r"Write `gal.loss\(loss\)`"):
        AdjustedLoss("mse")


@pytest.mark.parametrize("loss", [MADE_BY.loss("mse"), None, 3, "no_such_loss"])
def test_wrong_losses(loss):
    with pytest.raises(ValueError, match=r"`loss` must be|Could not interpret"):
        MADE_BY.loss(loss)


def test_loss_that_overrides_call():
    class Own(keras.losses.Loss):
        def __call__(self, y_true, y_pred, sample_weight=None):
            return 0.0

    with pytest.raises(ValueError, match="overrides `__call__`"):
        MADE_BY.loss(Own())


def test_several_predictions():
    with pytest.raises(ValueError, match="must be one tensor"):
        MADE_BY.loss(lambda y, z: z[0])([VALUES], [Z, Z])
