"""The residual networks for CIFAR of "Deep Residual Learning" (arXiv 1512.03385).

    x = ReLU(normalization(convolution(image)))
    three stages of n blocks, with 16, 32 and 64 channels: depth = 6 n + 2
    block: ReLU(normalization(convolution(ReLU(normalization(convolution(x))))) + skip)
    outputs = dense(average over all positions)

Usage:

    model = ResNet(20, residual="convex")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

from keras_gradres.layers import GradientResidual
from keras_gradres.models import images
from keras_gradres.typing import Config, Shape, Tensor

# The published ones, and two smaller of the same form.
DEPTHS = (8, 14, 20, 32, 44, 56, 110)


@keras.saving.register_keras_serializable("keras_gradres")
class PaddedShortcut(keras.Layer):
    """Keeps every second row and column, and fills new channels with zeros.

    This is the parameter-free "option A" of the paper.

    Args:
        filters: The number of channels of the output.
        axis: The axis of the channels, 1 or -1.
        **kwargs: The arguments of all Keras layers.
    """

    def __init__(self, filters: int, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.axis = axis

    def call(self, x: Tensor) -> Tensor:
        widths = [[0, 0]] * 4
        widths[self.axis] = [0, self.filters - x.shape[self.axis]]
        x = x[:, :, ::2, ::2] if self.axis == 1 else x[:, ::2, ::2]
        return ops.pad(x, widths)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        sizes = [size and (size + 1) // 2 for size in input_shape]
        sizes[0], sizes[self.axis] = input_shape[0], self.filters
        return tuple(sizes)

    def get_config(self) -> Config:
        return {**super().get_config(), "filters": self.filters, "axis": self.axis}


def ResNet(  # noqa: N802
    depth: int = 20,
    classes: int = 10,
    residual: str = "convex",
    activation: Callable | str = "relu",
    name: str | None = None,
    **kwargs: Any,
) -> keras.Model:
    """A ResNet for CIFAR, with a choice of the blocks' residual connection.

    `residual="identity"` is the published network: 0.27 million parameters for depth
    20. Each block ends in a BatchNormalization, so the gradient is that of the sum of
    what goes into it, see `GradientResidual`.

    Args:
        depth: 20, 32, 44, 56 or 110, as published; or 8 or 14.
        classes: The number of classes.
        residual: The skip of the blocks, see `GradientResidual`.
        activation: The activation in all places; ReLU in the published network.
        name: The name of the model.
        **kwargs: Other arguments of `GradientResidual` for the blocks.

    Returns:
        A `keras.Model` from normalized RGB images of shape `(batch, height, width, 3)`
        with any height and width to logits of shape `(batch, classes)`.

    Raises:
        ValueError: if `depth` is none of these.

    Example:
    >>> import numpy as np
    >>> from keras_gradres.models import ResNet
    >>> model = ResNet(8, residual="gain")
    >>> tuple(model(np.zeros((1, 8, 8, 3), "float32")).shape)
    (1, 10)
    """
    if depth not in DEPTHS:
        raise ValueError(f"`depth` must be one of {DEPTHS}. Received: depth={depth}")
    axis = images.channel_axis()
    kwargs = {"residual": residual, "axis": axis, "activation": activation, **kwargs}

    def convolution(filters: int, strides: int = 1) -> keras.Layer:
        return layers.Conv2D(
            filters,
            3,
            strides,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
        )

    inputs = images.image_input()
    x = convolution(16)(inputs)
    x = layers.Activation(activation)(layers.BatchNormalization(axis=axis)(x))
    for filters in (16, 32, 64):
        for block in range((depth - 2) // 6):
            narrow = filters > 16 and block == 0
            branch = [
                convolution(filters, 2 if narrow else 1),
                layers.BatchNormalization(axis=axis),
                layers.Activation(activation),
                convolution(filters),
                layers.BatchNormalization(axis=axis),
            ]
            shortcut = None
            if narrow and residual != "none":
                shortcut = PaddedShortcut(filters, axis)
            x = GradientResidual(branch, shortcut=shortcut, **kwargs)(x)
    x = layers.GlobalAveragePooling2D()(x)
    outputs = layers.Dense(classes)(x)
    return keras.Model(inputs, outputs, name=name or f"resnet{depth}")
