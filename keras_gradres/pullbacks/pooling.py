"""Pooling.

average:  c / (number of entries in its window), spread over the window
maximum:  c to the first largest entry of its window, where windows do not overlap
global:   the same with one window; a maximum is shared by all that are the largest
"""

import math

from keras import ops

from keras_gradres.pullbacks.convolution import over_batch
from keras_gradres.pullbacks.registry import register_named
from keras_gradres.pullbacks.rule import Pullback
from keras_gradres.pullbacks.transposition import convolution_pullback


def _spatial(layer, rank):
    first = 2 if layer.data_format == "channels_first" else 1
    return tuple(range(first, first + rank))


@register_named("AveragePooling1D", "AveragePooling2D", "AveragePooling3D")
def _average(call, x):
    layer = call.layer
    if layer.padding != "valid":
        # Backends differ in what a window beyond the border is divided by.
        return call.automatic(x)
    y = call(x)
    window, strides = tuple(layer.pool_size), tuple(layer.strides)
    rank = len(window)
    options = (strides, "valid", (1,) * rank, layer.data_format)
    if rank > 2:
        spread = _by_channel(x, window, options)
    else:
        channels = x.shape[1 if layer.data_format == "channels_first" else -1]
        ones = ops.ones((*window, channels, 1), dtype=y.dtype)
        spread = convolution_pullback(x, ones, *options, depthwise=True)
    count = math.prod(window)
    return y, Pullback(lambda c: spread(c / count), over_batch)


def _by_channel(x, window, options):
    """As above with channels as samples: no convolution is depthwise in 3D."""
    strides, padding, dilation, data_format = options
    shape, rank = ops.shape(x), len(window)
    last = data_format == "channels_last"
    order = [0, rank + 1, *range(1, rank + 1)] if last else [*range(rank + 2)]
    back = [order.index(a) for a in range(rank + 2)]
    spatial = shape[1:-1] if last else shape[2:]
    channels = x.shape[-1 if last else 1]
    single = ops.reshape(ops.transpose(x, order), (-1, *spatial, 1))
    ones = ops.ones((*window, 1, 1), dtype=x.dtype)
    spread = convolution_pullback(
        single, ones, strides, padding, dilation, "channels_last", depthwise=False
    )

    def function(c):
        c = ops.transpose(c, order)
        c = spread(ops.reshape(c, (-1, *ops.shape(c)[2:], 1)))
        return ops.transpose(ops.reshape(c, (-1, channels, *spatial)), back)

    return function


@register_named(
    "GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D"
)
def _global_average(call, x, mask=None):
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

    def function(c):
        for a in axes if not layer.keepdims else ():
            c = ops.expand_dims(c, a)
        return c * share * ops.ones(sizes, dtype=c.dtype)

    everything, rank_after = frozenset(range(rank)), len(y.shape)

    def constant(axes):
        if len(axes) == rank_after and mask is None:
            return everything
        return axes & {0}

    return y, Pullback(function, constant)


@register_named("GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalMaxPooling3D")
def _global_maximum(call, x):
    layer = call.layer
    y = call(x)
    axes = _spatial(layer, len(x.shape) - 2)
    saved = call.saved(x)
    largest = ops.cast(
        ops.equal(saved, ops.max(saved, axis=axes, keepdims=True)), y.dtype
    )
    share = largest / ops.sum(largest, axis=axes, keepdims=True)

    def function(c):
        for a in axes if not layer.keepdims else ():
            c = ops.expand_dims(c, a)
        return c * share

    return y, Pullback(function, lambda axes: frozenset())


@register_named("MaxPooling1D", "MaxPooling2D", "MaxPooling3D")
def _maximum(call, x):
    layer = call.layer
    window = tuple(layer.pool_size)
    axes = _spatial(layer, len(window))
    sizes = [x.shape[a] for a in axes]
    if (
        tuple(layer.strides) != window
        or None in sizes
        or any(n % k for n, k in zip(sizes, window, strict=True))
    ):
        return call.automatic(x)  # Windows that overlap, or that the border cuts.
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
    # (batch, ..., window), and back
    order += offsets
    back = [order.index(a) for a in range(len(order))]
    outside = len(order) - len(offsets)

    def windows(t):
        t = ops.transpose(ops.reshape(t, split), order)
        return ops.reshape(t, (-1, *_sizes(t, 1, outside), math.prod(window)))

    def _sizes(t, start, stop):
        return ops.shape(t)[start:stop]

    entries = windows(call.saved(x))
    largest = ops.equal(entries, ops.max(entries, axis=-1, keepdims=True))
    largest = ops.cast(largest, "int32")
    first = ops.logical_and(largest == 1, ops.cumsum(largest, axis=-1) == 1)
    first = ops.cast(first, y.dtype)

    def function(c):
        c = ops.expand_dims(c, -1) * first
        c = ops.reshape(c, (-1, *_sizes(c, 1, outside), *window))
        return ops.reshape(ops.transpose(c, back), (-1, *shape[1:]))

    return y, Pullback(function, lambda axes: frozenset())
