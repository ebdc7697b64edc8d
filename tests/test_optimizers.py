"""Lookahead and AdaBound: by hand, and against another implementation."""

import keras
import numpy as np
import pytest
from helpers import Table, keras_before, piecewise

from keras_gradres.optimizers import AdaBound, Lookahead

SGD = keras.optimizers.SGD


def _apply(optimizer, start, gradients):
    """The values of a variable after each step."""
    variable = keras.Variable(np.array(start, "float32"))
    found = []
    for gradient in gradients:
        gradient = keras.ops.convert_to_tensor(np.array(gradient, "float32"))
        optimizer.apply([gradient], [variable])
        found.append(variable.numpy().tolist())
    return found


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


def test_adabound_from_a_rate_of_nothing():
    # b1 = 0.5, b2 = 0.75, final 0.2, gamma = 1; the largest rate is eta_0.
    # g = 2, eta = 0:  m = 1, v = 1, w = 1.
    # g = 4, eta = 0.1 = eta_0:  m = 2.5, v = 4.75, final 0.2: as in the test by hand,
    # at the lower bound 0.2 (1 - 1/3):  w = 1 - 0.133333 * 2.5 = 0.666667.
    # g = 0, eta = 0.05:  m = 1.25, final 0.1, 0.05 * 0.868966 / 1.887459 below the
    # bound 0.1 (1 - 1/4):  w = 0.666667 - 0.075 * 1.25 = 0.572917.
    # g = 0, eta = 0:  w stays.
    optimizer = AdaBound(
        piecewise(0.0, 0.1, 0.05, 0.0),
        final_learning_rate=0.2,
        beta_1=0.5,
        beta_2=0.75,
        gamma=1.0,
    )
    found = _apply(optimizer, [1.0], [[2.0], [4.0], [0.0], [0.0]])
    expected = [[1.0], [0.666667], [0.572917], [0.572917]]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_adabound_in_a_warm_up():
    # Rates 0, 0.05, 0.1, of which the last is eta_0. As above, but for
    # g = 4:  final 0.1, lower bound 0.1 (1 - 1/3):  w = 1 - 0.066667 * 2.5 = 0.833333.
    # g = 0:  final 0.2, lower bound 0.2 (1 - 1/4):  w = 0.833333 - 0.15 * 1.25.
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, 10, warmup_target=0.1, warmup_steps=2
    )
    optimizer = AdaBound(
        schedule, final_learning_rate=0.2, beta_1=0.5, beta_2=0.75, gamma=1.0
    )
    found = _apply(optimizer, [1.0], [[2.0], [4.0], [0.0]])
    np.testing.assert_allclose(found, [[1.0], [0.833333], [0.645833]], rtol=1e-5)


def test_adabound_with_a_rate_that_is_set_later():
    gradients = [[2.0], [4.0], [-1.0]]
    optimizer = AdaBound(0.0, gamma=1.0)
    assert _apply(optimizer, [1.0], [[0.0]]) == [[1.0]]
    optimizer = AdaBound(0.0, gamma=1.0)
    optimizer.learning_rate = 0.1
    found = _apply(optimizer, [1.0], gradients)
    assert found == _apply(AdaBound(0.1, gamma=1.0), [1.0], gradients)
    # Which is the base also when the rate has fallen and the optimizer is revived.
    optimizer.learning_rate = 0.05
    assert AdaBound.from_config(optimizer.get_config()).base_learning_rate == "largest"


def test_adabound_with_a_schedule_that_falls_has_its_first_rate_as_base():
    gradients = [[2.0], [4.0], [-1.0], [3.0]]
    schedule = piecewise(0.1, 0.07, 0.03, 0.0)
    found = _apply(AdaBound(schedule, gamma=1.0), [1.0], gradients)
    expected = AdaBound(schedule, gamma=1.0, base_learning_rate=0.1)
    assert found == _apply(expected, [1.0], gradients)


def _constrained(value, constraint, optimizer):
    model = Table(value)
    model.table.constraint = constraint
    model.compile(optimizer, lambda y_true, y_pred: y_true * y_pred)
    return model


def _step(model, gradient):
    # The loss is the mean over the entries.
    gradient = len(gradient) * np.array(gradient, "float32")
    model.train_on_batch(np.zeros((1, 1), "float32"), gradient)
    return model.table.numpy().tolist()


def test_lookahead_keeps_constraints():
    # Unit vectors, k = 1, a = 0.5. From (1, 0) the gradient (0, -1) leads to (1, 1),
    # which is projected to 45 degrees. Half of the way there is at 22.5 degrees, and
    # too short: projected it is (cos 22.5, sin 22.5).
    unit = keras.constraints.UnitNorm(axis=0)
    model = _constrained([1.0, 0.0], unit, Lookahead(SGD(1.0), 1, 0.5))
    expected = [0.923880, 0.382683]
    np.testing.assert_allclose(_step(model, [0.0, -1.0]), expected, rtol=1e-5)
    # The slow weights are the same: no gradient, no change.
    np.testing.assert_allclose(_step(model, [0.0, 0.0]), expected, rtol=1e-5)


@pytest.mark.skipif(keras_before(3, 15), reason="Keras refuses functions there")
def test_lookahead_keeps_constraints_that_are_functions():
    # To whole numbers: from 4, the fast weight 3 -> 4 + 0.5 (3 - 4) = 3.5 -> 3.
    optimizer = Lookahead(SGD(1.0), 1, 0.5)
    model = _constrained([4.0], keras.ops.floor, optimizer)
    assert [_step(model, [1.0]), _step(model, [1.0])] == [[3.0], [2.0]]


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
    other = pytest.importorskip(
        "pytorch_optimizer", reason="needs pytorch-optimizer, which tox installs"
    )
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


WRONG = {
    "`sync_period` must be a positive integer": lambda: Lookahead(sync_period=0),
    "`sync_period` must be a positive integer. R": lambda: Lookahead(sync_period=2.5),
    r"`slow_step_size` must be in \(0, 1\]": lambda: Lookahead(slow_step_size=0.0),
    r"`slow_step_size` must be in \(0, 1\]. Rec": lambda: Lookahead(slow_step_size=2),
    r"`beta_1` must be in \[0, 1\)": lambda: AdaBound(beta_1=1.0),
    r"`beta_2` must be in \[0, 1\)": lambda: AdaBound(beta_2=-0.1),
    "`gamma` must be positive": lambda: AdaBound(gamma=0.0),
    "`epsilon` must be positive": lambda: AdaBound(epsilon=0.0),
    "`base_learning_rate`, by default the initial .*=-0.1": lambda: AdaBound(-0.1),
    "`base_learning_rate`.* Received: base_learning_rate=0": lambda: AdaBound(
        base_learning_rate=0.0
    ),
    "`base_learning_rate`.* Received: base_learning_rate=x": lambda: AdaBound(
        base_learning_rate="x"
    ),
    "`final_learning_rate` must be positive": lambda: AdaBound(final_learning_rate=0.0),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_arguments(message):
    with pytest.raises(ValueError, match=message):
        WRONG[message]()
