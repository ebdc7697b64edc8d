"""EDSR, "Enhanced Deep Residual Networks" for super-resolution (arXiv 1707.02921).

    x = convolution(image - mean)
    y = x + convolution(block(... block(x)))      block: convolution, ReLU, convolution
    outputs = convolution(pixel shuffle(convolution(y))) + mean

Usage:

    model = EDSR(scale=2, residual="convex", alpha=-3.0)
    model.compile("adam", "mae")
    large = model.predict(small)      # RGB in [0, 1], of any size
"""

import math
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_gradres import checks
from keras_gradres.layers import GradientResidual, GradientResidualConv
from keras_gradres.models import images, upsampling


def EDSR(  # noqa: N802
    scale: int,
    blocks: int = 16,
    filters: int = 64,
    res_scale: float = 1.0,
    rgb_range: float = 1.0,
    residual: str = "convex",
    name: str = "edsr",
    **kwargs: Any,
) -> keras.Model:
    """EDSR, with a choice of the blocks' residual connection.

    The default size is the published "baseline". `residual="identity"` with
    `rgb_range=255` is the published network, of 1.37 million parameters for scale 2.

    Args:
        scale: 2, 3 or 4.
        blocks: The number of residual blocks.
        filters: The number of channels.
        res_scale: What the branch of each block is multiplied by.
        rgb_range: The range of colors within the network. The authors have 255. Beside
            features of that size a gradient of unit norm is negligible.
        residual: The skip of the blocks, see `GradientResidual`.
        name: The name of the model.
        **kwargs: Other arguments of `GradientResidual` for the blocks, such as `alpha`,
            `axis` or `second_order`.

    Returns:
        A `keras.Model` from RGB images in [0, 1], of shape
        `(batch, height, width, 3)` with any height and width, to images `scale` times
        as large.

    Raises:
        ValueError: if `scale` is not 2, 3 or 4, or `blocks` or `rgb_range` is not
            positive.

    Example:
    >>> import numpy as np
    >>> from keras_gradres.models import EDSR
    >>> model = EDSR(scale=2, blocks=1, filters=8)
    >>> tuple(model(np.zeros((1, 8, 8, 3), "float32")).shape)
    (1, 16, 16, 3)
    """
    upsampling.check_scale(scale)
    blocks = checks.positive_integer("blocks", blocks)
    if not 0 < rgb_range < math.inf:
        raise ValueError(
            f"`rgb_range` must be positive. Received: rgb_range={rgb_range}"
        )
    axis = images.channel_axis()
    kwargs = {"residual": residual, "axis": axis, **kwargs}
    inputs = images.image_input()
    mean = np.reshape(upsampling.RGB_MEAN, (3, 1, 1) if axis == 1 else (3,))
    offset = (-rgb_range * mean).tolist()
    x = layers.Rescaling(rgb_range, offset)(inputs)
    x = start = layers.Conv2D(filters, 3, padding="same")(x)
    for _ in range(blocks):
        if res_scale == 1:
            x = GradientResidualConv(filters, **kwargs)(x)
        else:
            branch = [
                layers.Conv2D(filters, 3, padding="same", activation="relu"),
                layers.Conv2D(filters, 3, padding="same"),
                layers.Rescaling(res_scale),
            ]
            x = GradientResidual(branch, **kwargs)(x)
    x = layers.Conv2D(filters, 3, padding="same")(x)
    x = layers.Add()([start, x])
    x = upsampling.upsample(x, scale, filters)
    x = layers.Conv2D(3, 3, padding="same")(x)
    outputs = layers.Rescaling(1 / rgb_range, mean.tolist())(x)
    return keras.Model(inputs, outputs, name=name)


def SEDSR(  # noqa: N802
    scale: int, residual: str = "convex", name: str = "sedsr", **kwargs: Any
) -> keras.Model:
    """The small EDSR of "Gradient Residual Connections" (arXiv 2602.09190).

    The paper gives no sizes: 4 blocks of 32 channels are our reading.

    Args:
        scale: 2, 3 or 4.
        residual: The skip of the blocks, see `GradientResidual`.
        name: The name of the model.
        **kwargs: Other arguments of `EDSR`.

    Returns:
        A `keras.Model`, see `EDSR`.

    Example:
    >>> import numpy as np
    >>> from keras_gradres.models import SEDSR
    >>> model = SEDSR(scale=2, alpha=-3.0)
    >>> tuple(model(np.zeros((1, 8, 8, 3), "float32")).shape)
    (1, 16, 16, 3)
    """
    sizes = {"blocks": 4, "filters": 32}
    return EDSR(scale, residual=residual, name=name, **{**sizes, **kwargs})
