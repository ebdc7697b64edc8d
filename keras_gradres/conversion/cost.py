"""What a gradient residual adds to a training step, in floating-point operations.

A multiplication and an addition are two operations. For one sample,

    dense          2 x inputs x outputs x positions
    convolution    2 x entries of the kernel x positions of the output
    transposed     2 x entries of the kernel x positions of the input
    attention      its four projections, and 2 x queries x keys x entries, twice

Operations that cost one number for each entry (activations, normalizations, sums) are
left out.

The forward pass costs this once. A training step costs it three times: forward, the
gradient by the input, and the gradient by the weights. The gradient residual adds the
pullback of the branch,

    first order      1 x    c -> J^T c, which is one more gradient by the input
    second order     3 x    that, and its own gradients by c and by the weights

Two kinds of layers of the branch are left out of this. The affine tail is pulled back
for one sample of a batch only. Trailing layers are not pulled back at all. See
`GradientResidual.parts`.

Usage:

    flops(calls)
"""

import math
from collections.abc import Iterable, Iterator

import keras

from keras_gradres.conversion.calls import ModelCall, ModelCalls
from keras_gradres.pullbacks.recording import is_recordable
from keras_gradres.typing import Shape

# How often the operations of a forward pass are done again: by the gradient residual,
# and by a training step.
FIRST_ORDER, SECOND_ORDER, TRAINING_STEP = 1, 3, 3
_KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel")
_TRANSPOSED = tuple(
    getattr(keras.layers, f"Conv{n}DTranspose")
    for n in (1, 2, 3)
    if hasattr(keras.layers, f"Conv{n}DTranspose")
)


def flops(calls: Iterable[ModelCall], names: Iterable[str] | None = None) -> int | None:
    """Operations of the forward pass through calls, for one sample.

    Args:
        calls: The calls. Models among them are replaced by the calls in them.
        names: The names of the layers that count, by default all.

    Returns:
        The number, or `None` where a size is not known.
    """
    names = None if names is None else set(names)
    total = 0
    for call in flattened(calls):
        if names is None or call.layer.name in names:
            operations = _of_call(call)
            if operations is None:
                return None
            total += operations
    return total


def of_model(model: keras.Model) -> int | None:
    """Operations of the forward pass through a functional model, for one sample."""
    return flops(ModelCalls(model).calls)


def flattened(calls: Iterable[ModelCall]) -> Iterator[ModelCall]:
    """The calls, with the calls in a model in the place of a call of the model."""
    for call in calls:
        if is_recordable(call.layer):
            yield from flattened(ModelCalls(call.layer).calls)
        else:
            yield call


def _of_call(call: ModelCall) -> int | None:
    layer = call.layer
    if not isinstance(layer, keras.Layer) or not call.inputs or not call.outputs:
        return 0
    input_shape, output_shape = call.inputs[0].shape, call.outputs[0].shape
    if isinstance(layer, keras.layers.MultiHeadAttention):
        return _attention(layer, call)
    if isinstance(layer, keras.layers.EinsumDense):
        _, kernel, output = layer.equation.replace("->", ",").split(",")
        sizes = dict(zip(kernel, layer.kernel.shape, strict=True))
        summed = math.prod(size for axis, size in sizes.items() if axis not in output)
        return _product(2, summed, *output_shape[1:])
    if isinstance(layer, keras.layers.RNN):
        matrices = _entries(w for w in layer.weights if len(w.shape) > 1)
        return _product(2, matrices, input_shape[1])
    shape = input_shape if isinstance(layer, _TRANSPOSED) else output_shape
    if type(layer).__module__.startswith("keras."):
        weights = [getattr(layer, name, None) for name in _KERNELS]
        matrices = _entries(w for w in weights if w is not None)
    else:
        matrices = _entries(w for w in layer.weights if len(w.shape) > 1)
    if not matrices:
        return 0
    return _product(2, matrices, *_positions(layer, shape))


def _attention(layer: keras.Layer, call: ModelCall) -> int | None:
    query, value = (call.inputs[i % len(call.inputs)].shape[1:-1] for i in (0, 1))
    config = layer.get_config()
    entries = config["key_dim"] + (config["value_dim"] or config["key_dim"])
    # Queries and outputs have one length, keys and values another.
    by_query: list[keras.Variable] = []
    by_value: list[keras.Variable] = []
    for weight in layer.weights:
        if len(weight.shape) > 2:
            side = weight.path.split("/")[-2]
            (by_value if side in ("key", "value") else by_query).append(weight)
    terms = [
        _product(2, _entries(by_query), *query),
        _product(2, _entries(by_value), *value),
        _product(2, config["num_heads"] * entries, *query, *value),
    ]
    known = [n for n in terms if n is not None]
    return sum(known) if len(known) == len(terms) else None


def _positions(layer: keras.Layer, shape: Shape) -> Shape:
    if getattr(layer, "data_format", None) == "channels_first":
        return shape[2:]
    return shape[1:-1]


def _entries(weights: Iterable[keras.Variable]) -> int:
    return sum(math.prod(weight.shape) for weight in weights)


def _product(*sizes: int | None) -> int | None:
    """The product, or `None` if a size is not known."""
    known = [n for n in sizes if n is not None]
    return math.prod(known) if len(known) == len(sizes) else None
