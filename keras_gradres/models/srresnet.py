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
from keras_gradres.models import upsampling


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
    scale 4. A block ends in a BatchNormalization, so its gradient is that of what comes
    before it, see `GradientResidual`.

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
        ValueError: if `scale` is not 2, 3 or 4, or a number not positive.
    """
    upsampling.check_scale(scale)
    blocks = checks.positive_integer("blocks", blocks)
    axis = upsampling.channel_axis()

    def convolution(filters=filters, size=3):
        return layers.Conv2D(filters, size, padding="same")

    def prelu():
        # One slope for each channel.
        return layers.PReLU(shared_axes=[1, 2] if axis == -1 else [2, 3])

    def normalization():
        return layers.BatchNormalization(axis=axis)

    inputs = upsampling.image_input()
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
