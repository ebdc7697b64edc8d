"""What a gradient residual adds to a training step, in floating-point operations.

A multiplication and an addition are two operations. For one sample,

    dense          2 x inputs x outputs x positions
    convolution    2 x entries of the kernel x positions of the output
    transposed     2 x entries of the kernel x positions of the input
    attention      its four projections, and 2 x queries x keys x entries, twice

What costs one number for each entry (activations, normalizations, sums) is left out.
Going forward through a layer costs this once, and a training step three times: forward,
the gradient by the input, and that by the weights. The gradient residual adds the
pullback of the branch,

    first order      1 x    c -> J^T c, which is one more gradient by the input
    second order     3 x    that, and its own gradients by c and by the weights

for each layer but the affine tail of the branch, which is pulled back for one sample in
a batch, and what trails behind; see `GradientResidual.parts`.

Usage:

    flops(calls)
"""

import math
from collections.abc import Iterable
from typing import Any

import keras

from keras_gradres.conversion.calls import Call, Calls
from keras_gradres.pullbacks.recording import is_recordable

FIRST_ORDER, SECOND_ORDER, STEP = 1, 3, 3
_KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel")
_TRANSPOSED = tuple(
    getattr(keras.layers, f"Conv{n}DTranspose")
    for n in (1, 2, 3)
    if hasattr(keras.layers, f"Conv{n}DTranspose")
)


def flops(calls: Iterable[Call], names: Iterable[str] | None = None) -> int | None:
    """Operations of going forward through calls, for one sample.

    Args:
        calls: The calls; models among them are opened.
        names: Those of the layers that count, by default of all.

    Returns:
        The number, or `None` where a size is not known.
    """
    names = None if names is None else set(names)
    total = 0
    for call in opened(calls):
        if names is None or call.layer.name in names:
            found = _of_call(call)
            if found is None:
                return None
            total += found
    return total


def of_model(model: keras.Model) -> int | None:
    """Operations of going forward through a functional model, for one sample."""
    return flops(Calls(model).calls)


def opened(calls: Iterable[Call]) -> Iterable[Call]:
    """The calls, and in the place of models the calls of these."""
    for call in calls:
        if is_recordable(call.layer):
            yield from opened(Calls(call.layer).calls)
        else:
            yield call


def _of_call(call):
    layer = call.layer
    if not isinstance(layer, keras.Layer) or not call.inputs or not call.outputs:
        return 0
    given, made = call.inputs[0].shape, call.outputs[0].shape
    if isinstance(layer, keras.layers.MultiHeadAttention):
        return _attention(layer, call)
    if isinstance(layer, keras.layers.EinsumDense):
        _, kernel, output = layer.equation.replace("->", ",").split(",")
        sizes = dict(zip(kernel, layer.kernel.shape, strict=True))
        summed = math.prod(size for axis, size in sizes.items() if axis not in output)
        return _product(2, summed, *made[1:])
    if isinstance(layer, keras.layers.RNN):
        matrices = _entries(w for w in layer.weights if len(w.shape) > 1)
        return _product(2, matrices, given[1])
    shape = given if isinstance(layer, _TRANSPOSED) else made
    if type(layer).__module__.startswith("keras."):
        weights = [getattr(layer, name, None) for name in _KERNELS]
        matrices = _entries(w for w in weights if w is not None)
    else:
        matrices = _entries(w for w in layer.weights if len(w.shape) > 1)
    if not matrices:
        return 0
    return _product(2, matrices, *_positions(layer, shape))


def _attention(layer, call):
    query, value = (call.inputs[i % len(call.inputs)].shape[1:-1] for i in (0, 1))
    config = layer.get_config()
    entries = config["key_dim"] + (config["value_dim"] or config["key_dim"])
    # The projections of queries and outputs, and those of keys and values.
    by_query: list[Any] = []
    by_value: list[Any] = []
    for weight in layer.weights:
        if len(weight.shape) > 2:
            side = weight.path.split("/")[-2]
            (by_value if side in ("key", "value") else by_query).append(weight)
    parts = [
        _product(2, _entries(by_query), *query),
        _product(2, _entries(by_value), *value),
        _product(2, config["num_heads"] * entries, *query, *value),
    ]
    return None if None in parts else sum(parts)


def _positions(layer, shape):
    if getattr(layer, "data_format", None) == "channels_first":
        return shape[2:]
    return shape[1:-1]


def _entries(weights):
    return sum(math.prod(weight.shape) for weight in weights)


def _product(*sizes):
    return None if None in sizes else math.prod(sizes)
