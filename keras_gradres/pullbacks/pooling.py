"""Pooling.

average:  c / (number of entries in its window), spread over the window
maximum:  c to the first largest entry of its window, where windows do not overlap
global:   the same with one window; a maximum is shared by all that are the largest
"""

import math

import keras
from keras import ops

from keras_gradres.pullbacks.registry import register_named
from keras_gradres.pullbacks.rule import (
    Call,
    Pullback,
    RuleResult,
    batch_only,
    no_axes,
)
from keras_gradres.pullbacks.transposition import convolution_pullback
from keras_gradres.typing import Axes, Mask, Sizes, Tensor, TensorFunction


def _spatial(layer: keras.Layer, rank: int) -> tuple[int, ...]:
    """The spatial axes, of which there are `rank`."""
    first = 2 if layer.data_format == "channels_first" else 1
    return tuple(range(first, first + rank))


@register_named("AveragePooling1D", "AveragePooling2D", "AveragePooling3D")
def _average(call: Call, x: Tensor) -> RuleResult:
    layer = call.layer
    if layer.padding != "valid":
        # Backends divide the sum of a window that the border cuts by different numbers.
        return call.automatic(x)
    y = call(x)
    window, strides = tuple(layer.pool_size), tuple(layer.strides)
    rank = len(window)
    if rank > 2:
        spread = _spread_by_channel(x, window, strides, layer.data_format)
    else:
        channels = x.shape[1 if layer.data_format == "channels_first" else -1]
        ones = ops.ones((*window, channels, 1), dtype=y.dtype)
        spread = convolution_pullback(
            x, ones, strides, "valid", (1,) * rank, layer.data_format, depthwise=True
        )
    count = math.prod(window)
    return y, Pullback(lambda c: spread(c / count), batch_only)


def _spread_by_channel(
    x: Tensor, window: tuple[int, ...], strides: tuple[int, ...], data_format: str
) -> TensorFunction:
    """Spreads each entry over its window, with the channels as samples.

    Keras has no depthwise convolution in 3D.
    """
    shape, rank = ops.shape(x), len(window)
    channels_last = data_format == "channels_last"
    order = [0, rank + 1, *range(1, rank + 1)] if channels_last else [*range(rank + 2)]
    back = [order.index(a) for a in range(rank + 2)]
    spatial = shape[1:-1] if channels_last else shape[2:]
    channels = x.shape[-1 if channels_last else 1]
    single = ops.reshape(ops.transpose(x, order), (-1, *spatial, 1))
    ones = ops.ones((*window, 1, 1), dtype=x.dtype)
    spread = convolution_pullback(
        single, ones, strides, "valid", (1,) * rank, "channels_last", depthwise=False
    )

    def function(c: Tensor) -> Tensor:
        c = ops.transpose(c, order)
        c = spread(ops.reshape(c, (-1, *ops.shape(c)[2:], 1)))
        return ops.transpose(ops.reshape(c, (-1, channels, *spatial)), back)

    return function


@register_named(
    "GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D"
)
def _global_average(call: Call, x: Tensor, mask: Mask = None) -> RuleResult:
    layer = call.layer
    rank = len(x.shape)
    if rank == 3:
        mask = call.mask(x) if mask is None else mask
        y = call(x) if mask is None else call(x, mask=mask)
    else:
        y = call(x)
    axes = _spatial(layer, rank - 2)
    if mask is None:
        count = math.prod(ops.shape(x)[a] for a in axes)
        share = ops.ones([1] * rank, dtype=y.dtype) / ops.cast(count, y.dtype)
    else:
        present = ops.expand_dims(ops.cast(mask, y.dtype), -axes[0] % 3)
        share = present / ops.sum(present, axis=axes, keepdims=True)
    sizes = [n if a in axes else 1 for a, n in enumerate(ops.shape(x))]

    def function(c: Tensor) -> Tensor:
        for a in axes if not layer.keepdims else ():
            c = ops.expand_dims(c, a)
        return c * share * ops.ones(sizes, dtype=c.dtype)

    all_axes, output_rank = frozenset(range(rank)), len(y.shape)

    def constant(axes: Axes) -> Axes:
        if len(axes) == output_rank and mask is None:
            return all_axes
        return axes & {0}

    return y, Pullback(function, constant)


@register_named("GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalMaxPooling3D")
def _global_maximum(call: Call, x: Tensor) -> RuleResult:
    layer = call.layer
    y = call(x)
    axes = _spatial(layer, len(x.shape) - 2)
    saved = call.saved(x)
    largest = ops.cast(
        ops.equal(saved, ops.max(saved, axis=axes, keepdims=True)), y.dtype
    )
    share = largest / ops.sum(largest, axis=axes, keepdims=True)

    def function(c: Tensor) -> Tensor:
        for a in axes if not layer.keepdims else ():
            c = ops.expand_dims(c, a)
        return c * share

    return y, Pullback(function, no_axes)


@register_named("MaxPooling1D", "MaxPooling2D", "MaxPooling3D")
def _maximum(call: Call, x: Tensor) -> RuleResult:
    layer = call.layer
    window = tuple(layer.pool_size)
    axes = _spatial(layer, len(window))
    sizes = [x.shape[a] for a in axes]
    if (
        tuple(layer.strides) != window
        or None in sizes
        or any(n % k for n, k in zip(sizes, window, strict=True))
    ):
        return call.automatic(x)  # Windows overlap, or the border cuts them.
    y = call(x)
    shape = ops.shape(x)
    split, order, offsets = [-1], [0], []
    for a in range(1, len(shape)):
        order.append(len(split))
        if a in axes:
            split += [shape[a] // window[axes.index(a)], window[axes.index(a)]]
            offsets.append(len(split) - 1)
        else:
            split.append(shape[a])
    # From (batch, ...) to (batch, ..., window), and back.
    order += offsets
    back = [order.index(a) for a in range(len(order))]
    outside = len(order) - len(offsets)

    def windows(t: Tensor) -> Tensor:
        """The entries of each window along the last axis."""
        t = ops.transpose(ops.reshape(t, split), order)
        return ops.reshape(t, (-1, *sizes_outside(t), math.prod(window)))

    def sizes_outside(t: Tensor) -> Sizes:
        return ops.shape(t)[1:outside]

    entries = windows(call.saved(x))
    largest = ops.equal(entries, ops.max(entries, axis=-1, keepdims=True))
    largest = ops.cast(largest, "int32")
    first = ops.logical_and(largest == 1, ops.cumsum(largest, axis=-1) == 1)
    first = ops.cast(first, y.dtype)

    def function(c: Tensor) -> Tensor:
        c = ops.expand_dims(c, -1) * first
        c = ops.reshape(c, (-1, *sizes_outside(c), *window))
        return ops.reshape(ops.transpose(c, back), (-1, *shape[1:]))

    return y, Pullback(function, no_axes)
