"""Reads and sets the Keras masks of tensors.

Keras has no public function for it, but it passes each layer the masks of its inputs
and sets those of its outputs. So a layer does the work here.

Usage:

    masks = Masks()
    y = masks.attach(y, masks.of(x))
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_gradres.typing import Mask, Structure, Tensor


class Masks:
    """Reads and sets the Keras masks of tensors, which Keras itself propagates."""

    def __init__(self) -> None:
        self._carrier = Carrier(autocast=False, name="mask")

    def of(self, tensor: Tensor) -> Mask:
        """The mask of a tensor, or `None`."""
        return self._carrier(tensor, function=lambda tensor, mask: mask)

    def attach(self, tensor: Tensor, mask: Mask) -> Tensor:
        """A copy of the tensor that has this mask; the tensor itself for `None`."""
        if mask is None:
            return tensor
        return self._carrier(
            tensor, mask=mask, function=lambda tensor, mask: ops.copy(tensor)
        )

    def carry(
        self, function: Callable[[Tensor], Structure], tensor: Tensor
    ) -> Structure:
        """`function(tensor)`, whose first result has the mask of the tensor."""
        return self._carrier(tensor, function=lambda tensor, mask: function(tensor))


class Carrier(keras.Layer):
    """Calls a function on a tensor and its mask, and keeps the mask for the result."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(
        self,
        tensor: Tensor,
        mask: Mask = None,
        *,
        function: Callable[[Tensor, Mask], Structure],
    ) -> Structure:
        return function(tensor, mask)
