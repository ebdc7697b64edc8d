"""Every pullback rule is J^T c, in value, and in its own derivative."""

import keras
import numpy as np
import pytest
import rules
from helpers import frozen_state, gradients
from keras import ops

from keras_gradres.pullbacks import Graph

NUMPY = ops.convert_to_numpy
# Of transposed convolutions, in Keras 3.12.
pytestmark = pytest.mark.filterwarnings("ignore:.*inconsistencies across backends")


def _setting(name, training):
    layer, x = rules.built(name)
    x = keras.Variable(x)
    graph = Graph(layer)

    def run(second_order=False):
        return graph.run(x + 0.0, training, second_order=second_order)

    run = frozen_state(layer, run)
    shape = run().output.shape
    c = np.random.default_rng(2).normal(size=shape).astype("float32")
    return layer, x, run, ops.convert_to_tensor(c)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", rules.CASES)
def test_pullback_is_the_derivative(name, training):
    layer, x, run, c = _setting(name, training)
    found = run()
    plain = frozen_state(layer, lambda: layer(x + 0.0, training=training))
    np.testing.assert_allclose(
        NUMPY(found.output), NUMPY(plain()), rtol=1e-5, atol=1e-6
    )
    (expected,) = gradients(lambda: ops.sum(c * plain()), [x])
    p = ops.broadcast_to(found.pull(c), x.shape)
    size = np.abs(expected).max()
    np.testing.assert_allclose(NUMPY(p), expected, rtol=0, atol=1e-5 * (1 + size))


@pytest.mark.parametrize("name", rules.CASES)
def test_one_sample_stands_for_all(name):
    # A cotangent of batch size 1 gives what the same one for each sample gives.
    _, x, run, c = _setting(name, True)
    found = run()
    single = ops.broadcast_to(found.pull(c[:1]), x.shape)
    full = found.pull(ops.broadcast_to(c[:1], c.shape))
    np.testing.assert_allclose(NUMPY(single), NUMPY(full), rtol=1e-4, atol=1e-5)
