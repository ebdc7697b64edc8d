"""The transpose of a convolution, which is one with the flipped kernel.

For y[o] = sum_t x[s o - l + t] w[t], with stride s and l zeros padded before x:

    (J^T c)[i] = sum over o, t with s o - l + t = i of c[o] w[t]

With stride 1 this is the convolution of c with the kernel flipped and its in and out
channels exchanged.

With stride s it is s convolutions of stride 1, one for each phase r in i + l = s a + r.
The kernel of phase r has the taps r, r + s, r + 2 s, ... of w. All phases are computed
as one convolution with s times as many channels, which are then interleaved.

`ops.conv_transpose` is not used, because it is slower on PyTorch, and OpenVINO's
converter gets it wrong.
"""

import math
from collections.abc import Sequence
from typing import Any

from keras import ops

from keras_gradres.typing import Tensor, TensorFunction


def convolution_pullback(
    x: Tensor,
    kernel: Tensor,
    strides: Sequence[int],
    padding: str,
    dilation: Sequence[int],
    data_format: str,
    depthwise: bool,
) -> TensorFunction:
    """The function from the cotangent of a convolution's output to that of its input.

    Args:
        x: The input, of which only the shape is used.
        kernel: A tensor of shape (*window, channels in a group, filters), or, if
            `depthwise`, (*window, channels, multiplier).
        strides: The strides, one for each spatial axis.
        padding: "valid", "same" or "causal".
        dilation: The distances of the taps, one for each spatial axis.
        data_format: "channels_last" or "channels_first".
        depthwise: Whether each channel has its own filters.
    """
    rank = len(strides)
    first = 1 if data_format == "channels_last" else 2
    sizes = ops.shape(x)[first : first + rank]
    window = tuple(kernel.shape[:rank])
    # The kernel is filled up with zeros, so that all phases have equally many taps.
    taps = tuple(-(-k // s) for k, s in zip(window, strides, strict=True))
    extents = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
    before = [
        _padding_before(n, e, s, padding)
        for n, e, s in zip(sizes, extents, strides, strict=True)
    ]
    strided = max(strides) > 1
    kernel = _fill(kernel, window, taps, strides) if strided else kernel
    symmetric = not strided and all(
        2 * b == e - 1 for b, e in zip(before, extents, strict=True)
    )
    options: dict[str, Any] = {
        "strides": 1,
        "padding": "same" if symmetric else "valid",
        "dilation_rate": dilation if max(dilation) > 1 else 1,
        "data_format": data_format,
    }
    channels = x.shape[1 if data_format == "channels_first" else -1]
    if depthwise:
        # One convolution for each filter of a channel.
        kernels = [
            _phases(kernel[..., j : j + 1], taps, strides, True, channels)
            for j in range(kernel.shape[-1])
        ]
    else:
        kernels = [_phases(kernel, taps, strides, False, channels)]

    def pad(c: Tensor) -> Tensor:
        if symmetric:
            return c
        if strided:  # One position more, as the last window may end behind the input.
            margins = [(t - 1, t) for t in taps]
        else:
            margins = [
                (e - 1 - b, b if padding == "same" else e - 1)
                for e, b in zip(extents, before, strict=True)
            ]
        none = (0, 0)
        return ops.pad(
            c, [none, *margins, none] if first == 1 else [none, none, *margins]
        )

    def pullback(c: Tensor) -> Tensor:
        c = pad(c)
        if not depthwise:
            c = ops.conv(c, kernels[0], **options)
        else:
            filters = len(kernels)
            parts = [c] if filters == 1 else _by_filter(c, filters, data_format)
            c = sum(
                ops.depthwise_conv(part, k, **options)
                for part, k in zip(parts, kernels, strict=True)
            )
        if not strided:
            return c
        c = _interleave(c, strides, channels, data_format)
        for axis, (b, n) in enumerate(zip(before, sizes, strict=True), first):
            c = c[(slice(None),) * axis + (slice(b, b + n),)]
        return c

    return pullback


def _padding_before(size: Any, extent: int, stride: int, padding: str) -> Any:
    """How many zeros the convolution puts before the input, along one axis.

    Args:
        size: The size of the input, an int or a scalar tensor; so is the result.
        extent: The size of the dilated kernel.
        stride: The stride.
        padding: "valid", "same" or "causal".
    """
    if padding == "valid":
        return 0
    if padding == "causal":
        return extent - 1
    if stride == 1:
        return (extent - 1) // 2
    # With "same" there are ceil(size / stride) outputs.
    total, rest = extent - stride, size % stride
    if not ops.is_tensor(size):
        return max(extent - rest if rest else total, 0) // 2
    return ops.maximum(ops.where(rest == 0, total, extent - rest), 0) // 2


def _fill(
    kernel: Tensor, window: Sequence[int], taps: Sequence[int], strides: Sequence[int]
) -> Tensor:
    margins = [(0, t * s - k) for k, t, s in zip(window, taps, strides, strict=True)]
    return ops.pad(kernel, [*margins, (0, 0), (0, 0)])


def _phases(
    kernel: Tensor,
    taps: Sequence[int],
    strides: Sequence[int],
    depthwise: bool,
    channels: int,
) -> Tensor:
    """The kernel of the pullback: flipped, split in phases, its channels exchanged."""
    rank = len(taps)
    if not depthwise:
        # (*window, in / groups, out) -> (*window, out / groups, groups, in / groups)
        inside, out = kernel.shape[-2:]
        groups = channels // inside
        if groups == 1 and max(strides) == 1:
            return _flipped(_moved(kernel, rank, (1, 0)), rank)
        kernel = ops.reshape(kernel, (*kernel.shape[:-1], groups, out // groups))
        kernel = _moved(kernel, rank, (2, 1, 0))
    if max(strides) > 1:
        ends = kernel.shape[rank:]
        split = [n for pair in zip(taps, strides, strict=True) for n in pair]
        kernel = ops.reshape(kernel, (*split, *ends))
        # (taps.., ends.., phases..)
        order = [
            *range(0, 2 * rank, 2),
            *range(2 * rank, 2 * rank + len(ends)),
            *range(1, 2 * rank, 2),
        ]
        kernel = ops.transpose(kernel, order)
    shape = kernel.shape
    phases = math.prod(strides)
    if depthwise:  # (*taps, channels, 1, phases..)
        shape = (*shape[:rank], channels, phases)
    else:
        shape = (*shape[:rank], shape[rank], channels * phases)
    return _flipped(ops.reshape(kernel, shape), rank)


def _flipped(kernel: Tensor, rank: int) -> Tensor:
    for axis in range(rank):  # OpenVINO's converter fails on two axes at once.
        kernel = ops.flip(kernel, axis)
    return kernel


def _moved(kernel: Tensor, rank: int, order: Sequence[int]) -> Tensor:
    """The kernel with the axes after the first `rank` in another order."""
    return ops.transpose(kernel, [*range(rank), *(rank + i for i in order)])


def _by_filter(c: Tensor, filters: int, data_format: str) -> list[Tensor]:
    """Splits outputs of a depthwise convolution by the filter that computed them.

    The outputs of the filters of one channel lie side by side.
    """
    axis = len(c.shape) - 1 if data_format == "channels_last" else 1
    shape = ops.shape(c)
    split = (*shape[:axis], c.shape[axis] // filters, filters, *shape[axis + 1 :])
    c = ops.reshape(c, split)
    before = (slice(None),) * (axis + 1)
    return [c[(*before, j)] for j in range(filters)]


def _interleave(
    c: Tensor, strides: Sequence[int], channels: int, data_format: str
) -> Tensor:
    """Puts the phases, which are channels, side by side along the spatial axes."""
    rank = len(strides)
    shape = ops.shape(c)
    if data_format == "channels_last":
        spatial = shape[1 : 1 + rank]
        c = ops.reshape(c, (-1, *spatial, channels, *strides))
        order: list[int] = [0]
        result: list[Any] = [-1]  # Sizes, which may be scalar tensors in a graph.
        for i in range(rank):
            order += [1 + i, rank + 2 + i]
            result.append(spatial[i] * strides[i])
        return ops.reshape(ops.transpose(c, [*order, rank + 1]), (*result, channels))
    spatial = shape[2:]
    c = ops.reshape(c, (-1, channels, *strides, *spatial))
    order, result = [0, 1], [-1, channels]
    for i in range(rank):
        order += [2 + rank + i, 2 + i]
        result.append(spatial[i] * strides[i])
    return ops.reshape(ops.transpose(c, order), result)
