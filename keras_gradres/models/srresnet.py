"""SRResNet, the generator of SRGAN (arXiv 1609.04802).

    x = PReLU(convolution(2 image - 1))
    block: convolution, BatchNormalization, PReLU, convolution, BatchNormalization
    y = x + BatchNormalization(convolution(block(... block(x))))
    outputs = (convolution(upsample(y)) + 1) / 2

Usage:

    model = SRResNet(scale=4, residual="convex", alpha=-3.0)
    model.compile("adam", "mse")
"""

from typing import Any

import keras
from keras import layers

from keras_gradres import checks
from keras_gradres.layers import GradientResidual
from keras_gradres.models import images, upsampling


def SRResNet(  # noqa: N802
    scale: int,
    blocks: int = 16,
    filters: int = 64,
    residual: str = "convex",
    name: str = "srresnet",
    **kwargs: Any,
) -> keras.Model:
    """SRResNet, with a choice of the blocks' residual connection.

    `residual="identity"` is the published network, of 1.55 million parameters for
    scale 4. Each block ends in a BatchNormalization, so the gradient is that of the sum
    of what goes into it, see `GradientResidual`.

    Args:
        scale: 2, 3 or 4.
        blocks: The number of residual blocks.
        filters: The number of channels.
        residual: The skip of the blocks, see `GradientResidual`.
        name: The name of the model.
        **kwargs: Other arguments of `GradientResidual` for the blocks.

    Returns:
        A `keras.Model` from RGB images in [0, 1] to images `scale` times as large, see
        `EDSR`.

    Raises:
        ValueError: if `scale` is not 2, 3 or 4, or `blocks` is not positive.

    Example:
    >>> import numpy as np
    >>> from keras_gradres.models import SRResNet
    >>> model = SRResNet(scale=2, blocks=1, filters=8)
    >>> tuple(model(np.zeros((1, 8, 8, 3), "float32")).shape)
    (1, 16, 16, 3)
    """
    upsampling.check_scale(scale)
    blocks = checks.positive_integer("blocks", blocks)
    axis = images.channel_axis()

    def convolution(filters: int = filters, size: int = 3) -> keras.Layer:
        return layers.Conv2D(filters, size, padding="same")

    def prelu() -> keras.Layer:
        # One slope for each channel.
        return layers.PReLU(shared_axes=[1, 2] if axis == -1 else [2, 3])

    def normalization() -> keras.Layer:
        return layers.BatchNormalization(axis=axis)

    inputs = images.image_input()
    x = layers.Rescaling(2.0, offset=-1.0)(inputs)
    x = start = prelu()(convolution(size=9)(x))
    for _ in range(blocks):
        branch = [
            convolution(),
            normalization(),
            prelu(),
            convolution(),
            normalization(),
        ]
        x = GradientResidual(branch, **{"residual": residual, "axis": axis, **kwargs})(
            x
        )
    x = normalization()(convolution()(x))
    x = layers.Add()([start, x])
    x = upsampling.upsample(x, scale, filters, activation=lambda x: prelu()(x))
    x = convolution(3, size=9)(x)
    outputs = layers.Rescaling(0.5, offset=0.5)(x)
    return keras.Model(inputs, outputs, name=name)
