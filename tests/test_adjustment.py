"""The formulas of GAL as functions: Eq. 4, Eq. 7, and the acceptance."""

import keras
import numpy as np
import pytest
from helpers import gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_gradres.optimizers.gal import formulas


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_length_and_direction_at_any_shape(data):
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    axes = tuple(range(data.draw(st.integers(0, len(shape) - 1)), len(shape)))
    rng = np.random.default_rng(data.draw(st.integers(0, 100)))
    gradient, v = rng.normal(size=(2, *shape)).astype("float32")
    scale = 10.0 ** data.draw(st.integers(-8, 8))
    found = ops.convert_to_numpy(
        formulas.adjustment(
            ops.convert_to_tensor(gradient * np.float32(scale)),
            ops.convert_to_tensor(v),
            0.25,
            axes,
        )
    )
    length = np.sqrt((gradient.astype("float64") ** 2).sum(axes, keepdims=True))
    unit = v / np.sqrt((v.astype("float64") ** 2).sum(axes, keepdims=True))
    np.testing.assert_allclose(found, 0.25 * scale * length * unit, rtol=1e-4)


def test_no_direction_is_no_adjustment():
    # And has no derivative, where that of v / |v| has no bound.
    v = keras.Variable([[0.0, 0.0], [3.0, 4.0]])
    gradient = ops.convert_to_tensor([[6.0, 8.0], [0.0, 0.0]])

    def loss():
        return ops.sum(formulas.adjustment(gradient, v + 0, 0.5, (1,)) ** 2)

    found = formulas.adjustment(gradient, v.value, 0.5, (1,))
    np.testing.assert_array_equal(ops.convert_to_numpy(found), np.zeros((2, 2)))
    np.testing.assert_array_equal(gradients(loss, [v])[0], np.zeros((2, 2)))


def test_without_normalization():
    # alpha |dl/dz| v = 0.5 * 10 * (3, 4).
    gradient = ops.convert_to_tensor([[6.0, 8.0]])
    v = ops.convert_to_tensor([[3.0, 4.0]])
    found = formulas.adjustment(gradient, v, 0.5, (1,), normalize=False)
    np.testing.assert_allclose(ops.convert_to_numpy(found), [[15, 20]])


def test_remainder_by_hand():
    # l = z^2 at 3: dl/dz = 6, a step of 0.25 along g = 4: z = 2, l+ = 4.
    # r = 4 - 9 + 0.25 * 6 * 4 = 1 = (0.25 * 4)^2, the second-order term.
    assert formulas.remainder(4.0, 9.0, 6.0 * 4.0, 0.25) == 1.0


ACCEPTED = {
    # after: below the vanilla step, between, equal to before, above, not a number.
    "less_equal": [True, True, True, False, False],
    "less": [True, True, False, False, False],
    "improve": [True, False, False, False, False],
    "always": [True] * 5,
    "never": [False] * 5,
}


@pytest.mark.parametrize("policy", ACCEPTED)
def test_acceptance(policy):
    after = ops.convert_to_tensor([1.0, 3.0, 4.0, 5.0, np.nan])
    before = ops.full_like(after, 4.0)
    found = formulas.accepts(
        policy, after, before, vanilla=lambda: ops.full_like(after, 2.0)
    )
    assert ops.convert_to_numpy(found).tolist() == ACCEPTED[policy]
    assert set(ACCEPTED) == set(formulas.POLICIES)
