"""Activations: c -> c act'(u), for y = act(u).

The derivative of most is a function of y, so that u need not be kept: those layers are
called as they are. Of the others it is a function of u. The layer that has such an
activation then computes u from its weights, and y from u, as its `call` does.
"""

import math
from collections.abc import Callable
from typing import Any

from keras import activations, ops

from keras_gradres.pullbacks.registry import pull, register_named
from keras_gradres.pullbacks.rule import Axes, Call, Pullback

NOWHERE: Axes = frozenset()
_ROOT = math.sqrt(2 * math.pi)
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def _between(low, high, slope):
    def derivative(y):
        inside = ops.logical_and(y > low, y < high)
        return slope * ops.cast(inside, y.dtype)

    return derivative


def _where(condition, a, b, like):
    return ops.where(condition, ops.cast(a, like.dtype), ops.cast(b, like.dtype))


def leaky(slope):
    """1 for u > 0, else `slope`; y has the sign of u."""
    return lambda y: _where(y > 0, 1.0, slope, y)


def exponential_linear(alpha):
    """1 for u > 0, else alpha exp(u) = y + alpha."""
    return lambda y: ops.where(y > 0, ops.ones_like(y), y + alpha)


def _gelu(u):
    # Phi(u) + u phi(u), with Phi = gelu(u) / u, and near 0 its series: the error
    # function itself does not convert to LiteRT.
    density = ops.exp(-ops.square(u) / 2) / _ROOT
    near, square = ops.abs(u) < 0.1, ops.square(u)
    series = 0.5 + u * (1 - square / 6 + ops.square(square) / 40) / _ROOT
    away = ops.where(near, ops.ones_like(u), u)
    distribution = ops.where(near, series, activations.gelu(away) / away)
    return distribution + u * density


def _silu(u):
    s = ops.sigmoid(u)
    return s * (1 + u * (1 - s))


def _mish(u):
    t = ops.tanh(ops.softplus(u))
    return t + u * (1 - ops.square(t)) * ops.sigmoid(u)


def _hard_silu(u):
    # u relu6(u + 3) / 6
    inner = _where(ops.logical_and(u > -3, u < 3), 1.0, 0.0, u)
    return inner * (2 * u + 3) / 6 + _where(u >= 3, 1.0, 0.0, u)


# The derivative as a function of y.
FROM_OUTPUT: dict[Callable, Callable] = {
    activations.celu: exponential_linear(1.0),
    activations.elu: exponential_linear(1.0),
    activations.exponential: lambda y: y,
    activations.hard_sigmoid: _between(0, 1, 1 / 6),
    activations.hard_shrink: lambda y: _where(y != 0, 1.0, 0.0, y),
    activations.hard_tanh: _between(-1, 1, 1.0),
    activations.leaky_relu: leaky(0.2),
    activations.log_sigmoid: lambda y: 1 - ops.exp(y),
    activations.relu: lambda y: ops.cast(y > 0, y.dtype),
    activations.relu6: _between(0, 6, 1.0),
    activations.selu: lambda y: ops.where(
        y > 0, _SELU_SCALE * ops.ones_like(y), y + _SELU_SCALE * _SELU_ALPHA
    ),
    activations.sigmoid: lambda y: y * (1 - y),
    activations.soft_shrink: lambda y: _where(y != 0, 1.0, 0.0, y),
    activations.softplus: lambda y: 1 - ops.exp(-y),
    activations.softsign: lambda y: ops.square(1 - ops.abs(y)),
    activations.sparse_sigmoid: _between(0, 1, 0.5),
    activations.tanh: lambda y: 1 - ops.square(y),
}

# The derivative as a function of u.
FROM_INPUT: dict[Callable, Callable] = {
    activations.gelu: _gelu,
    activations.hard_silu: _hard_silu,
    activations.mish: _mish,
    activations.silu: _silu,
    activations.sparse_plus: lambda u: ops.clip((u + 1) / 2, 0, 1),
    activations.squareplus: lambda u: (1 + u / ops.sqrt(ops.square(u) + 4)) / 2,
    activations.tanh_shrink: lambda u: ops.square(ops.tanh(u)),
}


def softmax(y, axis):
    """J^T c = y (c - <c, y>)."""
    return lambda c: y * (c - ops.sum(c * y, axis=axis, keepdims=True))


def log_softmax(y, axis):
    """J^T c = c - exp(y) <c, 1>."""

    def pullback(c):
        c = c + ops.zeros_like(y)
        return c - ops.exp(y) * ops.sum(c, axis=axis, keepdims=True)

    return pullback


# Over the last axis: the pullback as a function of y and the axis.
_OF_VECTORS = {
    activations.log_softmax: (log_softmax, False),
    activations.softmax: (softmax, True),
}


def activated(call: Call, x: Any, linear: Callable) -> tuple[Any, list[Pullback]]:
    """A layer with an activation: its output, and the pullbacks of its activation.

    Args:
        call: The call of the layer, which has an attribute `activation`.
        x: What the layer is given.
        linear: The function from x to u, what the layer gives to its activation.
    """
    activation = call.layer.activation
    if activation is None or activation is activations.linear:
        return call(x), []
    if _hashable(activation) in FROM_OUTPUT:
        y = call(x)
        return y, [_elementwise(FROM_OUTPUT[activation](call.saved(y)))]
    if call.layer.activity_regularizer is not None:
        y = call(x)  # Keras adds its losses.
        _, pullbacks = of_function(call, activation, linear(call.cast(x)))
        return y, pullbacks

    def both(x):
        y, pullbacks = of_function(call, activation, linear(call.cast(x)))
        found.extend(pullbacks)
        return y

    found: list[Pullback] = []
    return call.with_mask(both, x), found


def of_function(call: Call, activation: Callable, u: Any) -> tuple[Any, list[Pullback]]:
    """An activation, a function or a layer, on u: its output and its pullbacks."""
    key = _hashable(activation)
    if key in FROM_OUTPUT:
        y = activation(u)
        return y, [_elementwise(FROM_OUTPUT[key](call.saved(y)))]
    if key in FROM_INPUT:
        return activation(u), [_elementwise(FROM_INPUT[key](call.saved(u)))]
    if key in _OF_VECTORS:
        y = activation(u)
        pullback, normalizes = _OF_VECTORS[key]
        axis = len(u.shape) - 1
        function = pullback(call.saved(y), axis)
        if normalizes:
            return y, [normalization(function, (axis,), u)]
        return y, [Pullback(function, lambda axes: NOWHERE)]
    if activation is activations.linear:
        return u, []
    return pull(call.to(activation), (u,), {})


def normalization(function, axes, u):
    """The pullback of a normalization of u along `axes`."""
    return Pullback(function, lambda _: NOWHERE, frozenset(axes), before=u)


def _elementwise(slope):
    return Pullback(lambda c: c * slope, lambda axes: NOWHERE)


def _hashable(activation):
    try:
        hash(activation)
    except TypeError:
        return None
    return activation


@register_named("Activation")
def _activation(call, x):
    y, pullbacks = activated(call, x, lambda x: x)
    return y, pullbacks or Pullback(lambda c: c, lambda axes: axes)


@register_named("ReLU")
def _relu(call, x):
    layer, y, u = call.layer, call(x), call.saved(call.cast(x))
    slope = _where(u >= layer.threshold, 1.0, layer.negative_slope, u)
    if not layer.threshold:
        slope = _where(u > 0, 1.0, layer.negative_slope, u)
    if layer.max_value is not None:
        slope = ops.where(u < layer.max_value, slope, ops.zeros_like(slope))
    return y, _elementwise(slope)


@register_named("LeakyReLU")
def _leaky_relu(call, x):
    y = call(x)
    return y, _elementwise(leaky(call.layer.negative_slope)(call.saved(call.cast(x))))


@register_named("PReLU")
def _prelu(call, x):
    y = call(x)
    positive = call.saved(call.cast(x)) > 0
    alpha = call.weight(call.layer.alpha)
    return y, _elementwise(ops.where(positive, ops.ones_like(alpha), alpha))


@register_named("ELU")
def _elu(call, x):
    y = call(x)
    return y, _elementwise(exponential_linear(call.layer.alpha)(call.saved(y)))


@register_named("Softmax")
def _softmax(call, x, mask=None):
    y = call(x) if mask is None else call(x, mask=mask)
    axis = call.layer.axis
    axes = tuple(axis) if isinstance(axis, (list, tuple)) else (axis,)
    axes = tuple(a % len(x.shape) for a in axes)
    return y, normalization(softmax(call.saved(y), axes), axes, x)
