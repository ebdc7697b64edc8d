"""Sums, products and concatenations: layers, and operations as in `a + b`.

    y = a + b   c -> c, c               y = a b       c -> c b, c a
    y = a - b   c -> c, -c              y = (a, b)    c -> its part of a, its part of b

Where an input is broadcast, its cotangent is summed over what it is broadcast to.
"""

import functools
import operator

import keras
from keras import activations, ops

from keras_gradres.pullbacks.activations import NOWHERE, of_function
from keras_gradres.pullbacks.dropout import everywhere
from keras_gradres.pullbacks.registry import register_named, register_operation
from keras_gradres.pullbacks.rule import Pullback, is_float_tensor


def _reduced(c, tensor, y):
    """The cotangent of `tensor`, which was broadcast to the shape of `y`."""
    rank, more = len(y.shape), len(y.shape) - len(tensor.shape)
    single = [
        a for a in range(more, rank) if tensor.shape[a - more] == 1 and y.shape[a] != 1
    ]
    if not more and not single:
        return c
    c = ops.broadcast_to(c, ops.shape(y))
    c = ops.sum(c, axis=single, keepdims=True) if single else c
    return ops.sum(c, axis=tuple(range(more))) if more else c


def _merge(call, args, terms, constant=everywhere):
    """Calls the layer; `terms(c, y)` are the cotangents before any broadcasting."""
    y = call(*args)
    tensors = [t for t in keras.tree.flatten(args) if is_float_tensor(t)]
    if any(t.shape != y.shape for t in tensors):
        constant = None

    def function(c):
        pairs = zip(terms(c), tensors, strict=True)
        return [_reduced(term, tensor, y) for term, tensor in pairs]

    return y, Pullback(function, constant)


def _count(args):
    return sum(map(is_float_tensor, keras.tree.flatten(args)))


@register_operation("Add")
@register_named("Add")
def _add(call, *args):
    return _merge(call, args, lambda c: [c] * _count(args))


@register_operation("Subtract")
@register_named("Subtract")
def _subtract(call, *args):
    first, _ = keras.tree.flatten(args)
    terms = [1, -1][-_count(args) :] if not is_float_tensor(first) else [1, -1]
    # What the two have in common may cancel, so that it must be measured.
    return _merge(call, args, lambda c: [t * c for t in terms[: _count(args)]], None)


@register_named("Average")
def _average(call, *args):
    return _merge(call, args, lambda c: [c / _count(args)] * _count(args))


@register_operation("Multiply")
@register_named("Multiply")
def _multiply(call, *args):
    flat = [
        call.saved(t) if is_float_tensor(t) else t for t in keras.tree.flatten(args)
    ]

    def terms(c):
        return [
            c * functools.reduce(operator.mul, [*flat[:i], *flat[i + 1 :]], 1.0)
            for i, t in enumerate(flat)
            if is_float_tensor(t)
        ]

    return _merge(call, args, terms, lambda axes: NOWHERE)


@register_operation("Concatenate")
@register_named("Concatenate")
def _concatenate(call, tensors):
    y = call(tensors)
    axis = call.layer.axis % len(y.shape)

    def function(c):
        parts, start = [], 0
        for tensor in tensors:
            stop = start + ops.shape(tensor)[axis]
            parts.append(c[(slice(None),) * axis + (slice(start, stop),)])
            start = stop
        return parts

    # A part has the constants of the whole.
    return y, Pullback(function, everywhere)


_FUNCTIONS = {
    "Relu": activations.relu,
    "Relu6": activations.relu6,
    "Sigmoid": activations.sigmoid,
    "Silu": activations.silu,
    "Softplus": activations.softplus,
    "Tanh": activations.tanh,
}


@register_operation(*_FUNCTIONS)
def _function(call, x):
    y, (pullback,) = of_function(call, _FUNCTIONS[type(call.layer).__name__], x)
    return y, pullback
