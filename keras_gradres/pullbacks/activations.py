"""Activations: c -> c act'(u), for y = act(u).

The derivative of most is a function of y, so that u need not be kept: those layers are
called as they are. Of the others it is a function of u. The layer that has such an
activation then computes u from its weights, and y from u, as its `call` does.
"""

import math
from collections.abc import Callable
from typing import Any

from keras import activations, ops

from keras_gradres import backend, exports
from keras_gradres.pullbacks.registry import pull, register_named
from keras_gradres.pullbacks.rule import Axes, Call, Pullback

NOWHERE: Axes = frozenset()
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def _times(slope):
    """The pullback c -> c act', from the function that gives act'."""

    def at(t):
        derivative = slope(t)
        return lambda c: c * derivative

    return at


def _step(condition, inside=1.0, outside=0.0):
    """An act' of two values: one where the condition holds, and another elsewhere."""

    def slope(t):
        # (As a product: a selection takes five times as long on PyTorch.)
        share = ops.cast(condition(ops.stop_gradient(t)), t.dtype)
        return (
            share
            if (inside, outside) == (1, 0)
            else outside + (inside - outside) * share
        )

    return _times(slope)


def _positive(y):
    """1 for u > 0, else 0, for y = max(u, 0)."""
    return ops.sign(ops.stop_gradient(y))


def _between(low, high):
    return lambda y: ops.logical_and(y > low, y < high)


def leaky(slope):
    """1 for u > 0, else `slope`; y has the sign of u."""
    return _step(lambda y: y > 0, outside=slope)


def exponential_linear(alpha):
    """1 for u > 0, else alpha exp(u) = y + alpha."""
    return _times(lambda y: ops.where(y > 0, ops.ones_like(y), y + alpha))


def _selu(y):
    low = y + _SELU_SCALE * _SELU_ALPHA
    return ops.where(y > 0, _SELU_SCALE * ops.ones_like(y), low)


# By tracer, the formats to which gelu converts and the error function itself does not.
_WITHOUT_ERF: dict = {"tf.function": ("litert",), "jit": ("tf_saved_model",)}


def _gelu(u):
    """Phi(u) + u phi(u)."""
    formats = _WITHOUT_ERF.get(backend.tracer(), ())
    if formats and exports.target() in formats:
        # Phi = gelu(u) / u.
        at_zero = ops.equal(u, 0)
        away = ops.where(at_zero, ops.ones_like(u), u)
        cumulated = ops.where(at_zero, 0.5, activations.gelu(away) / away)
    else:
        cumulated = 0.5 + 0.5 * ops.erf(math.sqrt(0.5) * u)
    return cumulated + u * (math.sqrt(0.5 / math.pi) * ops.exp(-0.5 * ops.square(u)))


def _silu(u):
    s = ops.sigmoid(u)
    return s * (1 + u * (1 - s))


def _mish(u):
    t = ops.tanh(ops.softplus(u))
    return t + u * (1 - ops.square(t)) * ops.sigmoid(u)


def _hard_silu(u):
    # u relu6(u + 3) / 6
    middle = ops.logical_and(u > -3, u < 3)
    return ops.where(middle, (2 * u + 3) / 6, ops.cast(u >= 3, u.dtype))


# From y to the pullback.
FROM_OUTPUT: dict[Callable, Callable] = {
    activations.celu: exponential_linear(1.0),
    activations.elu: exponential_linear(1.0),
    activations.exponential: _times(lambda y: y),
    activations.hard_sigmoid: _step(_between(0, 1), inside=1 / 6),
    activations.hard_shrink: _step(lambda y: y != 0),
    activations.hard_tanh: _step(_between(-1, 1)),
    activations.leaky_relu: leaky(0.2),
    activations.log_sigmoid: _times(lambda y: 1 - ops.exp(y)),
    activations.relu: _times(_positive),
    activations.relu6: _step(_between(0, 6)),
    activations.selu: _times(_selu),
    activations.sigmoid: _times(lambda y: y * (1 - y)),
    activations.soft_shrink: _step(lambda y: y != 0),
    activations.softplus: _times(lambda y: 1 - ops.exp(-y)),
    activations.softsign: _times(lambda y: ops.square(1 - ops.abs(y))),
    activations.sparse_sigmoid: _step(_between(0, 1), inside=0.5),
    activations.tanh: _times(lambda y: 1 - ops.square(y)),
}

# From u to the pullback.
FROM_INPUT: dict[Callable, Callable] = {
    activations.gelu: _times(_gelu),
    activations.hard_silu: _times(_hard_silu),
    activations.mish: _times(_mish),
    activations.silu: _times(_silu),
    activations.sparse_plus: _times(lambda u: ops.clip((u + 1) / 2, 0, 1)),
    activations.squareplus: _times(lambda u: (1 + u / ops.sqrt(u * u + 4)) / 2),
    activations.tanh_shrink: _times(lambda u: ops.square(ops.tanh(u))),
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


def _elementwise(pullback):
    return Pullback(pullback, lambda axes: NOWHERE)


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
    lower, upper, slope = layer.threshold, layer.max_value, layer.negative_slope
    positive = leaky(slope)(u - lower) if lower else leaky(slope)(u)
    if upper is None:
        return y, _elementwise(positive)
    below = ops.cast(u < upper, u.dtype)
    return y, _elementwise(lambda c: below * positive(c))


@register_named("LeakyReLU")
def _leaky_relu(call, x):
    y = call(x)
    return y, _elementwise(leaky(call.layer.negative_slope)(call.saved(call.cast(x))))


@register_named("PReLU")
def _prelu(call, x):
    y = call(x)
    positive = ops.cast(call.saved(call.cast(x)) > 0, y.dtype)
    alpha = call.weight(call.layer.alpha)
    slope = alpha + (1 - alpha) * positive
    return y, _elementwise(lambda c: c * slope)


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
