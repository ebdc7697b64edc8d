"""A small U-Net for segmentation (after arXiv 1505.04597), with residual blocks.

    each level down: convolution, block, halve; at the bottom: convolution, block;
    each level up: double, crop to the size on the way down, concatenate, convolution,
                   block
    outputs = convolution of size 1

Usage:

    model = UNet(classes=4, residual="convex")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops

from keras_gradres import checks
from keras_gradres.layers import GradientResidualConv
from keras_gradres.models import images
from keras_gradres.typing import Config, Shape, SymbolicTensor, Tensor


@keras.saving.register_keras_serializable("keras_gradres")
class CropTo(keras.Layer):
    """Crops the first of two images to the height and width of the second.

    Args:
        axis: The axis of the channels, 1 or -1.
        **kwargs: The arguments of all Keras layers.
    """

    def __init__(self, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = axis

    def call(self, images: Sequence[Tensor]) -> Tensor:
        image, other = images
        if self.axis == 1:
            _, _, height, width = ops.shape(other)
            return image[:, :, :height, :width]
        _, height, width, _ = ops.shape(other)
        return image[:, :height, :width]

    def compute_output_shape(self, input_shapes: Sequence[Shape]) -> Shape:
        shape = list(input_shapes[1])
        shape[self.axis] = input_shapes[0][self.axis]
        return tuple(shape)

    def compute_output_spec(self, images: Sequence[SymbolicTensor]) -> SymbolicTensor:
        shape = self.compute_output_shape([image.shape for image in images])
        return keras.KerasTensor(shape, images[0].dtype)

    def get_config(self) -> Config:
        return {**super().get_config(), "axis": self.axis}


def UNet(  # noqa: N802
    classes: int,
    channels: int = 3,
    levels: int = 3,
    filters: int = 16,
    residual: str = "convex",
    name: str = "unet",
    **kwargs: Any,
) -> keras.Model:
    """A small U-Net of residual blocks, with a choice of their residual connection.

    Args:
        classes: The number of classes.
        channels: The number of channels of the images.
        levels: The number of resolutions, each with twice the channels of the one
            above.
        filters: The number of channels at the full resolution.
        residual: The skip of the blocks, see `GradientResidual`.
        name: The name of the model.
        **kwargs: Other arguments of `GradientResidual` for the blocks.

    Returns:
        A `keras.Model` from images of shape `(batch, height, width, channels)`, with
        any height and width, to logits of shape `(batch, height, width, classes)`.

    Example:
    >>> import numpy as np
    >>> from keras_gradres.models import UNet
    >>> model = UNet(classes=4, levels=2)
    >>> tuple(model(np.zeros((1, 8, 8, 3), "float32")).shape)
    (1, 8, 8, 4)
    """
    levels = checks.positive_integer("levels", levels)
    axis = images.channel_axis()

    def stage(x: SymbolicTensor, level: int) -> SymbolicTensor:
        """The convolution and the block of a level."""
        x = layers.Conv2D(filters * 2**level, 3, padding="same", activation="relu")(x)
        return GradientResidualConv(**{"residual": residual, "axis": axis, **kwargs})(x)

    inputs = images.image_input(channels)
    x, skips = inputs, []
    for level in range(levels - 1):
        x = stage(x, level)
        skips.append(x)
        x = layers.MaxPooling2D(padding="same")(x)
    x = stage(x, levels - 1)
    for level in reversed(range(levels - 1)):
        x = layers.Conv2DTranspose(filters * 2**level, 2, strides=2)(x)
        x = CropTo(axis)([x, skips[level]])
        x = layers.Concatenate(axis)([skips[level], x])
        x = stage(x, level)
    outputs = layers.Conv2D(classes, 1)(x)
    return keras.Model(inputs, outputs, name=name)
