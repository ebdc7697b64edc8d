"""The hook on a gradient, and the gradient inside it, of `keras_gradres.backend`."""

import gc

import keras
import numpy as np
import pytest
from backend_cases import X, tensor
from helpers import gradients, to_numpy
from keras import ops

from keras_gradres import backend


def _through_a_hook(backward, *operands):
    """The gradient at x of the sum of 3 hook(x), and whether the hook was pending."""
    x = keras.Variable(X)
    states = []

    def loss():
        hooked, is_pending = backend.gradient_hook(x + 0, backward, *operands)
        states.append(is_pending)
        states.append(is_pending())
        return ops.sum(3 * hooked)

    found = gradients(loss, [x])[0]
    return found, states


def test_hook_sees_and_replaces_the_gradient():
    seen = []

    def backward(dx, factor, pair):
        seen.append(dx)
        return dx * factor + pair["a"] * tensor()

    operands = (tensor(2.0), {"a": tensor(5.0), "b": [tensor(1.0)]})
    found, (_, pending) = _through_a_hook(backward, *operands)
    assert pending
    np.testing.assert_allclose(found, 3 * 2 + 5 * X, rtol=1e-6)
    assert len(seen) == 1
    # Half a value is cast to the dtype of x.
    found, _ = _through_a_hook(lambda dx: ops.cast(dx, "float16"))
    np.testing.assert_array_equal(found, np.full_like(X, 3))


def test_hook_changes_no_value_and_nothing_else():
    hooked, is_pending = backend.gradient_hook(tensor(), lambda dx: 0 * dx)
    np.testing.assert_array_equal(to_numpy(hooked), X)
    gc.collect()
    assert not is_pending()
    # Other uses of the same tensor are not hooked.
    x = keras.Variable(X)

    def loss():
        y = ops.square(x)
        hooked, _ = backend.gradient_hook(y, lambda dx: 0 * dx)
        return ops.sum(7 * hooked + y)

    np.testing.assert_allclose(gradients(loss, [x])[0], 2 * X, rtol=1e-6)


def test_hook_is_not_pending_afterwards():
    _, (is_pending, before) = _through_a_hook(lambda dx: dx)
    gc.collect()
    assert (before, is_pending()) == (True, False)


def test_operands_carry_no_gradient():
    x = keras.Variable(X)

    def loss():
        hooked, _ = backend.gradient_hook(
            x + 0, lambda dx, z: dx + z, ops.square(x) + 0
        )
        return ops.sum(hooked)

    np.testing.assert_allclose(gradients(loss, [x])[0], 1 + X**2, rtol=1e-6)


@pytest.mark.parametrize("inside", [False, True])
def test_value_and_grad(inside):
    # f(a, b, c) = sum(a^2) b: df/da = 2 a b, df/db = sum(a^2), df/dc = 0.
    tensors = [tensor(), tensor(3.0), tensor([1.0, 2.0])]

    def differentiate():
        return backend.value_and_grad(
            lambda t: (ops.sum(ops.square(t[0])) * t[1], {"twice": 2 * t[0]}), tensors
        )

    if inside:
        results = []

        def backward(dx):
            value, extra, found = differentiate()
            results.extend([value, extra["twice"], *found])
            return dx + found[0]

        found, _ = _through_a_hook(backward)
        np.testing.assert_allclose(found, 3 + 6 * X, rtol=1e-6)
        return
    value, extra, found = differentiate()
    np.testing.assert_allclose(to_numpy(value), 3 * np.square(X).sum(), rtol=1e-6)
    np.testing.assert_allclose(to_numpy(extra["twice"]), 2 * X, rtol=1e-6)
    expected = [6 * X, np.square(X).sum(), np.zeros(2)]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(to_numpy(a), b, rtol=1e-6)


def test_value_and_grad_of_a_constant():
    value, _, found = backend.value_and_grad(lambda t: (tensor(2.0), ()), [tensor()])
    assert float(to_numpy(value)) == 2
    np.testing.assert_array_equal(to_numpy(found[0]), 0 * X)
