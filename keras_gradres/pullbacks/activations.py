"""Activations: c -> c act'(u), for y = act(u).

The derivative of most activations is a function of y. A layer with such an activation
is called as it is. The derivative of the others is a function of u, which a layer does
not return. So u is computed from the weights of the layer, as its `call` does, and y
from u.
"""

import math
from collections.abc import Callable, Hashable
from typing import Any, TypeAlias

from keras import activations, ops

from keras_gradres import backend, exports
from keras_gradres.pullbacks.registry import pull, register_named
from keras_gradres.pullbacks.rule import Call, Pullback, RuleResult, no_axes, same_axes
from keras_gradres.typing import Mask, Tensor, TensorFunction

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805
# From u or y to the function c -> c act'.
Elementwise: TypeAlias = Callable[[Tensor], TensorFunction]


def _times(derivative: TensorFunction) -> Elementwise:
    """The pullback c -> c act', from the function that computes act'."""

    def at(t: Tensor) -> TensorFunction:
        slope = derivative(t)
        return lambda c: c * slope

    return at


def _two_valued(
    condition: TensorFunction, inside: float = 1.0, outside: float = 0.0
) -> Elementwise:
    """For an act' of two values: `inside` where the condition holds, else `outside`."""

    def derivative(t: Tensor) -> Tensor:
        # A product, because `where` takes five times as long on PyTorch.
        holds = ops.cast(condition(ops.stop_gradient(t)), t.dtype)
        if (inside, outside) == (1, 0):
            return holds
        return outside + (inside - outside) * holds

    return _times(derivative)


def _positive(y: Tensor) -> Tensor:
    """1 for u > 0, else 0, for y = max(u, 0)."""
    return ops.sign(ops.stop_gradient(y))


def _between(low: float, high: float) -> TensorFunction:
    return lambda y: ops.logical_and(y > low, y < high)


def leaky(slope: float) -> Elementwise:
    """1 for u > 0, else `slope`; y has the sign of u."""
    return _two_valued(lambda y: y > 0, outside=slope)


def exponential_linear(alpha: float) -> Elementwise:
    """1 for u > 0, else alpha exp(u) = y + alpha."""
    return _times(lambda y: ops.where(y > 0, ops.ones_like(y), y + alpha))


def _selu(y: Tensor) -> Tensor:
    low = y + _SELU_SCALE * _SELU_ALPHA
    return ops.where(y > 0, _SELU_SCALE * ops.ones_like(y), low)


# Some converters know gelu, but not the error function. By tracer, their formats.
_WITHOUT_ERF = {"tf.function": ("litert",), "jit": ("tf_saved_model",)}


def _gelu(u: Tensor) -> Tensor:
    """Phi(u) + u phi(u)."""
    formats = _WITHOUT_ERF.get(backend.tracer() or "", ())
    if formats and exports.target() in formats:
        # Phi = gelu(u) / u.
        at_zero = ops.equal(u, 0)
        not_zero = ops.where(at_zero, ops.ones_like(u), u)
        phi = ops.where(at_zero, 0.5, activations.gelu(not_zero) / not_zero)
    else:
        phi = 0.5 + 0.5 * ops.erf(math.sqrt(0.5) * u)
    return phi + u * (math.sqrt(0.5 / math.pi) * ops.exp(-0.5 * ops.square(u)))


def _silu(u: Tensor) -> Tensor:
    s = ops.sigmoid(u)
    return s * (1 + u * (1 - s))


def _mish(u: Tensor) -> Tensor:
    t = ops.tanh(ops.softplus(u))
    return t + u * (1 - ops.square(t)) * ops.sigmoid(u)


def _hard_silu(u: Tensor) -> Tensor:
    # u relu6(u + 3) / 6
    middle = ops.logical_and(u > -3, u < 3)
    return ops.where(middle, (2 * u + 3) / 6, ops.cast(u >= 3, u.dtype))


# From y to the pullback.
FROM_OUTPUT: dict[Hashable, Elementwise] = {
    activations.celu: exponential_linear(1.0),
    activations.elu: exponential_linear(1.0),
    activations.exponential: _times(lambda y: y),
    activations.hard_sigmoid: _two_valued(_between(0, 1), inside=1 / 6),
    activations.hard_shrink: _two_valued(lambda y: y != 0),
    activations.hard_tanh: _two_valued(_between(-1, 1)),
    activations.leaky_relu: leaky(0.2),
    activations.log_sigmoid: _times(lambda y: 1 - ops.exp(y)),
    activations.relu: _times(_positive),
    activations.relu6: _two_valued(_between(0, 6)),
    activations.selu: _times(_selu),
    activations.sigmoid: _times(lambda y: y * (1 - y)),
    activations.soft_shrink: _two_valued(lambda y: y != 0),
    activations.softplus: _times(lambda y: 1 - ops.exp(-y)),
    activations.softsign: _times(lambda y: ops.square(1 - ops.abs(y))),
    activations.sparse_sigmoid: _two_valued(_between(0, 1), inside=0.5),
    activations.tanh: _times(lambda y: 1 - ops.square(y)),
}

# From u to the pullback.
FROM_INPUT: dict[Hashable, Elementwise] = {
    activations.gelu: _times(_gelu),
    activations.hard_silu: _times(_hard_silu),
    activations.mish: _times(_mish),
    activations.silu: _times(_silu),
    activations.sparse_plus: _times(lambda u: ops.clip((u + 1) / 2, 0, 1)),
    activations.squareplus: _times(lambda u: (1 + u / ops.sqrt(u * u + 4)) / 2),
    activations.tanh_shrink: _times(lambda u: ops.square(ops.tanh(u))),
}


def softmax(y: Tensor, axis: int | tuple[int, ...]) -> TensorFunction:
    """J^T c = y (c - <c, y>)."""
    return lambda c: y * (c - ops.sum(c * y, axis=axis, keepdims=True))


def log_softmax(y: Tensor, axis: int | tuple[int, ...]) -> TensorFunction:
    """J^T c = c - exp(y) <c, 1>."""

    def pullback(c: Tensor) -> Tensor:
        c = c + ops.zeros_like(y)
        return c - ops.exp(y) * ops.sum(c, axis=axis, keepdims=True)

    return pullback


# Activations over the last axis: the pullback as a function of y and the axis, and
# whether the activation fixes the sum of its outputs, as a normalization does.
_OF_VECTORS: dict[Hashable, tuple[Callable[..., TensorFunction], bool]] = {
    activations.log_softmax: (log_softmax, False),
    activations.softmax: (softmax, True),
}


def activated(
    call: Call, x: Tensor, linear: TensorFunction
) -> tuple[Tensor, list[Pullback]]:
    """A layer with an activation: its output, and the pullbacks of its activation.

    Args:
        call: The call of the layer, which has an attribute `activation`.
        x: The input of the layer.
        linear: The function from x to u, the input of the activation.
    """
    activation = call.layer.activation
    if activation is None or activation is activations.linear:
        return call(x), []
    if _hashable(activation) in FROM_OUTPUT:
        y = call(x)
        return y, [_elementwise(FROM_OUTPUT[activation](call.saved(y)))]
    if call.layer.activity_regularizer is not None:
        y = call(x)  # A call, so that Keras adds the loss of the regularizer.
        return y, of_function(call, activation, linear(call.cast(x)))[1]

    pullbacks: list[Pullback] = []

    def output(x: Tensor) -> Tensor:
        y, of_activation = of_function(call, activation, linear(call.cast(x)))
        pullbacks.extend(of_activation)
        return y

    return call.with_mask(output, x), pullbacks


def of_function(
    call: Call, activation: Callable[..., Any], u: Tensor
) -> tuple[Tensor, list[Pullback]]:
    """An activation, a function or a layer, on u: its output and its pullbacks."""
    key = _hashable(activation)
    if key in FROM_OUTPUT:
        y = activation(u)
        return y, [_elementwise(FROM_OUTPUT[key](call.saved(y)))]
    if key in FROM_INPUT:
        return activation(u), [_elementwise(FROM_INPUT[key](call.saved(u)))]
    if key in _OF_VECTORS:
        y = activation(u)
        pullback, fixes_sum = _OF_VECTORS[key]
        axis = len(u.shape) - 1
        function = pullback(call.saved(y), axis)
        if fixes_sum:
            return y, [normalization(function, (axis,), u)]
        return y, [Pullback(function, no_axes)]
    if activation is activations.linear:
        return u, []
    return pull(call.to(activation), (u,), {})


def normalization(
    function: TensorFunction, axes: tuple[int, ...], u: Tensor
) -> Pullback:
    """The pullback of a normalization of u along `axes`."""
    return Pullback(function, no_axes, frozenset(axes), before=u)


def _elementwise(function: TensorFunction) -> Pullback:
    return Pullback(function, no_axes)


def _hashable(activation: Any) -> Hashable:
    """The activation as a key of a dict; `None` if it cannot be one."""
    try:
        hash(activation)
    except TypeError:
        return None
    return activation


@register_named("Activation")
def _activation(call: Call, x: Tensor) -> RuleResult:
    y, pullbacks = activated(call, x, lambda x: x)
    return y, pullbacks or Pullback(lambda c: c, same_axes)


@register_named("ReLU")
def _relu(call: Call, x: Tensor) -> RuleResult:
    layer, y, u = call.layer, call(x), call.saved(call.cast(x))
    lower, upper, slope = layer.threshold, layer.max_value, layer.negative_slope
    positive = leaky(slope)(u - lower) if lower else leaky(slope)(u)
    if upper is None:
        return y, _elementwise(positive)
    below = ops.cast(u < upper, u.dtype)
    return y, _elementwise(lambda c: below * positive(c))


@register_named("LeakyReLU")
def _leaky_relu(call: Call, x: Tensor) -> RuleResult:
    y = call(x)
    return y, _elementwise(leaky(call.layer.negative_slope)(call.saved(call.cast(x))))


@register_named("PReLU")
def _prelu(call: Call, x: Tensor) -> RuleResult:
    y = call(x)
    positive = ops.cast(call.saved(call.cast(x)) > 0, y.dtype)
    alpha = call.weight(call.layer.alpha)
    slope = alpha + (1 - alpha) * positive
    return y, _elementwise(lambda c: c * slope)


@register_named("ELU")
def _elu(call: Call, x: Tensor) -> RuleResult:
    y = call(x)
    return y, _elementwise(exponential_linear(call.layer.alpha)(call.saved(y)))


@register_named("Softmax")
def _softmax(call: Call, x: Tensor, mask: Mask = None) -> RuleResult:
    y = call(x) if mask is None else call(x, mask=mask)
    axis = call.layer.axis
    axes = tuple(axis) if isinstance(axis, (list, tuple)) else (axis,)
    axes = tuple(a % len(x.shape) for a in axes)
    return y, normalization(softmax(call.saved(y), axes), axes, x)
