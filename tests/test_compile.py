"""Blocks in closed form compile into one graph, with the numbers of eager execution.

What a fit compiles beside the model is Keras's own; the same fit of the same model with
identity residuals says how much that is.
"""

import itertools

import keras
import numpy as np
import pytest
from helpers import keras_before
from keras import layers

from keras_gradres.layers import (
    GradientResidual,
    GradientResidualConv,
    GradientResidualDense,
)

torch = pytest.importorskip("torch")
if keras.backend.backend() != "torch":
    pytest.skip("torch.compile is PyTorch's", allow_module_level=True)
if keras_before(3, 15):
    pytest.skip("older releases of Keras break the graph", allow_module_level=True)
dynamo_utils = pytest.importorskip("torch._dynamo.utils")
# The compiler warns of what it is itself made of.
pytestmark = pytest.mark.filterwarnings("ignore")

IMAGE = (2, 6, 5, 4)


def _conv_bn(**kwargs):
    branch = [
        layers.Conv2D(4, 3, padding="same"),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Conv2D(4, 3, padding="same"),
        layers.BatchNormalization(),
    ]
    return GradientResidual(branch, **kwargs)


BLOCKS = {
    "dense tanh": (lambda **kw: GradientResidualDense(activation="tanh", **kw), (3, 5)),
    "dense gelu": (lambda **kw: GradientResidualDense(activation="gelu", **kw), (3, 5)),
    "conv": (GradientResidualConv, IMAGE),
    "conv gelu": (lambda **kw: GradientResidualConv(activation="gelu", **kw), IMAGE),
    "conv, BN": (_conv_bn, IMAGE),
}
RESIDUALS = {
    "identity": {"residual": "identity"},
    "first order": {"residual": "convex"},
    "second order": {"residual": "convex", "second_order": True},
}


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    dynamo_utils.counters.clear()


def _numbers(size, seed):
    return np.random.default_rng(seed).normal(size=size).astype("float32")


def _set_weights(layer):
    for i, v in enumerate(layer.weights):
        value = 0.5 * _numbers(v.shape, i)
        v.assign(np.abs(value) + 0.5 if "variance" in v.path else value)


def _step(layer, call, x, training):
    """Output, gradients, and the state after a step; the state is put back."""
    before = [np.array(w) for w in layer.get_weights()]
    # A tensor of its own: that of the last call has gradients.
    x = torch.from_numpy(x).requires_grad_()
    y = call(x, training=training)
    weights = [v.value for v in layer.trainable_variables]
    loss = torch.sum(y * torch.from_numpy(_numbers(y.shape, 9)))
    found = torch.autograd.grad(loss, [x, *weights], allow_unused=True)
    numbers = [0.0 if g is None else g.detach().numpy() for g in found]
    numbers += [y.detach().numpy(), *layer.get_weights()]
    layer.set_weights(before)
    return numbers


QUICK = ("dense tanh", "second order")


@pytest.mark.parametrize(
    ("name", "order"),
    [
        pytest.param(*pair, marks=[] if pair == QUICK else pytest.mark.slow)
        for pair in itertools.product(BLOCKS, RESIDUALS)
    ],
)
def test_one_graph_with_the_numbers_of_eager_execution(name, order):
    make, shape = BLOCKS[name]
    # Two, so that what one leaves behind would be seen by the other.
    layer = keras.Sequential([keras.Input(shape[1:])])
    layer.add(make(**RESIDUALS[order]))
    layer.add(make(**RESIDUALS[order]))
    _set_weights(layer)
    graphs = []

    def count(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    # Of the moments of a batch Keras 3.15 makes no graph: it gives PyTorch its own kind
    # of list. In `fit`, below, the compiler goes around them.
    training = name != "conv, BN"
    compiled = torch.compile(layer, fullgraph=True, backend=count)
    for step in range(3):
        x = _numbers(shape, 100 + step)
        expected = _step(layer, layer, x, training)
        found = _step(layer, compiled, x, training)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    assert len(graphs) == 1


def _fit(model, x, y, jit_compile, epochs):
    """Fits, and returns the number of graphs that were compiled after each step."""
    model.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=jit_compile)
    graphs = []
    for _ in range(epochs):
        model.fit(x, y, batch_size=len(x), shuffle=False, verbose=0)
        graphs.append(dynamo_utils.counters["stats"]["unique_graphs"])
    return graphs


def _model(name, order):
    make, shape = BLOCKS[name]
    model = keras.Sequential([keras.Input(shape[1:])])
    for _ in range(2):
        model.add(make(**RESIDUALS[order]))
    _set_weights(model)
    return model, shape


@pytest.mark.separate
@pytest.mark.parametrize("order", list(RESIDUALS)[1:])
@pytest.mark.parametrize("name", ["dense tanh", "conv", "conv, BN"])
def test_fit_compiles_no_more_graphs_than_plain_keras(name, order):
    model, shape = _model(name, order)
    start = model.get_weights()
    x, y = _numbers(shape, 1), _numbers(shape, 2)
    _fit(model, x, y, jit_compile=False, epochs=4)
    expected = model.get_weights()
    model.set_weights(start)
    dynamo_utils.counters.clear()
    graphs = _fit(model, x, y, jit_compile=True, epochs=4)
    breaks = dict(dynamo_utils.counters["graph_break"])
    for a, b in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(expected, start, strict=True))

    torch._dynamo.reset()
    dynamo_utils.counters.clear()
    control, _ = _model(name, "identity")
    of_control = _fit(control, x, y, jit_compile=True, epochs=4)
    of_control_breaks = dynamo_utils.counters["graph_break"]
    assert set(breaks) <= set(of_control_breaks)
    if "BN" not in name:
        # At Keras's own break in the moments of a batch, each function on the way to it
        # is compiled by itself, and counts once more; there are more of them here.
        assert graphs[-1] <= of_control[-1]
        assert all(n <= of_control_breaks[why] for why, n in breaks.items()), breaks
    assert graphs[1] == graphs[-1]
