"""Sums, products and concatenations: layers, and operations as in `a + b`.

    y = a + b   c -> c, c               y = a b       c -> c b, c a
    y = a - b   c -> c, -c              y = (a, b)    c -> its part of a, its part of b

Where an input is broadcast, its cotangent is summed over what it is broadcast to.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import activations, ops

from keras_gradres.pullbacks.activations import of_function
from keras_gradres.pullbacks.registry import register_named, register_operation
from keras_gradres.pullbacks.rule import (
    Call,
    Pullback,
    RuleResult,
    is_float_tensor,
    no_axes,
    same_axes,
)
from keras_gradres.typing import AxesFunction, Structure, Tensor


def _reduced(c: Tensor, tensor: Tensor, y: Tensor) -> Tensor:
    """The cotangent of `tensor`, which was broadcast to the shape of `y`.

    Args:
        c: Its cotangent in the shape of `y`.
        tensor: An input of the layer.
        y: The output of the layer.
    """
    rank, added = len(y.shape), len(y.shape) - len(tensor.shape)
    stretched = [
        a
        for a in range(added, rank)
        if tensor.shape[a - added] == 1 and y.shape[a] != 1
    ]
    if not added and not stretched:
        return c
    c = ops.broadcast_to(c, ops.shape(y))
    c = ops.sum(c, axis=stretched, keepdims=True) if stretched else c
    return ops.sum(c, axis=tuple(range(added))) if added else c


def _merge(
    call: Call,
    args: Sequence[Structure],
    terms: Callable[[Tensor], list[Tensor]],
    constant: AxesFunction | None = same_axes,
) -> RuleResult:
    """Calls a layer that merges its inputs.

    Args:
        call: The call of the layer.
        args: The inputs, one by one or in a list.
        terms: From the cotangent of the output to those of the floating-point inputs,
            each still in the shape of the output.
        constant: As in `Pullback`, where no input is broadcast.
    """
    y = call(*args)
    tensors = [t for t in keras.tree.flatten(args) if is_float_tensor(t)]
    if any(t.shape != y.shape for t in tensors):
        constant = None

    def function(c: Tensor) -> list[Tensor]:
        pairs = zip(terms(c), tensors, strict=True)
        return [_reduced(term, tensor, y) for term, tensor in pairs]

    return y, Pullback(function, constant)


def _count(args: Sequence[Structure]) -> int:
    """The number of floating-point tensors."""
    return sum(map(is_float_tensor, keras.tree.flatten(args)))


@register_operation("Add")
@register_named("Add")
def _add(call: Call, *args: Structure) -> RuleResult:
    return _merge(call, args, lambda c: [c] * _count(args))


@register_operation("Subtract")
@register_named("Subtract")
def _subtract(call: Call, *args: Structure) -> RuleResult:
    signed = zip((1, -1), keras.tree.flatten(args), strict=True)
    signs = [sign for sign, value in signed if is_float_tensor(value)]
    # The gradients of the two inputs may cancel, so the layer must measure it: `None`.
    return _merge(call, args, lambda c: [sign * c for sign in signs], None)


@register_named("Average")
def _average(call: Call, *args: Structure) -> RuleResult:
    return _merge(call, args, lambda c: [c / _count(args)] * _count(args))


@register_operation("Multiply")
@register_named("Multiply")
def _multiply(call: Call, *args: Structure) -> RuleResult:
    flat = [
        call.saved(t) if is_float_tensor(t) else t for t in keras.tree.flatten(args)
    ]

    def terms(c: Tensor) -> list[Tensor]:
        return [
            c * functools.reduce(operator.mul, [*flat[:i], *flat[i + 1 :]], 1.0)
            for i, t in enumerate(flat)
            if is_float_tensor(t)
        ]

    return _merge(call, args, terms, no_axes)


@register_operation("Concatenate")
@register_named("Concatenate")
def _concatenate(call: Call, tensors: Sequence[Tensor]) -> RuleResult:
    y = call(tensors)
    axis = call.layer.axis % len(y.shape)

    def function(c: Tensor) -> list[Tensor]:
        parts: list[Tensor] = []
        start: Any = 0  # In a graph a size may be a scalar tensor.
        for tensor in tensors:
            stop = start + ops.shape(tensor)[axis]
            parts.append(c[(slice(None),) * axis + (slice(start, stop),)])
            start = stop
        return parts

    # A part is constant where the whole is.
    return y, Pullback(function, same_axes)


_FUNCTIONS = {
    "Relu": activations.relu,
    "Relu6": activations.relu6,
    "Sigmoid": activations.sigmoid,
    "Silu": activations.silu,
    "Softplus": activations.softplus,
    "Tanh": activations.tanh,
}


@register_operation(*_FUNCTIONS)
def _function(call: Call, x: Tensor) -> RuleResult:
    y, (pullback,) = of_function(call, _FUNCTIONS[type(call.layer).__name__], x)
    return y, pullback
