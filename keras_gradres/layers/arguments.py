"""Checks of the arguments of `GradientResidual`, and their standard forms."""

import math
import numbers
from collections.abc import Sequence
from typing import Any

import keras
from keras import initializers

from keras_gradres import checks
from keras_gradres.layers.residuals import RESIDUALS
from keras_gradres.typing import Axis, InitializerLike, Shape, Tensor

_SMALLEST_NORMAL = 1.1754944e-38  # Of float32.


def as_layer(branch: Any) -> keras.Layer:
    """The branch as one layer; a list becomes a `keras.Sequential`."""
    if isinstance(branch, (list, tuple)):
        if not branch or not all(isinstance(layer, keras.Layer) for layer in branch):
            raise TypeError(
                "`branch` must be a Keras layer or a non-empty list of Keras layers. "
                f"Received: branch={branch}"
            )
        return keras.Sequential(branch)
    if not isinstance(branch, keras.Layer):
        raise TypeError(
            "`branch` must be a Keras layer, a list of Keras layers, or a model. "
            f"Received: branch={branch} (of type {type(branch)})"
        )
    for ends in ("inputs", "outputs"):
        tensors = getattr(branch, ends, None)
        if isinstance(tensors, (list, tuple)) and len(tensors) != 1:
            raise ValueError(
                "`branch` must have one input and one output. "
                f"Received: branch={branch}, with {len(tensors)} {ends}"
            )
    return branch


def as_initializer(alpha: float | InitializerLike) -> keras.initializers.Initializer:
    """The initializer of alpha; a number becomes a constant one."""
    if alpha is None:
        raise ValueError(
            "`alpha` must be a number or an initializer. Received: alpha=None"
        )
    if isinstance(alpha, numbers.Real):
        if not math.isfinite(alpha):
            raise ValueError(f"`alpha` must be finite. Received: alpha={alpha}")
        return initializers.Constant(float(alpha))
    return initializers.get(alpha)


def check_residual(residual: str) -> None:
    if residual not in RESIDUALS:
        raise ValueError(
            f"`residual` must be one of {tuple(RESIDUALS)}. "
            f"Received: residual={residual}"
        )


def check_epsilon(epsilon: float | None) -> None:
    if epsilon is not None and not _SMALLEST_NORMAL <= epsilon < math.inf:
        raise ValueError(
            "`epsilon` must be a positive number, not below the smallest normal "
            f"float32 ({_SMALLEST_NORMAL}). Received: epsilon={epsilon}"
        )


def check_shortcut(shortcut: Any, residual: str) -> None:
    if shortcut is not None and not isinstance(shortcut, keras.Layer):
        raise TypeError(
            f"`shortcut` must be a Keras layer. Received: shortcut={shortcut} "
            f"(of type {type(shortcut)})"
        )
    if shortcut is not None and residual == "none":
        raise ValueError(
            "`shortcut` cannot be used with residual='none', which has no skip. "
            f"Received: shortcut={shortcut}"
        )


def standardize_axis(axis: Any) -> int | list[int] | None:
    """`axis` as an int, a list of ints, or `None`, as it is saved."""
    if axis is None:
        return None
    axes = axis if isinstance(axis, (list, tuple)) else [axis]
    if not axes or not all(isinstance(a, numbers.Integral) and a != 0 for a in axes):
        raise ValueError(
            "`axis` must be an int, a non-empty tuple of ints, or None, and must not "
            f"name the batch axis 0. Received: axis={axis}"
        )
    return [int(a) for a in axes] if axes is axis else int(axis)


def resolve_axes(axis: Axis, rank: int) -> tuple[int, ...]:
    """The axes of the norm as positive ints, for inputs of `rank` dimensions."""
    if rank < 2:
        raise ValueError(
            "The inputs must have a batch axis and at least one other. "
            f"Received: inputs of rank {rank}"
        )
    if axis is None:
        return tuple(range(1, rank))
    axes = (axis,) if isinstance(axis, int) else axis
    resolved = tuple(a + rank if a < 0 else a for a in axes)
    if not all(0 < a < rank for a in resolved) or len(set(resolved)) < len(axes):
        raise ValueError(
            "`axis` must name different axes of the input, and not the batch. "
            f"Received: axis={axis}, with inputs of rank {rank}"
        )
    return resolved


def check_data_format(axis: Axis, layers: Sequence[Any], rank: int) -> None:
    """Raises if the norm is over the width of images with their channels first."""
    axes = axis if isinstance(axis, (list, tuple)) else [axis]
    first = [x for x in layers if getattr(x, "data_format", None) == "channels_first"]
    if first and rank > 2 and axis is not None and set(axes) <= {-1, rank - 1}:
        raise ValueError(
            "`axis` must be the axis of the channels, 1, since layers of `branch` have "
            f"data_format='channels_first'. Received: axis={axis}, and the layer "
            f"'{first[0].name}'"
        )


def check_shapes(output: Shape, skip: Shape, shortcut: keras.Layer | None) -> None:
    """Raises if the output of the branch and the skip cannot be added."""
    if not checks.may_be_equal(output, skip):
        raise ValueError(
            "The output of `branch` and the skip must have the same shape. Give a "
            "`shortcut`, a layer that maps the input to the shape of the branch's "
            f"output. Received: the branch's output of shape {output}, and the skip "
            f"of shape {skip} (shortcut={shortcut})"
        )


def check_dtype(inputs: Tensor) -> None:
    if not keras.backend.is_float_dtype(inputs.dtype):
        raise TypeError(
            "The inputs must be floating-point: there is no gradient with respect to "
            f"other types. Received: inputs of dtype {inputs.dtype}"
        )
