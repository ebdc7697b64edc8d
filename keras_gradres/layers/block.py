"""What the blocks have in common: a branch of two equal layers, made in `build`."""

import copy
from typing import Any, Self

import keras
from keras import activations, initializers, regularizers

from keras_gradres.layers.branch_wrapper import MADE_IN_BUILD
from keras_gradres.layers.gradient_residual import GradientResidual
from keras_gradres.typing import (
    ActivationLike,
    Config,
    InitializerLike,
    RegularizerLike,
)


class Block(GradientResidual):
    """Two equal layers with an activation after the first; subclasses say which.

    Args:
        activation: The activation function after the first layer.
        use_bias: Whether the layers have a bias.
        kernel_initializer: Initializer of the kernels.
        bias_initializer: Initializer of the biases.
        kernel_regularizer: Regularizer of the kernels.
        bias_regularizer: Regularizer of the biases.
        **kwargs: Arguments of `GradientResidual`.
    """

    def __init__(
        self,
        activation: ActivationLike,
        use_bias: bool,
        kernel_initializer: InitializerLike,
        bias_initializer: InitializerLike,
        kernel_regularizer: RegularizerLike,
        bias_regularizer: RegularizerLike,
        **kwargs: Any,
    ) -> None:
        super().__init__(MADE_IN_BUILD, **kwargs)
        # `self.activation` is the one after the sum, of which a block has none.
        self._branch_activation = activations.get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        # The configurations of the layers of the branch, as they were made.
        self._made_configs: list[Config] | None = None

    def _make_branch(
        self, layer_class: type[keras.Layer], *args: Any, **kwargs: Any
    ) -> keras.Sequential:
        """A branch of two layers of this class, with these arguments."""

        def make(activation: Any, name: str) -> keras.Layer:
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
            [make(self._branch_activation, "first"), make(None, "second")],
            name="branch",
        )
        self._made_configs = _configs(branch)
        return branch

    def get_config(self) -> Config:
        config = super().get_config()
        # A branch that is still as it was made is left out, so that the block can be
        # made again for any shape. One that was changed, as by LoRA or quantization, is
        # saved.
        if self.branch is None or _configs(self.branch) == self._made_configs:
            del config["branch"]
        return {
            **config,
            "activation": activations.serialize(self._branch_activation),
            "use_bias": self.use_bias,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
            "bias_initializer": initializers.serialize(self.bias_initializer),
            "kernel_regularizer": regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": regularizers.serialize(self.bias_regularizer),
        }

    @classmethod
    def from_config(cls, config: Config) -> Self:
        config = dict(config)
        branch = config.pop("branch", None)
        layer = super().from_config(config)
        if branch is not None:
            layer.branch = keras.saving.deserialize_keras_object(copy.deepcopy(branch))
        return layer


def _configs(branch: keras.Sequential) -> list[Config]:
    return [layer.get_config() for layer in branch.layers]


def _copy(initializer: Any) -> Any:
    return initializers.deserialize(initializers.serialize(initializer))
