"""The two gradient residual blocks that people stack.

    GradientResidualDense:  dense - activation - dense
    GradientResidualConv:   convolution - activation - convolution

Both are a `GradientResidual` that makes its branch when it is built, because the width
and the rank are those of its input.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from keras_gradres import checks
from keras_gradres.layers.block import Block
from keras_gradres.typing import (
    ActivationLike,
    Axis,
    Config,
    InitializerLike,
    RegularizerLike,
    Shape,
)


@keras.saving.register_keras_serializable(package="keras_gradres")
class GradientResidualDense(Block):
    """A gradient residual around two dense layers with an activation between them.

    Args:
        units: Width of both dense layers. Defaults to that of the input; another
            width needs a `shortcut`.
        activation: Activation function after the first dense layer. The block has
            none after the sum.
        use_bias: Whether the dense layers have a bias.
        kernel_initializer: Initializer of the kernels.
        bias_initializer: Initializer of the biases.
        kernel_regularizer: Regularizer of the kernels.
        bias_regularizer: Regularizer of the biases.
        residual: See `GradientResidual`, as for all that follow.
        alpha: Initial value of the mix of `"convex"`.
        trainable_alpha: Whether alpha is trained.
        normalize: Whether the gradient is brought to unit norm.
        axis: The axis or axes of the norm.
        epsilon: Norms below it are not brought to 1, see `GradientResidual`.
        second_order: Whether gradients flow through the gradient.
        shortcut: A layer applied to the skip.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name` and `dtype`.

    Input and output are of shape `(batch, ..., features)`.

    Example:
    >>> import numpy as np
    >>> from keras_gradres.layers import GradientResidualDense
    >>> layer = GradientResidualDense(activation="tanh")
    >>> tuple(layer(np.ones((2, 8), "float32")).shape)
    (2, 8)
    """

    def __init__(
        self,
        units: int | None = None,
        activation: ActivationLike = "relu",
        use_bias: bool = True,
        kernel_initializer: InitializerLike = "glorot_uniform",
        bias_initializer: InitializerLike = "zeros",
        kernel_regularizer: RegularizerLike = None,
        bias_regularizer: RegularizerLike = None,
        residual: str = "convex",
        alpha: float | InitializerLike = 0.0,
        trainable_alpha: bool = True,
        normalize: bool = True,
        axis: Axis = -1,
        epsilon: float | None = None,
        second_order: bool = False,
        shortcut: keras.Layer | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            residual=residual,
            alpha=alpha,
            trainable_alpha=trainable_alpha,
            normalize=normalize,
            axis=axis,
            epsilon=epsilon,
            second_order=second_order,
            shortcut=shortcut,
            **kwargs,
        )
        self.units = None if units is None else checks.positive_integer("units", units)

    def build(self, input_shape: Shape) -> None:
        if self.branch is None:
            units = self.units or checks.known_size(input_shape, -1)
            self.branch = self._make_branch(layers.Dense, units)
        super().build(input_shape)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.units or input_shape[-1])

    def get_config(self) -> Config:
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable(package="keras_gradres")
class GradientResidualConv(Block):
    """A gradient residual around two convolutions with an activation between them.

    This is the block of EDSR, with the skip of `GradientResidual`. The convolutions
    have one, two or three dimensions, as many as the input has. They have stride 1 and
    `"same"` padding.

    Args:
        filters: Number of filters of both convolutions. Defaults to the number of
            channels of the input; another number needs a `shortcut`.
        kernel_size: An int, or a tuple with one int for each dimension.
        activation: Activation function after the first convolution. The block has none
            after the sum.
        use_bias: Whether the convolutions have a bias.
        kernel_initializer: Initializer of the kernels.
        bias_initializer: Initializer of the biases.
        kernel_regularizer: Regularizer of the kernels.
        bias_regularizer: Regularizer of the biases.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to
            `keras.config.image_data_format()`.
        residual: See `GradientResidual`, as for all that follow.
        alpha: Initial value of the mix of `"convex"`.
        trainable_alpha: Whether alpha is trained.
        normalize: Whether the gradient is brought to unit norm.
        axis: The axis or axes of the norm; `"channels"` by default.
        epsilon: Norms below it are not brought to 1, see `GradientResidual`.
        second_order: Whether gradients flow through the gradient.
        shortcut: A layer applied to the skip.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name` and `dtype`.

    Input and output are of shape `(batch, ..., channels)`, or `(batch, channels, ...)`
    with `"channels_first"`.

    Example:
    >>> import numpy as np
    >>> from keras_gradres.layers import GradientResidualConv
    >>> layer = GradientResidualConv(data_format="channels_last")
    >>> tuple(layer(np.ones((2, 16, 16, 8), "float32")).shape)
    (2, 16, 16, 8)
    """

    def __init__(
        self,
        filters: int | None = None,
        kernel_size: int | Sequence[int] = 3,
        activation: ActivationLike = "relu",
        data_format: str | None = None,
        use_bias: bool = True,
        kernel_initializer: InitializerLike = "glorot_uniform",
        bias_initializer: InitializerLike = "zeros",
        kernel_regularizer: RegularizerLike = None,
        bias_regularizer: RegularizerLike = None,
        residual: str = "convex",
        alpha: float | InitializerLike = 0.0,
        trainable_alpha: bool = True,
        normalize: bool = True,
        axis: Axis | str = "channels",
        epsilon: float | None = None,
        second_order: bool = False,
        shortcut: keras.Layer | None = None,
        **kwargs: Any,
    ) -> None:
        data_format = data_format or keras.config.image_data_format()
        if data_format not in ("channels_last", "channels_first"):
            raise ValueError(
                '`data_format` must be "channels_last" or "channels_first". '
                f"Received: data_format={data_format}"
            )
        self._channel_axis = 1 if data_format == "channels_first" else -1
        super().__init__(
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            residual=residual,
            alpha=alpha,
            trainable_alpha=trainable_alpha,
            normalize=normalize,
            axis=self._channel_axis if axis == "channels" else axis,
            epsilon=epsilon,
            second_order=second_order,
            shortcut=shortcut,
            **kwargs,
        )
        self.data_format = data_format
        self.filters = (
            None if filters is None else checks.positive_integer("filters", filters)
        )
        if isinstance(kernel_size, (tuple, list)):
            kernel_size = [
                checks.positive_integer("kernel_size", size) for size in kernel_size
            ]
        else:
            kernel_size = checks.positive_integer("kernel_size", kernel_size)
        self.kernel_size = kernel_size

    def build(self, input_shape: Shape) -> None:
        if self.branch is None:
            by_rank = {3: layers.Conv1D, 4: layers.Conv2D, 5: layers.Conv3D}
            if len(input_shape) not in by_rank:
                raise ValueError(
                    "The inputs must have one, two or three axes besides those of the "
                    f"batch and the channels. Received: inputs of shape {input_shape}"
                )
            self.branch = self._make_branch(
                by_rank[len(input_shape)],
                self.filters or checks.known_size(input_shape, self._channel_axis),
                self.kernel_size,
                padding="same",
                data_format=self.data_format,
            )
        super().build(input_shape)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        shape = list(input_shape)
        shape[self._channel_axis] = self.filters or shape[self._channel_axis]
        return tuple(shape)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "data_format": self.data_format,
        }
