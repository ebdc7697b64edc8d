"""GAL with models, policies of precision, files, and callbacks of Keras."""

import json
import subprocess
import sys

import gal_resume_worker as resume
import keras
import numpy as np
import pytest
from gal_cases import (
    MODE_IDS,
    QUICK,
    adjusted_bias_gradient,
    assert_same,
    constant_network,
    cross_entropy,
    fit,
    make_data,
    make_model,
    network_variables,
)
from helpers import MODES
from keras import layers, ops

from keras_gradres.callbacks import Diagnostics
from keras_gradres.layers import GradientResidualDense
from keras_gradres.optimizers import GAL, AdaBound, Lookahead

optimizers = keras.optimizers


# --- models ---


def test_model_with_its_own_loss_and_subclass():
    class Model(keras.Model):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor
            self.dense = GradientResidualDense(activation="tanh")
            self.last = layers.Dense(3)

        def call(self, x, training=None):
            return self.last(self.dense(x))

        def compute_loss(self, x, y, y_pred, sample_weight, training=True):
            return adjusted(y, y_pred) + self.factor * ops.mean(ops.square(y_pred))

    x, y = make_data(8)
    biases, remainders = [], []
    for factor in (0.0, 0.1):
        keras.utils.set_random_seed(0)
        gal = GAL(optimizers.SGD(0.1), alpha=0.5, seed=0, output_shapes=[(None, 3)])
        adjusted = gal.loss(cross_entropy())
        model = Model(factor)
        model.compile(gal)
        outputs = ops.convert_to_numpy(model(x))
        model.fit(x, y, verbose=0)
        biases.append(model.last.bias.numpy())
        remainders.append(gal.diagnostics["remainder"])
    # One step of rate 0.1. The added term is no part of the remainder, and its gradient
    # at the bias, of 0.1 mean(z^2) over three outputs, is not adjusted.
    assert remainders[0] == pytest.approx(remainders[1], rel=1e-4) != 0
    expected = -0.1 * 0.1 * 2 / 3 * outputs.mean(0)
    np.testing.assert_allclose(biases[1] - biases[0], expected, rtol=1e-3, atol=1e-7)


def test_model_with_its_own_train_step():
    class Model(keras.Model):
        def train_step(self, *arguments):
            self.steps = getattr(self, "steps", 0) + 1
            return super().train_step(*arguments)

    found = []
    for kind in (keras.Model, Model):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((6,))
        gal = GAL("sgd", alpha=0.5, seed=0)
        model = fit(gal, model=kind(inputs, layers.Dense(3)(inputs)))
        found.append([*model.get_weights(), gal.diagnostics["remainder"]])
    assert model.steps > 0
    assert found[0][-1] > 0
    assert_same(*found, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_keras_application():
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNet(
        (32, 32, 3),
        alpha=0.25,
        weights=None,
        dropout=0.0,
        classes=4,
        classifier_activation=None,
    )
    gal = GAL(optimizers.SGD(0.1), alpha=0.5, network=constant_network(4))
    model.compile(gal, gal.loss(cross_entropy()), **QUICK)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 32, 32, 3)), rng.integers(0, 4, 4)
    logits = ops.convert_to_numpy(model(x, training=True))
    model.fit(x, y, verbose=0)
    assert gal.diagnostics["accepted"] == 1
    # The bias was zero.
    expected = -0.1 * adjusted_bias_gradient(logits, y, 0.5)
    found = model.get_layer("conv_preds").bias.numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


# --- precision ---


@pytest.mark.parametrize("mode", MODES[1:], ids=MODE_IDS[1:])
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy, mode, dtype_policy):
    with dtype_policy(policy):
        inner = optimizers.SGD(0.1)
        if policy == "mixed_float16":
            inner = optimizers.LossScaleOptimizer(inner, initial_scale=2.0**10)
        gal = GAL(inner, alpha=0.5, seed=0)
        half = fit(gal, mode={**mode, "auto_scale_loss": False})
    assert gal.diagnostics["dropped"] == 0
    assert all(keras.backend.standardize_dtype(v.dtype) == "float32"
               for v in network_variables(gal))  # fmt: skip
    full = fit(GAL(optimizers.SGD(0.1), alpha=0.5, seed=0), mode=mode)
    assert_same(half.get_weights(), full.get_weights(), rtol=0.05, atol=0.05)


def test_overflow_under_loss_scaling_skips_the_step():
    inner = optimizers.LossScaleOptimizer(optimizers.SGD(0.1), initial_scale=3e38)
    gal = GAL(inner, alpha=0.5, seed=0)
    model = make_model()
    before = model.get_weights()
    model.compile(gal, gal.loss("mse"))
    x, _ = make_data(4)
    model.train_on_batch(x, 1e3 + x[:, :3])
    assert_same(model.get_weights(), before)
    assert gal.diagnostics["dropped"] == 1
    np.testing.assert_allclose(inner.dynamic_scale.numpy(), 1.5e38, rtol=1e-6)


# --- files ---


@pytest.fixture(scope="module")
def other_process(tmp_path_factory):
    """Models that were trained here, and what a new process makes of their files."""
    folder = tmp_path_factory.mktemp("files")
    whole = resume.train(resume.make_model(), epochs=2)
    model = resume.make_model()
    resume.train(model, epochs=1)
    model.save(folder / "model.keras")
    predicting = fit(GAL("adam", alpha=0.5))
    predicting.save(folder / "predicting.keras")
    run = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", resume.__file__, str(folder)],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return folder, whole, predicting.predict(np.ones((2, 6)), verbose=0)


@pytest.mark.slow
def test_resume_in_another_process(other_process):
    folder, expected, _ = other_process
    found = dict(np.load(folder / "resumed.npz"))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(
            found[name], value, rtol=1e-5, atol=1e-6, err_msg=name
        )


@pytest.mark.slow
def test_loads_without_gal_for_inference(other_process):
    # Before the process has imported the package: its first lines assert that.
    folder, _, expected = other_process
    found = np.load(folder / "predicted.npy")
    assert found.shape == (2, 3)
    np.testing.assert_allclose(found, expected, 1e-5)


@pytest.mark.parametrize("given", [True, False])
def test_backup_and_restore(given, tmp_path):
    def train(epochs, folder, delete=True):
        shapes = [(None, 3)] if given else None
        gal = GAL(optimizers.Adam(0.01), alpha=0.5, seed=0, output_shapes=shapes)
        model = make_model()
        model.compile(gal, gal.loss(cross_entropy()), **QUICK)
        backup = keras.callbacks.BackupAndRestore(folder, delete_checkpoint=delete)
        x, y = make_data(16)
        model.fit(x, y, 8, epochs, verbose=0, shuffle=False, callbacks=[backup])
        return [np.array(v.numpy()) for v in (*model.variables, *gal.variables)]

    expected = train(3, tmp_path / "other")
    train(2, tmp_path / "this", delete=False)
    assert_same(train(3, tmp_path / "this"), expected, rtol=1e-5, atol=1e-6)


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
            fit(gal)
        # As JSON: Keras makes lists of the tuples in the config of a built network.
        config = gal.get_config()
        revived = optimizers.deserialize(optimizers.serialize(gal))
        for other in (GAL.from_config(config), revived):
            assert json.dumps(other.get_config()) == json.dumps(config)


def test_set_weights_and_load_own_variables():
    gal, other = GAL("adam", seed=0), GAL("adam", seed=1)
    first, second = fit(gal), fit(other)
    weights = [v.numpy().copy() for v in gal.variables]
    other.set_weights(weights)
    second.set_weights(first.get_weights())
    assert_same([v.numpy() for v in other.variables], weights)
    with pytest.raises(ValueError, match="`weights` must have"):
        other.set_weights(weights[:-1])


# --- the callback ---


def test_diagnostics_in_the_logs(tmp_path):
    inputs = keras.Input((6,))
    x = GradientResidualDense(activation="tanh", name="one")(inputs)
    x = GradientResidualDense(activation="tanh", residual="none", name="two")(x)
    model = keras.Model(inputs, layers.Dense(3)(x))
    gal = GAL("sgd", alpha=0.5)
    model.compile(gal, gal.loss(cross_entropy()))
    data = make_data(8)
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
    model = make_model()
    model.compile("sgd", cross_entropy())
    history = model.fit(*make_data(8), verbose=0, callbacks=[Diagnostics()]).history
    assert set(history) == {"loss"}
