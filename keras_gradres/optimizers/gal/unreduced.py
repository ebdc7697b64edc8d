"""The unreduced losses of all that `compile` takes as a loss.

Usage:

    losses = unreduced_losses(keras.losses.MeanSquaredError(), y_true, y_pred)
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_gradres.typing import Tensor

# Names that `compile` takes and `keras.losses.get` does not: they stand for a different
# loss by the shapes of targets and outputs.
CROSSENTROPY = ("crossentropy", "ce")


def unreduced_losses(loss: Any, y_true: Tensor, y_pred: Tensor) -> Tensor:
    """The losses before weights, masks and the reduction.

    Args:
        loss: A `keras.losses.Loss`, a function of targets and outputs, or a name in
            `CROSSENTROPY`.
        y_true: The targets.
        y_pred: The outputs.
    """
    if isinstance(loss, keras.losses.Loss):
        return loss.call(y_true, y_pred)
    function = _crossentropy(y_true, y_pred) if isinstance(loss, str) else loss
    return function(*_aligned(y_true, y_pred))


def _aligned(y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor]:
    """Targets and outputs for a function, as Keras aligns them.

    One of the two may have an axis more than the other, the last one, of size 1. If the
    other has no axis but that of the samples, it gets such an axis, too: (N,) and
    (N, 1) become (N, 1) and (N, 1). Else the axis is removed: (N, T) and (N, T, 1)
    become (N, T) and (N, T).
    """
    if len(y_true.shape) == len(y_pred.shape) + 1 and y_true.shape[-1] == 1:
        if len(y_pred.shape) == 1:
            return y_true, ops.expand_dims(y_pred, -1)
        return ops.squeeze(y_true, -1), y_pred
    if len(y_pred.shape) == len(y_true.shape) + 1 and y_pred.shape[-1] == 1:
        if len(y_true.shape) == 1:
            return ops.expand_dims(y_true, -1), y_pred
        return y_true, ops.squeeze(y_pred, -1)
    return y_true, y_pred


def _crossentropy(y_true: Tensor, y_pred: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss that "crossentropy" stands for, by the shapes, as in `compile`."""
    if y_pred.shape[-1] == 1:
        return keras.losses.binary_crossentropy
    if len(y_true.shape) < len(y_pred.shape) or y_true.shape[-1] == 1:
        return keras.losses.sparse_categorical_crossentropy
    return keras.losses.categorical_crossentropy
