"""Dense layers: y = act(x W + b), c -> (c act') W^T."""

import keras
from keras import ops

from keras_gradres.pullbacks.activations import activated
from keras_gradres.pullbacks.registry import register_named
from keras_gradres.pullbacks.rule import Call, Pullback, RuleResult
from keras_gradres.typing import Axes, Tensor, TensorFunction


@register_named("Dense")
def _dense(call: Call, x: Tensor) -> RuleResult:
    layer = call.layer
    if layer.quantization_mode is not None:
        return call.automatic(x)

    def linear(x: Tensor) -> Tensor:
        u = ops.matmul(x, call.cast(layer.kernel))
        return u if layer.bias is None else ops.add(u, call.cast(layer.bias))

    y, pullbacks = activated(call, x, linear)
    transposed = ops.transpose(call.weight(layer.kernel))
    features = len(x.shape) - 1
    return y, [
        *pullbacks,
        Pullback(lambda c: ops.matmul(c, transposed), lambda axes: axes - {features}),
    ]


@register_named("EinsumDense")
def _einsum_dense(call: Call, x: Tensor) -> RuleResult:
    layer = call.layer
    if layer.quantization_mode is not None or not _is_transposable(layer, len(x.shape)):
        return call.automatic(x)
    y, pullbacks = activated(call, x, lambda x: einsum_linear(call, x))
    inputs, kernel, outputs = _subscripts(layer.equation, len(x.shape))

    def constant(axes: Axes) -> Axes:
        # Along an axis of the kernel the weights make it vary.
        names = {outputs[axis] for axis in axes} - set(kernel)
        return frozenset(i for i, name in enumerate(inputs) if name in names)

    return y, [*pullbacks, Pullback(einsum_pullback(call, len(x.shape)), constant)]


def einsum_linear(call: Call, x: Tensor) -> Tensor:
    """The input of the activation of an `EinsumDense`."""
    layer = call.layer
    u = ops.einsum(layer.equation, x, call.cast(layer.kernel))
    return u if layer.bias is None else ops.add(u, call.cast(layer.bias))


def einsum_pullback(call: Call, rank: int) -> TensorFunction:
    """C -> J^T c of an `EinsumDense` without activation, for inputs of `rank` axes."""
    inputs, kernel, outputs = _subscripts(call.layer.equation, rank)
    # Converters want the summed axes first, in the order of the outputs.
    order = [n for n in outputs if n in kernel and n not in inputs]
    order += [n for n in kernel if n not in order]
    weight = ops.transpose(
        call.weight(call.layer.kernel), [kernel.index(n) for n in order]
    )
    equation = f"{outputs},{''.join(order)}->{inputs}"
    return lambda c: ops.einsum(equation, c, weight)


def _is_transposable(layer: keras.Layer, rank: int) -> bool:
    """Whether the pullback is an einsum with the kernel.

    Then an axis is summed only with the kernel, and samples are not mixed.
    """
    inputs, kernel, outputs = _subscripts(layer.equation, rank)
    all_occur = set(inputs) <= set(outputs) | set(kernel)
    return all_occur and inputs[0] == outputs[0] and inputs[0] not in kernel


def _subscripts(equation: str, rank: int) -> tuple[str, str, str]:
    """The subscripts of input, kernel and output; letters replace an ellipsis."""
    inputs, rest = equation.replace(" ", "").split(",")
    kernel, outputs = rest.split("->")
    if "..." in inputs:
        count = rank - len(inputs) + len("...")
        used = set(inputs) | set(kernel) | set(outputs)
        free = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in used][:count]
        inputs = inputs.replace("...", "".join(free))
        outputs = outputs.replace("...", "".join(free))
    return inputs, kernel, outputs
