"""Layers that only move, repeat, pad or cut entries, and those that scale all alike."""

import keras
from keras import ops

from keras_gradres.pullbacks.convolution import over_batch
from keras_gradres.pullbacks.dropout import everywhere
from keras_gradres.pullbacks.registry import register_named
from keras_gradres.pullbacks.rule import Pullback


def rearranged(x, y):
    """All entries stay: constant everywhere if it was, else along the batch at most."""
    before, after = frozenset(range(len(x.shape))), frozenset(range(len(y.shape)))
    return lambda axes: before if after <= axes else axes & {0}


@register_named("Flatten", "Reshape")
def _reshape(call, x):
    y = call(x)
    shape = ops.shape(x)[1:]
    return y, Pullback(lambda c: ops.reshape(c, (-1, *shape)), rearranged(x, y))


@register_named("Permute")
def _permute(call, x):
    order = [0, *call.layer.dims]
    inverse = [order.index(a) for a in range(len(order))]

    def constant(axes):
        return frozenset(order[a] for a in axes)

    return call(x), Pullback(lambda c: ops.transpose(c, inverse), constant)


@register_named("RepeatVector")
def _repeat_vector(call, x):
    y = call(x)
    return y, Pullback(lambda c: ops.sum(c, axis=1), rearranged(x, y))


@register_named("Masking")
def _masking(call, x):
    given = ops.any(ops.not_equal(x, call.layer.mask_value), axis=-1, keepdims=True)
    given = ops.cast(given, x.dtype)
    return call(x), Pullback(lambda c: c * given, everywhere)


@register_named("Rescaling")
def _rescaling(call, x):
    y = call(x)
    scale = ops.convert_to_tensor(call.layer.scale, call.layer.compute_dtype)
    if len(scale.shape) and keras.config.image_data_format() == "channels_first":
        scale = ops.reshape(scale, (*scale.shape, *[1] * (3 - len(scale.shape))))
    own = {
        a - len(scale.shape) + len(x.shape) for a, n in enumerate(scale.shape) if n > 1
    }
    return y, Pullback(lambda c: c * scale, lambda axes: axes - own)


def _spatial(layer, rank):
    first = 2 if layer.data_format == "channels_first" else 1
    return range(first, first + rank)


def _margins(layer, amounts):
    """(before, after) for each axis of the input."""
    margins = [(0, 0)] * (len(amounts) + 2)
    for axis, pair in zip(_spatial(layer, len(amounts)), amounts, strict=True):
        margins[axis] = tuple(pair)
    return margins


def _pairs(amounts):
    amounts = amounts if isinstance(amounts[0], (list, tuple)) else (amounts,)
    return [tuple(pair) for pair in amounts]


@register_named("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D")
def _zero_padding(call, x):
    y = call(x)
    shape = ops.shape(x)
    margins = _margins(_with_format(call.layer), _pairs(call.layer.padding))
    inside = tuple(
        slice(before, before + shape[a]) if before or after else slice(None)
        for a, (before, after) in enumerate(margins)
    )
    return y, Pullback(lambda c: c[inside], everywhere)


@register_named("Cropping1D", "Cropping2D", "Cropping3D")
def _cropping(call, x):
    margins = _margins(_with_format(call.layer), _pairs(call.layer.cropping))
    return call(x), Pullback(lambda c: ops.pad(c, margins), over_batch)


class _ChannelsLast:
    data_format = "channels_last"


def _with_format(layer):
    """Layers of one dimension may have no data format."""
    return layer if hasattr(layer, "data_format") else _ChannelsLast


@register_named("UpSampling1D", "UpSampling2D", "UpSampling3D")
def _up_sampling(call, x):
    layer = call.layer
    if getattr(layer, "interpolation", "nearest") != "nearest":
        return call.automatic(x)
    size = layer.size if isinstance(layer.size, (list, tuple)) else (layer.size,)
    axes = list(_spatial(_with_format(layer), len(size)))
    shape = ops.shape(x)

    def function(c):
        split, summed = [-1], []
        for a in range(1, len(shape)):
            split.append(shape[a])
            if a in axes:
                summed.append(len(split))
                split.append(size[axes.index(a)])
        return ops.sum(ops.reshape(c, split), axis=summed)

    return call(x), Pullback(function, everywhere)
