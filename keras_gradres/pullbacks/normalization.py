"""Normalizations: y = gamma xhat + beta, xhat = r (x - mean), r = 1 / sqrt(var + e).

    statistics of x:     c -> r (gamma c - mean(gamma c) - xhat mean(gamma c xhat))
    moving statistics:   c -> r gamma c
    RMSNormalization:    c -> r (gamma c - xhat mean(gamma c xhat)),  xhat = r x
    UnitNormalization:   c -> (c - y <c, y>) / |x|

The means are those over the axes along which the layer normalizes. In half precision
the layers compute in float32, and so do the pullbacks.
"""

import keras
from keras import ops

from keras_gradres import precision
from keras_gradres.pullbacks.registry import register_named
from keras_gradres.pullbacks.rule import Call, Pullback, RuleResult, no_axes
from keras_gradres.typing import Mask, Sizes, Tensor, TensorFunction


def _wide(x: Tensor) -> Tensor:
    """`x` in float32 at least."""
    return ops.cast(x, precision.wide(x.dtype))


def _mean(values: Tensor, axes: tuple[int, ...], weights: Tensor | None) -> Tensor:
    """The mean over axes; with `weights`, which sum to 1 over them, a weighted sum."""
    if weights is None:
        return ops.mean(values, axis=axes, keepdims=True)
    return ops.sum(weights * values, axis=axes, keepdims=True)


def _statistics(
    x: Tensor, axes: tuple[int, ...], epsilon: float, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Xhat and r of `x` over `axes`."""
    mean = _mean(x, axes, weights)
    centered = x - mean
    r = ops.rsqrt(_mean(ops.square(centered), axes, weights) + epsilon)
    return centered * r, r


def centered_pullback(
    x: Tensor,
    gamma: Tensor | None,
    axes: tuple[int, ...],
    epsilon: float,
    weights: Tensor | None = None,
) -> TensorFunction:
    """The pullback of a normalization by the mean and the variance of `x`.

    Args:
        x: The tensor that is normalized, in float32 at least.
        gamma: A tensor that broadcasts to the shape of `x`. `None` stands for 1.
        axes: The axes of the mean and the variance.
        epsilon: A number that is added to the variance.
        weights: The weights of the entries in the mean and the variance. They sum to 1
            over the axes. `None` for equal weights.
    """
    xhat, r = _statistics(x, axes, epsilon, weights)

    def function(c: Tensor) -> Tensor:
        c = _wide(c)
        c = c if gamma is None else c * gamma
        if weights is None:
            common = _mean(c, axes, None) + xhat * _mean(c * xhat, axes, None)
        else:
            # An entry changes the mean and the variance in proportion to its weight.
            c = ops.broadcast_to(c, ops.shape(x))
            total = ops.sum(c, axis=axes, keepdims=True)
            along = ops.sum(c * xhat, axis=axes, keepdims=True)
            common = weights * (total + xhat * along)
        return r * (c - common)

    return function


def _sorted_axes(axis: int | list[int] | tuple[int, ...], rank: int) -> tuple[int, ...]:
    """One axis or several as a sorted tuple, counted from 0."""
    axes = axis if isinstance(axis, (list, tuple)) else [axis]
    return tuple(sorted(a % rank for a in axes))


def _along(vector: Tensor, axis: int, rank: int) -> Tensor:
    """A vector reshaped to `rank` axes: its entries along `axis`, 1 elsewhere."""
    shape = [1] * rank
    shape[axis] = -1
    return ops.reshape(vector, shape)


@register_named("BatchNormalization")
def _batch_normalization(call: Call, x: Tensor, mask: Mask = None) -> RuleResult:
    layer = call.layer
    by_batch = call.training and layer.trainable
    if by_batch and (layer.synchronized or getattr(layer, "renorm", False)):
        return call.automatic(x) if mask is None else call.automatic(x, mask=mask)
    mask = call.mask(x) if mask is None else mask
    rank = len(x.shape)
    axis = layer.axis % rank
    axes = tuple(a for a in range(rank) if a != axis)
    wide = _wide(call.saved(x))
    gamma = None
    if layer.scale:
        gamma = _along(
            _wide(call.saved(ops.convert_to_tensor(layer.gamma))), axis, rank
        )
    y = call(x) if mask is None else call(x, mask=mask)
    if by_batch:
        weights = None
        if mask is not None:
            weights = ops.cast(mask, wide.dtype)
            for _ in range(rank - len(mask.shape)):
                weights = ops.expand_dims(weights, -1)
            count = ops.sum(weights, axis=axes, keepdims=True)
            weights = weights / (count + keras.config.epsilon())
        function = centered_pullback(wide, gamma, axes, layer.epsilon, weights)
        varying = frozenset(range(rank))
    else:
        variance = ops.convert_to_tensor(layer.moving_variance)
        factor = ops.rsqrt(_wide(call.saved(variance)) + layer.epsilon)
        factor = _along(factor, axis, rank)
        factor = factor if gamma is None else factor * gamma

        def function(c: Tensor) -> Tensor:
            return _wide(c) * factor

        varying = frozenset({axis})

    return y, Pullback(
        function,
        lambda axes: axes - varying,
        normalizes=frozenset(axes),
        active=by_batch,
        before=x,
    )


@register_named("LayerNormalization")
def _layer_normalization(call: Call, x: Tensor) -> RuleResult:
    layer = call.layer
    if layer.rms_scaling:
        return call.automatic(x)
    y = call(x)
    axes = _sorted_axes(layer.axis, len(x.shape))
    wide = _wide(call.saved(x))
    gamma = _over_axes(call, layer.gamma, axes, x) if layer.scale else None
    function = centered_pullback(wide, gamma, axes, layer.epsilon)
    return y, Pullback(function, no_axes, frozenset(axes), before=x)


def _over_axes(
    call: Call, gamma: keras.Variable, axes: tuple[int, ...], x: Tensor
) -> Tensor:
    """A weight over several axes of `x`, reshaped to broadcast to the shape of `x`."""
    shape = [x.shape[a] if a in axes else 1 for a in range(len(x.shape))]
    return ops.reshape(_wide(call.saved(ops.convert_to_tensor(gamma))), shape)


@register_named("GroupNormalization")
def _group_normalization(call: Call, x: Tensor) -> RuleResult:
    layer = call.layer
    y = call(x)
    rank = len(x.shape)
    axis = layer.axis % rank
    shape = list(ops.shape(x))
    size = x.shape[axis] // layer.groups
    grouped = [-1, *shape[1:axis], layer.groups, size, *shape[axis + 1 :]]
    # All but the batch and the groups.
    axes = tuple(a for a in range(1, rank + 1) if a != axis)
    gamma = None
    if layer.scale:
        gamma = _along(
            _wide(call.saved(ops.convert_to_tensor(layer.gamma))), axis, rank
        )
    wide = ops.reshape(_wide(call.saved(x)), grouped)
    by_groups = centered_pullback(wide, None, axes, layer.epsilon)

    def function(c: Tensor) -> Tensor:
        c = _wide(c) if gamma is None else _wide(c) * gamma
        c = ops.broadcast_to(c, _like(c, shape))
        c = by_groups(ops.reshape(c, grouped))
        return ops.reshape(c, (-1, *shape[1:]))

    normalizes = frozenset(range(1, rank))
    return y, Pullback(function, no_axes, normalizes, before=x)


def _like(c: Tensor, shape: Sizes) -> Sizes:
    """The shape with the batch size of `c`, which may be 1."""
    return (ops.shape(c)[0], *shape[1:])


@register_named("RMSNormalization")
def _rms_normalization(call: Call, x: Tensor) -> RuleResult:
    layer = call.layer
    y = call(x)
    axes = _sorted_axes(layer.axis, len(x.shape))
    wide = _wide(call.saved(x))
    r = ops.rsqrt(ops.mean(ops.square(wide), axis=axes, keepdims=True) + layer.epsilon)
    xhat = wide * r
    gamma = _over_axes(call, layer.scale, axes, x)

    def function(c: Tensor) -> Tensor:
        c = _wide(c) * gamma
        return r * (c - xhat * ops.mean(c * xhat, axis=axes, keepdims=True))

    # At the end of a branch it is treated as the normalizations above. But the sum of
    # its outputs depends on the input, so it removes no cotangent: not `active`.
    return y, Pullback(function, no_axes, frozenset(axes), False, before=x)


@register_named("UnitNormalization")
def _unit_normalization(call: Call, x: Tensor) -> RuleResult:
    y = call(x)
    axes = _sorted_axes(call.layer.axis, len(x.shape))
    x_saved, y_saved = call.saved(x), call.saved(y)
    squares = ops.sum(ops.square(x_saved), axis=axes, keepdims=True)
    long = squares > 1e-24  # As in `ops.normalize`.
    r = ops.rsqrt(ops.where(long, squares, 1e-24 * ops.ones_like(squares)))

    def function(c: Tensor) -> Tensor:
        along = ops.sum(c * y_saved, axis=axes, keepdims=True)
        return r * (c - ops.where(long, y_saved * along, ops.zeros_like(y_saved)))

    return y, Pullback(function, no_axes, frozenset(axes), False, before=x)


@register_named("Normalization")
def _preprocessing(call: Call, x: Tensor) -> RuleResult:
    layer = call.layer
    y = call(x)
    deviation = ops.maximum(
        ops.sqrt(ops.convert_to_tensor(layer.variance)), keras.config.epsilon()
    )
    factor = call.saved(call.cast(deviation if layer.invert else 1 / deviation))
    varying = {
        a - len(factor.shape) + len(x.shape)
        for a, n in enumerate(factor.shape)
        if n > 1
    }
    return y, Pullback(lambda c: c * factor, lambda axes: axes - varying)
