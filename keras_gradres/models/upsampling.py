"""Learned upsampling: a convolution, and the pixel shuffle of arXiv 1609.05158."""

from typing import Any

import keras
from keras import layers, ops

from keras_gradres.typing import (
    Config,
    Shape,
    SymbolicTensor,
    Tensor,
    TensorFunction,
)

SCALES = (2, 3, 4)
# The mean color of DIV2K, which the authors of EDSR subtract from their images.
RGB_MEAN = (0.4488, 0.4371, 0.4040)


@keras.saving.register_keras_serializable("keras_gradres")
class PixelShuffle(keras.Layer):
    """Makes `scale` times as many rows and columns, from channels.

    The entry `(i, j)` of each square of `scale x scale` pixels in the output is channel
    `(i * scale + j) * channels + c` of the input, in both data formats and on each
    backend. `keras.ops.depth_to_space` is not used: the oldest Keras that is supported
    does not have it, and in `"channels_first"` its order differs on TensorFlow.

    Input of shape `(batch, height, width, channels * scale**2)`, or, with
    `"channels_first"`, `(batch, channels * scale**2, height, width)`; the sizes may be
    unknown.

    Args:
        scale: The factor, a positive integer.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to
            `keras.config.image_data_format()`.
        **kwargs: The arguments of all Keras layers.
    """

    def __init__(
        self, scale: int, data_format: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.scale = scale
        self.data_format = data_format or keras.config.image_data_format()

    def call(self, x: Tensor) -> Tensor:
        s = self.scale
        if self.data_format == "channels_first":
            batch, channels, height, width = ops.shape(x)
            x = ops.reshape(x, (batch, s, s, channels // s**2, height, width))
            x = ops.transpose(x, (0, 3, 4, 1, 5, 2))
            return ops.reshape(x, (batch, channels // s**2, height * s, width * s))
        batch, height, width, channels = ops.shape(x)
        x = ops.reshape(x, (batch, height, width, s, s, channels // s**2))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (batch, height * s, width * s, channels // s**2))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        sizes: list[Any] = list(input_shape)
        channels = 1 if self.data_format == "channels_first" else 3
        for axis in {1, 2, 3} - {channels}:
            sizes[axis] = sizes[axis] and sizes[axis] * self.scale
        sizes[channels] //= self.scale**2
        return tuple(sizes)

    def compute_output_spec(self, x: SymbolicTensor) -> SymbolicTensor:
        return keras.KerasTensor(self.compute_output_shape(x.shape), x.dtype)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "scale": self.scale,
            "data_format": self.data_format,
        }


def upsample(
    x: SymbolicTensor,
    scale: int,
    filters: int,
    activation: TensorFunction = lambda x: x,
) -> SymbolicTensor:
    """Convolution, pixel shuffle and activation; for scale 4, twice those for 2."""
    for factor in (2, 2) if scale == 4 else (scale,):
        x = layers.Conv2D(filters * factor**2, 3, padding="same")(x)
        x = activation(PixelShuffle(factor)(x))
    return x


def check_scale(scale: int) -> None:
    if scale not in SCALES:
        raise ValueError(f"`scale` must be one of {SCALES}. Received: scale={scale}")
