"""The two gradient residual blocks that people stack.

    GradientResidualDense:  dense - activation - dense
    GradientResidualConv:   convolution - activation - convolution

Both are a `GradientResidual` that makes its branch when it is built, because the width
and the rank are those of its input.

Usage:

    x = keras.Input((None, None, 64))
    for _ in range(16):
        x = GradientResidualConv(kernel_size=3)(x)
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import activations, initializers, layers, regularizers

from keras_gradres.layers import arguments
from keras_gradres.layers.gradient_residual import MADE_IN_BUILD, GradientResidual


class _Block(GradientResidual):
    """Two equal layers with an activation after the first; subclasses say which."""

    def __init__(
        self,
        activation,
        use_bias,
        kernel_initializer,
        bias_initializer,
        kernel_regularizer,
        bias_regularizer,
        **kwargs,
    ):
        super().__init__(MADE_IN_BUILD, **kwargs)
        self.inner_activation = activations.get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self._made: Any = None

    def _make_branch(self, layer_class, *args, **kwargs):
        def make(activation, name):
            return layer_class(
                *args,
                activation=activation,
                use_bias=self.use_bias,
                # Copies: an initializer gives the same values at every call.
                kernel_initializer=_copy(self.kernel_initializer),
                bias_initializer=_copy(self.bias_initializer),
                kernel_regularizer=self.kernel_regularizer,
                bias_regularizer=self.bias_regularizer,
                dtype=self.dtype_policy,
                name=name,
                **kwargs,
            )

        branch = keras.Sequential(
            [make(self.inner_activation, "first"), make(None, "second")], name="branch"
        )
        self._made = _configs(branch)
        return branch

    def get_config(self):
        config = super().get_config()
        # As it was made, it can be made again, for any shape; LoRA, quantization and
        # what else was changed of its layers must be kept.
        if self.branch is None or _configs(self.branch) == self._made:
            del config["branch"]
        return {
            **config,
            "activation": activations.serialize(self.inner_activation),
            "use_bias": self.use_bias,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
            "bias_initializer": initializers.serialize(self.bias_initializer),
            "kernel_regularizer": regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": regularizers.serialize(self.bias_regularizer),
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        branch = config.pop("branch", None)
        layer = super().from_config(config)
        if branch is not None:
            layer.branch = keras.saving.deserialize_keras_object(copy.deepcopy(branch))
        return layer


@keras.saving.register_keras_serializable(package="keras_gradres")
class GradientResidualDense(_Block):
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
        epsilon: Norms below it are not brought to 1.
        second_order: Whether gradients flow through the gradient.
        shortcut: A layer applied to the skip.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name` and `dtype`.

    Input and output are of shape `(batch, ..., features)`.

    Example:
    >>> layer = GradientResidualDense(activation="tanh")
    >>> y = layer(np.ones((2, 8), "float32"))
    >>> tuple(y.shape)
    (2, 8)
    """

    def __init__(
        self,
        units: int | None = None,
        activation: Callable | str | dict | None = "relu",
        use_bias: bool = True,
        kernel_initializer: Callable | str | dict = "glorot_uniform",
        bias_initializer: Callable | str | dict = "zeros",
        kernel_regularizer: Callable | str | dict | None = None,
        bias_regularizer: Callable | str | dict | None = None,
        residual: str = "convex",
        alpha: float | Callable | str | dict = 0.0,
        trainable_alpha: bool = True,
        normalize: bool = True,
        axis: int | Sequence[int] | None = -1,
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
        self.units = arguments.positive_integer("units", units, optional=True)

    def build(self, input_shape):
        if self.branch is None:
            units = self.units or _known_size(input_shape, -1)
            self.branch = self._make_branch(layers.Dense, units)
        super().build(input_shape)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units or input_shape[-1])

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable(package="keras_gradres")
class GradientResidualConv(_Block):
    """A gradient residual around two convolutions with an activation between them.

    The block of EDSR, with the skip of `GradientResidual`. The convolutions have one,
    two or three dimensions, as many as the input has, stride 1 and `"same"` padding.

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
        epsilon: Norms below it are not brought to 1.
        second_order: Whether gradients flow through the gradient.
        shortcut: A layer applied to the skip.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name` and `dtype`.

    Input and output are of shape `(batch, ..., channels)`, or `(batch, channels, ...)`
    with `"channels_first"`.

    Example:
    >>> layer = GradientResidualConv(kernel_size=3)
    >>> y = layer(np.ones((2, 16, 16, 8), "float32"))
    >>> tuple(y.shape)
    (2, 16, 16, 8)
    """

    def __init__(
        self,
        filters: int | None = None,
        kernel_size: int | Sequence[int] = 3,
        activation: Callable | str | dict | None = "relu",
        data_format: str | None = None,
        use_bias: bool = True,
        kernel_initializer: Callable | str | dict = "glorot_uniform",
        bias_initializer: Callable | str | dict = "zeros",
        kernel_regularizer: Callable | str | dict | None = None,
        bias_regularizer: Callable | str | dict | None = None,
        residual: str = "convex",
        alpha: float | Callable | str | dict = 0.0,
        trainable_alpha: bool = True,
        normalize: bool = True,
        axis: int | Sequence[int] | str | None = "channels",
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
        self.filters = arguments.positive_integer("filters", filters, optional=True)
        if isinstance(kernel_size, (tuple, list)):
            kernel_size = [
                arguments.positive_integer("kernel_size", size) for size in kernel_size
            ]
        else:
            kernel_size = arguments.positive_integer("kernel_size", kernel_size)
        self.kernel_size = kernel_size

    def build(self, input_shape):
        if self.branch is None:
            by_rank = {3: layers.Conv1D, 4: layers.Conv2D, 5: layers.Conv3D}
            if len(input_shape) not in by_rank:
                raise ValueError(
                    "The inputs must have one, two or three axes besides those of the "
                    f"batch and the channels. Received: inputs of shape {input_shape}"
                )
            self.branch = self._make_branch(
                by_rank[len(input_shape)],
                self.filters or _known_size(input_shape, self._channel_axis),
                self.kernel_size,
                padding="same",
                data_format=self.data_format,
            )
        super().build(input_shape)

    def compute_output_shape(self, input_shape):
        shape = list(input_shape)
        shape[self._channel_axis] = self.filters or shape[self._channel_axis]
        return tuple(shape)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "data_format": self.data_format,
        }


def _configs(branch):
    return [layer.get_config() for layer in branch.layers]


def _copy(initializer):
    return initializers.deserialize(initializers.serialize(initializer))


def _known_size(shape, axis):
    if shape[axis] is None:
        raise ValueError(
            f"The size of axis {axis} of the inputs must be known. "
            f"Received: inputs of shape {shape}"
        )
    return shape[axis]
