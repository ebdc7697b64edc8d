"""Whatever Keras trains, GAL trains: targets, losses, optimizers, outputs, data."""

import keras
import numpy as np
import pytest
from gal_cases import build
from helpers import Table
from keras import layers, ops

from keras_gradres.optimizers import GAL, AdaBound, Lookahead
from keras_gradres.optimizers.gal.mlp import MLP
from keras_gradres.optimizers.gal.twin import twin

optimizers = keras.optimizers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 4)).astype("float32")
VALUES = RNG.normal(size=20).astype("float32")
SIGNS = (VALUES > 0).astype("float32")
LABELS = RNG.integers(0, 3, 20)
WEIGHTS = RNG.uniform(size=20).astype("float32")
MODES = [{"jit_compile": False}, {"run_eagerly": True}]


def _model(units=1, activation=None):
    keras.utils.set_random_seed(0)
    dense = layers.Dense(units, activation=activation)
    return keras.Sequential([keras.Input((4,)), dense])


def _train(model, optimizer, loss, x, y, eager=False, **arguments):
    mode = {"run_eagerly": True} if eager else {"jit_compile": False}
    model.compile(optimizer, loss, **mode)
    model.fit(x, y, batch_size=5, shuffle=False, verbose=0, **arguments)
    return model.get_weights()


def _assert_close(found, expected, tolerance=1e-6):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


# --- targets of shape (N,) ---


def own(y_true, y_pred):
    return ops.mean(ops.square(y_true - y_pred), axis=-1)


class Own(keras.losses.Loss):
    """Which Keras does not align, and so is given what fits."""

    def call(self, y_true, y_pred):
        return ops.mean(ops.square(ops.reshape(y_true, (-1, 1)) - y_pred), axis=-1)


BINARY = keras.losses.BinaryCrossentropy
SPARSE = keras.losses.SparseCategoricalCrossentropy
TARGETS = {
    # Loss, units and activation of the output, targets.
    "name": ("mse", 1, None, VALUES),
    "other name": ("mean_absolute_error", 1, None, VALUES),
    "name of a class": ("MeanSquaredError", 1, None, VALUES),
    "function": (own, 1, None, VALUES),
    "lambda": (lambda y, z: ops.mean(ops.abs(y - z), -1), 1, None, VALUES),
    "function of Keras": (keras.losses.log_cosh, 1, None, VALUES),
    "class": (keras.losses.MeanSquaredError, 1, None, VALUES),
    "object": (keras.losses.Huber(), 1, None, VALUES),
    "sum": (keras.losses.MeanSquaredError(reduction="sum"), 1, None, 0.1 * VALUES),
    "subclass": (Own(), 1, None, VALUES),
    "column": ("mse", 1, None, VALUES[:, None]),
    "binary name": ("binary_crossentropy", 1, "sigmoid", SIGNS),
    "binary object": (BINARY(from_logits=True), 1, None, SIGNS),
    "binary integers": (BINARY(from_logits=True), 1, None, SIGNS.astype("int32")),
    "hinge": ("hinge", 1, None, 2 * SIGNS - 1),
    "sparse name": ("sparse_categorical_crossentropy", 3, "softmax", LABELS),
    "sparse object": (SPARSE(from_logits=True), 3, None, LABELS),
    "sparse column": (SPARSE(from_logits=True), 3, None, LABELS[:, None]),
    "crossentropy of two": ("crossentropy", 1, "sigmoid", SIGNS),
    "crossentropy of labels": ("crossentropy", 3, "softmax", LABELS),
    "ce of rows": ("ce", 3, "softmax", np.eye(3, dtype="float32")[LABELS]),
}
WEIGHTED = {
    "plain": {},
    "samples": {"sample_weight": WEIGHTS},
    "classes": {"class_weight": {0: 0.5, 1: 2.0, 2: 1.0}},
}


@pytest.mark.parametrize("weighted", WEIGHTED)
@pytest.mark.parametrize("name", TARGETS)
def test_targets_are_aligned_as_in_keras(name, weighted):
    loss, units, activation, y = TARGETS[name]
    classes = set(np.unique(y)) <= {0, 1, 2} and y.ndim == 1
    if weighted == "classes" and not classes:
        pytest.skip("no classes")
    # Weights are applied to the losses of the samples, which all targets come to: in a
    # graph once for each kind of target.
    eager = weighted != "plain" and name not in ("name", "sparse name")
    arguments = {**WEIGHTED[weighted], "eager": eager}

    def train(optimizer, loss):
        model = _model(units, activation)
        if isinstance(optimizer, GAL):
            build(optimizer, model)
        return _train(model, optimizer, loss, X, y, **arguments)

    expected = train(optimizers.SGD(0.1), loss)
    unused = GAL(optimizers.SGD(0.1))
    _assert_close(train(optimizers.SGD(0.1), unused.loss(loss)), expected)
    gal = GAL(optimizers.SGD(0.1), alpha=0.0)
    _assert_close(train(gal, gal.loss(loss)), expected)
    adjusting = GAL(optimizers.SGD(0.1), alpha=0.5, policy="always", seed=0)
    found = train(adjusting, adjusting.loss(loss))
    assert np.abs(found[0] - expected[0]).max() > 1e-4
    assert adjusting.diagnostics["accepted"] == pytest.approx(1, rel=1e-5)
    assert adjusting.diagnostics["dropped"] == 0


@pytest.mark.parametrize("steps", [1, 3])
def test_sequences_with_targets_of_one_rank_less(steps):
    x = RNG.normal(size=(20, steps, 4)).astype("float32")
    y = RNG.normal(size=(20, steps)).astype("float32")
    found = []
    for make in (lambda: ("sgd", own), lambda: ("sgd", GAL("sgd").loss(own))):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((steps, 4)), layers.Dense(1)])
        found.append(_train(model, *make(), x, y))
    gal = GAL("sgd", alpha=0.0, granularity="batch")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((steps, 4)), layers.Dense(1)])
    _assert_close(_train(model, gal, gal.loss(own), x, y), found[0])
    _assert_close(found[1], found[0])


# --- optimizers ---


class Warm(optimizers.schedules.LearningRateSchedule):
    """A schedule that cannot be saved."""

    def __init__(self, rate):
        self.rate = rate

    def __call__(self, step):
        return self.rate * ops.minimum(1.0, (ops.cast(step, "float32") + 1) / 10)


class Mine(optimizers.SGD):
    """An optimizer that cannot be saved."""

    def __init__(self, rate):
        super().__init__(rate, momentum=0.9)


class Saved(Warm):
    def get_config(self):
        return {"rate": self.rate}


UNSAVED = {
    # One that cannot be saved, and one that does the same and can.
    "schedule": (
        lambda: optimizers.Adam(Warm(0.1)),
        lambda: optimizers.Adam(Saved(0.1)),
    ),
    "subclass": (lambda: Mine(0.1), lambda: optimizers.SGD(0.1, momentum=0.9)),
    "wrapped": (
        lambda: Lookahead(optimizers.SGD(Warm(0.1))),
        lambda: Lookahead(optimizers.SGD(Saved(0.1))),
    ),
    "callable": (lambda: optimizers.SGD(lambda: 0.1), lambda: optimizers.SGD(0.1)),
}


@pytest.mark.parametrize("name", UNSAVED)
def test_optimizers_that_cannot_be_saved(name):
    found = []
    for make in UNSAVED[name]:
        gal = GAL(make(), alpha=0.5, seed=0)
        weights = _train(_model(3), gal, gal.loss("mse"), X, X[:, :3])
        found.append([*weights, *(v.numpy() for v in gal.networks[0].weights)])
        assert np.abs(gal.networks[0].biases[0].numpy()).max() > 0
    _assert_close(*found)


COPIED = {
    "sgd": lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: optimizers.Adam(0.1, beta_1=0.5, amsgrad=True),
    "adamw": lambda: optimizers.AdamW(0.1, weight_decay=0.1),
    "rmsprop": lambda: optimizers.RMSprop(0.1, centered=True, momentum=0.5),
    "adagrad": lambda: optimizers.Adagrad(0.1),
    "adadelta": lambda: optimizers.Adadelta(0.1),
    "adamax": lambda: optimizers.Adamax(0.1),
    "nadam": lambda: optimizers.Nadam(0.1),
    "ftrl": lambda: optimizers.Ftrl(0.1),
    "lion": lambda: optimizers.Lion(0.1),
    "adafactor": lambda: optimizers.Adafactor(0.1),
    "clipnorm": lambda: optimizers.SGD(0.1, clipnorm=0.1),
    "global clipnorm": lambda: optimizers.SGD(0.1, global_clipnorm=0.1),
    "accumulation": lambda: optimizers.SGD(0.1, gradient_accumulation_steps=2),
    "adabound": lambda: AdaBound(0.1),
    "lookahead": lambda: Lookahead(optimizers.SGD(0.1), sync_period=2),
    "mine": lambda: Mine(0.1),
}


@pytest.mark.parametrize("name", COPIED)
def test_the_copy_does_what_the_optimizer_does(name):
    original = COPIED[name]()
    copied = twin(original, "its_name")
    assert type(copied) is type(original)
    assert copied.name == "its_name"
    assert not copied.built
    copied.learning_rate = 0.1
    gradients = RNG.normal(size=(4, 2, 3)).astype("float32")
    values = []
    for optimizer in (original, copied):
        variable = keras.Variable(np.ones((2, 3), "float32"))
        for gradient in gradients:
            optimizer.apply([ops.convert_to_tensor(gradient)], [variable])
        values.append(variable.numpy())
    np.testing.assert_array_equal(*values)
    assert (values[0] != 1).any()
    assert not {id(v) for v in original.variables} & {id(v) for v in copied.variables}


def test_the_copy_has_no_average_and_no_scale():
    original = optimizers.LossScaleOptimizer(optimizers.SGD(0.1, use_ema=True))
    copied = twin(original, "name")
    assert not isinstance(copied, optimizers.LossScaleOptimizer)
    assert not copied.use_ema
    copied = twin(optimizers.SGD(0.1, loss_scale_factor=8.0), "name")
    assert copied.loss_scale_factor is None


def test_what_cannot_be_copied():
    inner = optimizers.SGD(0.1)
    inner.log = (line for line in "ab")
    with pytest.raises(ValueError, match=r"cannot copy `log` of it\. Give `adj"):
        GAL(inner)
    assert GAL(inner, adjustment_optimizer="sgd").inner_optimizer is inner


# --- outputs ---


class Stop(layers.Layer):
    def call(self, x):
        return ops.stop_gradient(x)


@pytest.mark.parametrize("mode", MODES, ids=["graph", "eager"])
@pytest.mark.parametrize("stopped", [0, 1])
# Keras of the frozen layer, which the inner optimizer alone says as well.
@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables")
def test_output_without_a_gradient(mode, stopped):
    def train(stop):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((4,))
        outputs = [layers.Dense(n, name=f"of_{n}")(inputs) for n in (2, 3)]
        if stop:
            outputs[stopped] = Stop()(outputs[stopped])
        model = keras.Model(inputs, outputs)
        gal = GAL(optimizers.SGD(0.1), alpha=0.5, seed=0)
        model.compile(gal, gal.loss(["mse", "mse"]), **mode)
        model.fit(X, [X[:, :2], X[:, :3]], batch_size=5, shuffle=False, verbose=0)
        return [model.get_layer(f"of_{n}").kernel.numpy() for n in (2, 3)], gal

    (kernels, gal), (expected, other) = train(True), train(False)
    trained = 1 - stopped
    np.testing.assert_allclose(kernels[trained], expected[trained], rtol=1e-5)
    for a, b in zip(
        gal.networks[trained].weights, other.networks[trained].weights, strict=True
    ):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-7)
    assert not gal.networks[stopped].biases[0].numpy().any()
    assert gal.diagnostics[f"remainder_{stopped}"] == 0
    assert gal.diagnostics[f"remainder_{trained}"] > 0


# --- data ---


@pytest.mark.parametrize("mode", MODES, ids=["graph", "eager"])
@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_data_that_are_not_finite(value, activation, mode):
    keras.utils.set_random_seed(0)
    hidden = layers.Dense(8, activation=activation)
    model = keras.Sequential([keras.Input((4,)), hidden, layers.Dense(3)])
    gal = GAL("sgd", alpha=0.5, seed=0)
    model.compile(gal, gal.loss("mse"), **mode)
    model.train_on_batch(X, X[:, :3])
    before = [v.numpy().copy() for v in gal.networks[0].weights]
    assert before[1].any()
    x = X.copy()
    x[0, 0] = value
    model.train_on_batch(x, X[:, :3])
    assert gal.diagnostics["dropped"] == 1
    for a, b in zip(gal.networks[0].weights, before, strict=True):
        np.testing.assert_array_equal(a.numpy(), b)


# --- the network ---


def test_network_by_hand():
    # z = (1, 2): hidden tanh(1 + 2 + 1) of one unit; v = z + (3, 4) tanh(4) + (5, 6).
    expected = np.array([3, 4]) * np.tanh(4) + [5, 6]
    for skip in (True, False):
        mlp = MLP((1,), keras.activations.tanh, skip=skip)
        mlp.build((None, 2))
        kernels, biases = [[[1.0], [1.0]], [[3.0, 4.0]]], [[1.0], [5.0, 6.0]]
        for variables, values in ((mlp.kernels, kernels), (mlp.biases, biases)):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
        found = ops.convert_to_numpy(mlp(np.array([[1.0, 2.0]], "float32")))
        np.testing.assert_allclose(found, [expected + skip * np.array([1, 2])], 1e-6)


# d and widths, as the paper has them for 100 classes and for the boxes of DETR.
PARAMETERS = {
    (100, (256,)): 51_200,
    (100, (256, 64)): 48_384,
    (100, (256, 64, 32)): 47_232,
    (100, (256, 64, 32, 16)): 46_144,
    (4, (16, 64)): 1_344,
}


@pytest.mark.parametrize("size", PARAMETERS)
def test_numbers_of_parameters_of_the_paper(size):
    d, widths = size
    gal = GAL("sgd", hidden_units=widths, use_bias=False, output_shapes=[(None, d)])
    gal.build(Table(np.ones((1, d))).trainable_variables)
    assert gal.networks[0].count_params() == PARAMETERS[size]
    gal = GAL("sgd", hidden_units=widths, output_shapes=[(None, d)])
    gal.build(Table(np.ones((1, d))).trainable_variables)
    with_biases = PARAMETERS[size] + sum(widths) + d
    assert gal.networks[0].count_params() == with_biases


@pytest.mark.parametrize("skip", [True, False])
def test_the_default_network_starts_at_a_stable_one(skip):
    # The outputs follow -h(z): it is stable where no eigenvalue of dh/dz has a negative
    # real part. A deep linear map of 10 has such, z + that has none for small weights.
    parts = []
    for seed in range(5):
        gal = GAL("sgd", skip=skip, seed=seed, output_shapes=[(None, 10)])
        gal.build(Table(np.ones((1, 10))).trainable_variables)
        jacobian = ops.convert_to_numpy(gal.networks[0](np.eye(10, dtype="float32")))
        parts.append(np.linalg.eigvals(jacobian).real.min())
    assert (min(parts) > 0) == skip
