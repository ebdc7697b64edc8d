"""The adjustment network that `GAL` makes by default: h(z) = z + MLP(z)."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_gradres.typing import Shape, Tensor

HIDDEN_UNITS = (100, 32, 16)


class MLP(keras.Layer):
    """A multilayer perceptron on the last axis of its input z, of shape (..., d).

    For widths a, b it has kernels of d x a, a x b and b x d, and biases. It is a single
    layer, since each call of a layer takes time in an eager step.

    Args:
        hidden_units: The widths of the hidden layers.
        activation: Their activation, a function.
        skip: Whether z is added to the output of the perceptron.
        use_bias: Whether the layers have biases.
        seed: The seed of the initial kernels.
        **kwargs: The arguments of all Keras layers.
    """

    def __init__(
        self,
        hidden_units: Sequence[int] = HIDDEN_UNITS,
        activation: Callable = keras.activations.linear,
        skip: bool = True,
        use_bias: bool = True,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden_units = hidden_units
        self.activation = activation
        self.skip = skip
        self.use_bias = use_bias
        self.seed = seed

    def build(self, input_shape: Shape) -> None:
        sizes = [input_shape[-1], *self.hidden_units, input_shape[-1]]
        self.kernels, self.biases = [], []
        for i, shape in enumerate(itertools.pairwise(sizes)):
            seed = None if self.seed is None else self.seed + i
            initializer = keras.initializers.GlorotUniform(seed)
            self.kernels.append(
                self.add_weight(shape, initializer=initializer, name=f"kernel_{i}")
            )
            if self.use_bias:
                self.biases.append(
                    self.add_weight(shape[1:], initializer="zeros", name=f"bias_{i}")
                )

    def call(self, z: Tensor) -> Tensor:
        return self.function(z, [v.value for v in self.trainable_variables])

    def function(self, z: Tensor, theta: Sequence[Tensor]) -> Tensor:
        """The output h(z; theta); theta is in the order of `trainable_variables`."""
        v = z
        size = 2 if self.use_bias else 1
        layers = [theta[i : i + size] for i in range(0, len(theta), size)]
        for i, (kernel, *bias) in enumerate(layers):
            v = v @ kernel
            if bias:
                v = v + bias[0]
            if i < len(layers) - 1 and self.activation is not keras.activations.linear:
                v = self.activation(v)
        return z + v if self.skip else v

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape
