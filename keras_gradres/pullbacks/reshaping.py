"""Layers that move, repeat, pad or cut entries, or multiply them by constants."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_gradres.pullbacks.registry import register_named
from keras_gradres.pullbacks.rule import (
    Call,
    Pullback,
    RuleResult,
    batch_only,
    same_axes,
)
from keras_gradres.typing import Axes, AxesFunction, Tensor


def rearranged(x: Tensor, y: Tensor) -> AxesFunction:
    """`Pullback.constant` of a layer that keeps all entries of a sample.

    A cotangent that is constant along all axes stays so. Another one is constant along
    the batch at most.
    """
    before, after = frozenset(range(len(x.shape))), frozenset(range(len(y.shape)))
    return lambda axes: before if after <= axes else axes & {0}


@register_named("Flatten", "Reshape")
def _reshape(call: Call, x: Tensor) -> RuleResult:
    y = call(x)
    shape = ops.shape(x)[1:]
    return y, Pullback(lambda c: ops.reshape(c, (-1, *shape)), rearranged(x, y))


@register_named("Permute")
def _permute(call: Call, x: Tensor) -> RuleResult:
    order = [0, *call.layer.dims]
    inverse = [order.index(a) for a in range(len(order))]

    def constant(axes: Axes) -> Axes:
        return frozenset(order[a] for a in axes)

    return call(x), Pullback(lambda c: ops.transpose(c, inverse), constant)


@register_named("RepeatVector")
def _repeat_vector(call: Call, x: Tensor) -> RuleResult:
    y = call(x)
    return y, Pullback(lambda c: ops.sum(c, axis=1), rearranged(x, y))


@register_named("Masking")
def _masking(call: Call, x: Tensor) -> RuleResult:
    kept = ops.any(ops.not_equal(x, call.layer.mask_value), axis=-1, keepdims=True)
    kept = ops.cast(kept, x.dtype)
    return call(x), Pullback(lambda c: c * kept, same_axes)


@register_named("Rescaling")
def _rescaling(call: Call, x: Tensor) -> RuleResult:
    y = call(x)
    scale = ops.convert_to_tensor(call.layer.scale, call.layer.compute_dtype)
    if len(scale.shape) and keras.config.image_data_format() == "channels_first":
        scale = ops.reshape(scale, (*scale.shape, *[1] * (3 - len(scale.shape))))
    varying = {
        a - len(scale.shape) + len(x.shape) for a, n in enumerate(scale.shape) if n > 1
    }
    return y, Pullback(lambda c: c * scale, lambda axes: axes - varying)


def _spatial(layer: keras.Layer, rank: int) -> range:
    """The spatial axes, of which there are `rank`."""
    # Layers of one dimension may have no data format.
    data_format = getattr(layer, "data_format", "channels_last")
    first = 2 if data_format == "channels_first" else 1
    return range(first, first + rank)


def _margins(layer: keras.Layer, amounts: Sequence[Any]) -> list[tuple[int, int]]:
    """(before, after) for each axis of the input.

    Args:
        layer: A layer that pads or crops.
        amounts: (before, after), or in several dimensions a tuple of such pairs.
    """
    pairs = amounts if isinstance(amounts[0], (list, tuple)) else (amounts,)
    margins = [(0, 0)] * (len(pairs) + 2)
    for axis, pair in zip(_spatial(layer, len(pairs)), pairs, strict=True):
        before, after = pair
        margins[axis] = (before, after)
    return margins


@register_named("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D")
def _zero_padding(call: Call, x: Tensor) -> RuleResult:
    y = call(x)
    shape = ops.shape(x)
    margins = _margins(call.layer, call.layer.padding)
    inside = tuple(
        slice(before, before + shape[a]) if before or after else slice(None)
        for a, (before, after) in enumerate(margins)
    )
    return y, Pullback(lambda c: c[inside], same_axes)


@register_named("Cropping1D", "Cropping2D", "Cropping3D")
def _cropping(call: Call, x: Tensor) -> RuleResult:
    margins = _margins(call.layer, call.layer.cropping)
    return call(x), Pullback(lambda c: ops.pad(c, margins), batch_only)


@register_named("UpSampling1D", "UpSampling2D", "UpSampling3D")
def _up_sampling(call: Call, x: Tensor) -> RuleResult:
    layer = call.layer
    if getattr(layer, "interpolation", "nearest") != "nearest":
        return call.automatic(x)
    size = layer.size if isinstance(layer.size, (list, tuple)) else (layer.size,)
    axes = list(_spatial(layer, len(size)))
    shape = ops.shape(x)

    def function(c: Tensor) -> Tensor:
        split, summed = [-1], []
        for a in range(1, len(shape)):
            split.append(shape[a])
            if a in axes:
                summed.append(len(split))
                split.append(size[axes.index(a)])
        return ops.sum(ops.reshape(c, split), axis=summed)

    return call(x), Pullback(function, same_axes)
