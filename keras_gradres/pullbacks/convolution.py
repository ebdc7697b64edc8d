"""Convolutions: y = act(w * x + b), c -> w^T * (c act').

The transpose w^T is in `transposition`.

depthwise   each channel by itself
separable   c -> depthwise^T(pointwise^T(c)), for y = pointwise(depthwise(x))
transposed  c -> the convolution of which the layer is the transpose
"""

from typing import Any

import keras
from keras import ops

from keras_gradres.pullbacks.activations import activated
from keras_gradres.pullbacks.registry import register_named
from keras_gradres.pullbacks.rule import Call, Pullback, RuleResult, batch_only
from keras_gradres.pullbacks.transposition import convolution_pullback
from keras_gradres.typing import Tensor


def with_bias(call: Call, u: Tensor) -> Tensor:
    """`u` plus the bias of the layer along the channels, if it has one."""
    layer = call.layer
    if not layer.use_bias:
        return u
    shape = [1] * len(u.shape)
    shape[1 if layer.data_format == "channels_first" else -1] = -1
    return ops.add(u, ops.reshape(call.cast(layer.bias), shape))


def _options(layer: keras.Layer, causal: bool = False) -> dict[str, Any]:
    return {
        "strides": list(layer.strides),
        "padding": "valid" if causal else layer.padding,
        "dilation_rate": layer.dilation_rate,
        "data_format": layer.data_format,
    }


@register_named("Conv1D", "Conv2D", "Conv3D")
def _convolution(call: Call, x: Tensor) -> RuleResult:
    layer = call.layer
    if getattr(layer, "quantization_mode", None) is not None:
        return call.automatic(x)

    def linear(x: Tensor) -> Tensor:
        causal = layer.padding == "causal"
        if causal:
            left = (layer.kernel_size[0] - 1) * layer.dilation_rate[0]
            time = 1 if layer.data_format == "channels_last" else 2
            x = ops.pad(x, [(left, 0) if a == time else (0, 0) for a in range(3)])
        kernel = call.cast(layer.kernel)
        return with_bias(call, ops.conv(x, kernel, **_options(layer, causal)))

    y, pullbacks = activated(call, x, linear)
    function = convolution_pullback(
        x,
        call.weight(layer.kernel),
        layer.strides,
        layer.padding,
        layer.dilation_rate,
        layer.data_format,
        depthwise=False,
    )
    return y, [*pullbacks, Pullback(function, batch_only)]


@register_named("DepthwiseConv1D", "DepthwiseConv2D")
def _depthwise(call: Call, x: Tensor) -> RuleResult:
    layer = call.layer

    def linear(x: Tensor) -> Tensor:
        kernel = call.cast(layer.kernel)
        return with_bias(call, ops.depthwise_conv(x, kernel, **_options(layer)))

    y, pullbacks = activated(call, x, linear)
    function = convolution_pullback(
        x,
        call.weight(layer.kernel),
        layer.strides,
        layer.padding,
        layer.dilation_rate,
        layer.data_format,
        depthwise=True,
    )
    return y, [*pullbacks, Pullback(function, batch_only)]


@register_named("SeparableConv1D", "SeparableConv2D")
def _separable(call: Call, x: Tensor) -> RuleResult:
    layer = call.layer

    def linear(x: Tensor) -> Tensor:
        kernels = [layer.depthwise_kernel, layer.pointwise_kernel]
        u = ops.separable_conv(x, *map(call.cast, kernels), **_options(layer))
        return with_bias(call, u)

    y, pullbacks = activated(call, x, linear)
    depthwise = convolution_pullback(
        x,
        call.weight(layer.depthwise_kernel),
        layer.strides,
        layer.padding,
        layer.dilation_rate,
        layer.data_format,
        depthwise=True,
    )
    pointwise = call.weight(layer.pointwise_kernel)
    rank = len(layer.strides)
    exchanged = ops.transpose(pointwise, [*range(rank), rank + 1, rank])

    def function(c: Tensor) -> Tensor:
        c = ops.conv(c, exchanged, padding="valid", data_format=layer.data_format)
        return depthwise(c)

    return y, [*pullbacks, Pullback(function, batch_only)]


def _is_a_transpose(layer: keras.Layer) -> bool:
    """Whether the layer is the transpose of the convolution with its arguments.

    Before 3.15 that is not so on PyTorch where the padding of both sides differs:
    Keras cuts the output to size at the other side.
    """
    if layer.output_padding is not None or max(layer.dilation_rate) > 1:
        return False
    if tuple(map(int, keras.__version__.split(".")[:2])) >= (3, 15):
        return True
    return layer.padding == "valid" or max(layer.strides) == 1


@register_named("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
def _transposed(call: Call, x: Tensor) -> RuleResult:
    layer = call.layer
    options = {
        "strides": list(layer.strides),
        "padding": layer.padding,
        "data_format": layer.data_format,
    }
    if not _is_a_transpose(layer):
        return call.automatic(x)

    def linear(x: Tensor) -> Tensor:
        kernel = call.cast(layer.kernel)
        dilation = layer.dilation_rate
        return with_bias(
            call, ops.conv_transpose(x, kernel, dilation_rate=dilation, **options)
        )

    y, pullbacks = activated(call, x, linear)
    # The layer is the pullback of this convolution.
    kernel = call.weight(layer.kernel)
    return y, [
        *pullbacks,
        Pullback(lambda c: ops.conv(c, kernel, **options), batch_only),
    ]
