"""A layer around a branch, with a skip beside it that a shortcut may be applied to.

This class does what such a layer needs whatever its skip is. It builds the branch and
the shortcut, finds the shape and the mask of the output, and saves and loads the two.
"""

import copy
import functools
from collections.abc import Callable
from typing import Any, Self

import keras
from keras import ops

from keras_gradres import sublayers
from keras_gradres.layers import arguments
from keras_gradres.pullbacks import Graph
from keras_gradres.typing import Config, Mask, Shape, SymbolicTensor, Tensor

# What subclasses give as `branch` that make it from the shape of the input.
MADE_IN_BUILD: Any = object()


class BranchWrapper(keras.Layer):
    """A branch and the shortcut of its skip.

    Args:
        branch: A layer, a list of layers, a model, or `MADE_IN_BUILD`.
        shortcut: A layer applied to the skip, or `None`.
        has_skip: Whether anything is added to the branch. If not, the output has the
            shape and the mask of the branch's output.
        **kwargs: Arguments of `keras.layers.Layer`.

    Attributes:
        graph: The calls of the branch, once it is built.
        shortcut_graph: The calls of the shortcut, if there is one.
    """

    graph: Graph
    shortcut_graph: Graph

    def __init__(
        self, branch: Any, shortcut: keras.Layer | None, has_skip: bool, **kwargs: Any
    ) -> None:
        # No autocast: the layers of the branch have dtypes of their own, and `call`
        # casts the inputs.
        super().__init__(autocast=False, **kwargs)
        self.branch: Any = (
            None if branch is MADE_IN_BUILD else arguments.as_layer(branch)
        )
        self.shortcut = shortcut
        self._has_skip = has_skip
        self._built_shape: Shape = ()
        self.supports_masking = True

    def build(self, input_shape: Shape) -> None:
        shape = self._built_shape = (None, *input_shape[1:])
        dtype = self.compute_dtype
        output_shape = sublayers.build(self.branch, "branch", shape, dtype)
        skip_shape: Shape = shape
        if self.shortcut is not None:
            skip_shape = sublayers.build(self.shortcut, "shortcut", shape, dtype)
            self.shortcut_graph = Graph(self.shortcut)
        if self._has_skip:
            arguments.check_shapes(output_shape, skip_shape, self.shortcut)
        self.graph = Graph(self.branch)

    def rematerialized_call(
        self, layer_call: Callable, *args: Any, **kwargs: Any
    ) -> Callable:
        # TensorFlow rematerializes only functions without keyword arguments.
        def call(*args: Any, **kwargs: Any) -> Tensor:
            bound = functools.partial(layer_call, **kwargs)
            return super(BranchWrapper, self).rematerialized_call(bound, *args)(*args)

        return call

    @property
    def layers(self) -> list[keras.Layer]:
        """The branch and the shortcut, for `summary(expand_nested=True)`."""
        return [layer for layer in (self.branch, self.shortcut) if layer is not None]

    # --- shapes, dtypes and masks ---

    def cast_inputs(self, inputs: Tensor) -> Tensor:
        """The inputs in the compute dtype; raises if they are not floating-point."""
        arguments.check_dtype(inputs)
        return ops.cast(inputs, self.compute_dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        spec = keras.KerasTensor(input_shape, dtype=self.compute_dtype)
        layer = self._layer_of_shape()
        if layer is None:
            return tuple(input_shape)
        return tuple(layer.compute_output_spec(spec).shape)

    def compute_output_spec(
        self,
        inputs: SymbolicTensor,
        training: bool | None = None,
        mask: Mask = None,
    ) -> SymbolicTensor:
        arguments.check_dtype(inputs)
        return keras.KerasTensor(
            self.compute_output_shape(inputs.shape), dtype=self.compute_dtype
        )

    def compute_mask(self, inputs: Tensor, previous_mask: Mask) -> Mask:
        layer = self._layer_of_shape()
        if layer is None:
            return previous_mask
        return sublayers.mask_after(layer, inputs, previous_mask)

    def _layer_of_shape(self) -> keras.Layer | None:
        """The layer whose output has the shape and mask of the sum; `None` for the
        input itself.
        """
        return self.shortcut if self._has_skip else self.branch

    # --- files ---

    def get_config(self) -> Config:
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "branch": serialize(self.branch),
            "shortcut": serialize(self.shortcut),
        }

    @classmethod
    def from_config(cls, config: Config) -> Self:
        config = dict(config)
        for name in ("branch", "shortcut"):
            if isinstance(config.get(name), dict):
                # A copy: deserialization may empty what it is given.
                serialized = copy.deepcopy(config[name])
                config[name] = keras.saving.deserialize_keras_object(serialized)
        return cls(**config)
