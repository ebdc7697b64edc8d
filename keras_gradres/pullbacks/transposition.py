"""The transpose of a convolution, which is one with the flipped kernel.

For y[o] = sum_t x[s o - l + t] w[t], with stride s and l zeros padded before x:

    (J^T c)[i] = sum over o, t with s o - l + t = i of c[o] w[t]

With stride 1 this is the convolution of c with the kernel flipped and its in and out
channels exchanged. With i + l = s a + r, a stride s makes it s convolutions of stride
1, one for each r, whose kernels are the taps r, r + s, r + 2 s, ...: they are computed
as one, with s times as many channels, which are then interleaved.

(Not `ops.conv_transpose`, which takes longer on PyTorch, and which OpenVINO's converter
gets wrong.)
"""

import math

from keras import ops


def convolution_pullback(x, kernel, strides, padding, dilation, data_format, depthwise):
    """The function from the cotangent of a convolution's output to that of its input.

    Args:
        x: The input, for its shape.
        kernel: Of shape (*window, channels in a group, filters), or, if `depthwise`,
            (*window, channels, multiplier).
        strides: A tuple of ints, one for each spatial axis; so is `dilation`.
        padding: "valid", "same" or "causal".
        dilation: The distance of the taps.
        data_format: "channels_last" or "channels_first".
        depthwise: Whether each channel has its own filters.
    """
    rank = len(strides)
    first = 1 if data_format == "channels_last" else 2
    sizes = ops.shape(x)[first : first + rank]
    window = tuple(kernel.shape[:rank])
    # Each phase has as many taps; the kernel is filled up with zeros.
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
    options = {
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

    def pad(c):
        if symmetric:
            return c
        if strided:  # One position more, since the last steps may go beyond the input.
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

    def pullback(c):
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
        c = _interleave(c, strides, channels, data_format, depthwise)
        for axis, (b, n) in enumerate(zip(before, sizes, strict=True), first):
            c = c[(slice(None),) * axis + (slice(b, b + n),)]
        return c

    return pullback


def _padding_before(size, extent, stride, padding):
    """How many zeros the convolution puts before the input, along one axis."""
    if padding == "valid":
        return 0
    if padding == "causal":
        return extent - 1
    if stride == 1:
        return (extent - 1) // 2
    # To as many outputs as the input has steps: ceil(size / stride).
    total, rest = extent - stride, size % stride
    if not ops.is_tensor(size):
        return max(extent - rest if rest else total, 0) // 2
    return ops.maximum(ops.where(rest == 0, total, extent - rest), 0) // 2


def _fill(kernel, window, taps, strides):
    margins = [(0, t * s - k) for k, t, s in zip(window, taps, strides, strict=True)]
    return ops.pad(kernel, [*margins, (0, 0), (0, 0)])


def _phases(kernel, taps, strides, depthwise, channels):
    """The kernel of the pullback: flipped, one for each phase, channels exchanged."""
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


def _flipped(kernel, rank):
    for axis in range(rank):  # One at a time: two at once do not convert to OpenVINO.
        kernel = ops.flip(kernel, axis)
    return kernel


def _moved(kernel, rank, order):
    return ops.transpose(kernel, [*range(rank), *(rank + i for i in order)])


def _by_filter(c, filters, data_format):
    """The channels of each of the filters, which lie side by side for each channel."""
    axis = len(c.shape) - 1 if data_format == "channels_last" else 1
    shape = ops.shape(c)
    split = (*shape[:axis], c.shape[axis] // filters, filters, *shape[axis + 1 :])
    c = ops.reshape(c, split)
    before = (slice(None),) * (axis + 1)
    return [c[(*before, j)] for j in range(filters)]


def _interleave(c, strides, channels, data_format, depthwise):
    """Puts the phases, which are channels, side by side along the spatial axes."""
    rank = len(strides)
    shape = ops.shape(c)
    if data_format == "channels_last":
        spatial = shape[1 : 1 + rank]
        c = ops.reshape(c, (-1, *spatial, channels, *strides))
        order, result = [0], [-1]
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
