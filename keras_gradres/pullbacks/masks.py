"""Reads and sets the Keras masks of tensors, by the public ways that layers have.

Usage:

    masks = Masks()
    y = masks.attach(y, masks.of(x))
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops


class Masks:
    """Reads and sets the Keras masks of tensors, which Keras itself propagates."""

    def __init__(self) -> None:
        self._carrier = Carrier(autocast=False, name="mask")

    def of(self, tensor: Any) -> Any:
        """The mask of a tensor, or `None`."""
        return self._carrier(tensor, function=lambda tensor, mask: mask)

    def attach(self, tensor: Any, mask: Any) -> Any:
        """The tensor with this mask; the tensor itself if it is `None`."""
        if mask is None:
            return tensor
        return self._carrier(
            tensor, mask=mask, function=lambda tensor, mask: ops.copy(tensor)
        )

    def carry(self, function: Callable, tensor: Any) -> Any:
        """`function(tensor)`, whose first result has the mask of the tensor."""
        return self._carrier(tensor, function=lambda tensor, mask: function(tensor))


class Carrier(keras.Layer):
    """A layer, since those are given masks, and have them handed on."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, tensor, mask=None, function=None):
        return function(tensor, mask)
