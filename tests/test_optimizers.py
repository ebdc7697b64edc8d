"""Lookahead and AdaBound: by hand, against another implementation, and in Keras."""

import keras
import numpy as np
import pytest
from helpers import Table
from keras import layers

from keras_gradres.optimizers import AdaBound, Lookahead

SGD = keras.optimizers.SGD
MODES = [{"jit_compile": True}, {"jit_compile": False}, {"run_eagerly": True}]


def _apply(optimizer, start, gradients):
    """The values of a variable after each step."""
    variable = keras.Variable(np.array(start, "float32"))
    found = []
    for gradient in gradients:
        gradient = keras.ops.convert_to_tensor(np.array(gradient, "float32"))
        optimizer.apply([gradient], [variable])
        found.append(variable.numpy().tolist())
    return found


# --- by hand ---


def test_lookahead_by_hand():
    # Rate 1 and a gradient of 1: the fast weight falls by 1 a step, from 10. k = 2 and
    # a = 0.25: at 8 it is 10 + 0.25 (8 - 10) = 9.5; then 8.5, 7.5 -> 9.5 - 0.5 = 9.
    found = _apply(Lookahead(SGD(1.0), 2, 0.25), [10.0], [[1.0]] * 5)
    assert found == [[9.0], [9.5], [8.5], [9.0], [8.0]]


def test_lookahead_with_gradient_accumulation():
    # Every second gradient is a step: of their mean, 2.
    inner = SGD(1.0, gradient_accumulation_steps=2)
    found = _apply(Lookahead(inner, 2, 0.5), [10.0], [[1.0], [3.0]] * 4)
    # 10, 8 | 8, 6 -> 10 + (6 - 10) / 2 = 8 | 8, 6 | 6, 4 -> 8 - 2 = 6
    assert found == [[10.0], [8.0], [8.0], [8.0], [8.0], [6.0], [6.0], [6.0]]


def test_lookahead_skips_with_loss_scaling():
    # Through a model, as Keras's loss scaling needs it on JAX. The gradient is 1, and
    # overflows where the sample weight is infinite. 9; 9; 8 -> 10 + (8 - 10) / 2; 8.
    inner = keras.optimizers.LossScaleOptimizer(SGD(1.0))
    model = Table([[10.0]])
    model.compile(Lookahead(inner, 2, 0.5), lambda y_true, y_pred: y_pred)
    found = []
    for weight in (1.0, np.inf, 1.0, 1.0):
        zeros = np.zeros((1, 1), "float32")
        model.train_on_batch(zeros, zeros, np.array([weight], "float32"))
        found.append(model.table.numpy().item())
    assert found == [9.0, 9.0, 9.0, 8.0]


def test_adabound_by_hand():
    # b1 = 0.5, b2 = 0.75, eta = 0.1, final 0.2, gamma = 1, epsilon negligible.
    # g = 2:  m = 1, v = 1, correction sqrt(1 - 0.75) / (1 - 0.5) = 1, so the rate is
    # 0.1 in [0.2 (1 - 1/2), 0.2 (1 + 1)] = [0.1, 0.4]:  w = 1 - 0.1 = 0.9.
    # g = 4:  m = 2.5, v = 0.75 + 4 = 4.75, correction sqrt(1 - 0.5625) / 0.75, so
    # 0.1 * 0.881917 / 2.179449 = 0.040465, below 0.2 (1 - 1/3) = 0.133333:
    # w = 0.9 - 0.133333 * 2.5 = 0.566667.
    # g = 0:  m = 1.25, bounds [0.15, 0.266667], the rate below:  w = 0.379167.
    optimizer = AdaBound(
        0.1, final_learning_rate=0.2, beta_1=0.5, beta_2=0.75, gamma=1.0
    )
    found = _apply(optimizer, [1.0], [[2.0], [4.0], [0.0]])
    np.testing.assert_allclose(found, [[0.9], [0.566667], [0.379167]], rtol=1e-5)


def test_amsbound_by_hand():
    # As above, with bounds that do not bind: gamma = 1e-6 gives [~0, ~1e5].
    # g = 2: v = 1. g = 0: v = 0.75, but the largest is 1; m = 0.5; correction
    # sqrt(0.4375) / 0.75 = 0.881917: w = 0.9 - 0.0881917 * 0.5 = 0.855904.
    arguments = {"beta_1": 0.5, "beta_2": 0.75, "gamma": 1e-6}
    found = _apply(AdaBound(0.1, amsbound=True, **arguments), [1.0], [[2.0], [0.0]])
    np.testing.assert_allclose(found, [[0.9], [0.855904]], rtol=1e-5)
    # And without: divided by sqrt(0.75).
    found = _apply(AdaBound(0.1, **arguments), [1.0], [[2.0], [0.0]])
    np.testing.assert_allclose(found, [[0.9], [0.849083]], rtol=1e-5)


def test_adabound_follows_the_learning_rate():
    # The final rate is scaled by eta / eta_0: half the rate, half of all steps.
    found = []
    for factor in (1.0, 0.5):
        optimizer = AdaBound(0.1, final_learning_rate=0.2, gamma=1.0)
        optimizer.learning_rate = 0.1 * factor
        found.append(np.array(_apply(optimizer, [0.0], [[2.0], [4.0], [-1.0]])))
    np.testing.assert_allclose(found[1], found[0] / 2, rtol=1e-5)


# --- another implementation ---


PAIRS = {
    "adabound": (
        lambda: AdaBound(0.01, gamma=0.02),
        lambda p, other: other.AdaBound(p, lr=0.01, gamma=0.02),
    ),
    "amsbound": (
        lambda: AdaBound(0.01, gamma=0.02, beta_1=0.8, beta_2=0.9, amsbound=True),
        lambda p, other: other.AdaBound(
            p, lr=0.01, gamma=0.02, betas=(0.8, 0.9), ams_bound=True
        ),
    ),
    "adabound, decoupled decay": (
        lambda: AdaBound(0.01, gamma=0.02, weight_decay=0.1),
        lambda p, other: other.AdaBound(p, lr=0.01, gamma=0.02, weight_decay=0.1),
    ),
    "lookahead": (
        lambda: Lookahead(SGD(0.05, momentum=0.9), 5, 0.5),
        lambda p, other: other.Lookahead(_torch().optim.SGD(p, 0.05, 0.9), 5, 0.5),
    ),
    "lookahead of adam": (
        lambda: Lookahead(keras.optimizers.Adam(0.01, epsilon=1e-8), 7, 0.8),
        lambda p, other: other.Lookahead(_torch().optim.Adam(p, 0.01), 7, 0.8),
    ),
}


def _torch():
    import torch

    return torch


@pytest.mark.parametrize("name", PAIRS)
def test_two_hundred_steps_of_another_implementation(name):
    other = pytest.importorskip("pytorch_optimizer")
    torch = _torch()
    make, make_other = PAIRS[name]
    rng = np.random.default_rng(0)
    start = rng.normal(size=(4, 3))
    gradients = rng.normal(size=(200, 4, 3)) + 0.5
    found = np.array(_apply(make(), start, gradients))

    parameter = torch.nn.Parameter(torch.tensor(start, dtype=torch.float32))
    optimizer = make_other([parameter], other)
    expected = []
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient, dtype=torch.float32)
        optimizer.step()
        expected.append(parameter.detach().cpu().numpy().copy())
    assert np.abs(expected[-1] - start).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


# --- Keras ---


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


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_modes_train_alike(name):
    # PyTorch takes long to compile one.
    modes = MODES if name == "lookahead of adabound" else MODES[1:]
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
    assert type(optimizer).from_config(config).get_config() == config
    # With the base rate, which a changed rate must not replace.
    if isinstance(optimizer, AdaBound):
        optimizer.learning_rate = 1.0
        revived = AdaBound.from_config(optimizer.get_config())
        assert revived.base_learning_rate == optimizer.base_learning_rate != 1.0


def test_lookahead_has_what_the_inner_optimizer_has():
    optimizer = Lookahead(SGD(0.5))
    model = Table([[1.0]])
    model.compile(optimizer, "mse")
    model.train_on_batch(np.zeros((1, 1)), np.zeros((1, 1)))
    assert int(optimizer.iterations) == 1
    assert float(optimizer.learning_rate) == 0.5
    optimizer.learning_rate = 0.25
    assert float(optimizer.inner_optimizer.learning_rate) == 0.25


WRONG = {
    "`sync_period` must be a positive integer": lambda: Lookahead(sync_period=0),
    "`sync_period` must be a positive integer. R": lambda: Lookahead(sync_period=2.5),
    r"`slow_step_size` must be in \(0, 1\]": lambda: Lookahead(slow_step_size=0.0),
    r"`slow_step_size` must be in \(0, 1\]. Rec": lambda: Lookahead(slow_step_size=2),
    r"`beta_1` must be in \[0, 1\)": lambda: AdaBound(beta_1=1.0),
    r"`beta_2` must be in \[0, 1\)": lambda: AdaBound(beta_2=-0.1),
    "`gamma` must be positive": lambda: AdaBound(gamma=0.0),
    "`epsilon` must be positive": lambda: AdaBound(epsilon=0.0),
    "`final_learning_rate` must be positive": lambda: AdaBound(final_learning_rate=0.0),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_arguments(message):
    with pytest.raises(ValueError, match=message):
        WRONG[message]()
