"""Checks of the arguments of `GradientResidual`, and their standard forms."""

import math
import numbers

import keras
from keras import initializers


def as_layer(branch):
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


def as_initializer(alpha):
    if alpha is None:
        raise ValueError(
            "`alpha` must be a number or an initializer. Received: alpha=None"
        )
    if isinstance(alpha, numbers.Real):
        if not math.isfinite(alpha):
            raise ValueError(f"`alpha` must be finite. Received: alpha={alpha}")
        return initializers.Constant(float(alpha))
    return initializers.get(alpha)


def standardize_axis(axis):
    if axis is None:
        return None
    axes = axis if isinstance(axis, (list, tuple)) else [axis]
    if not axes or not all(isinstance(a, numbers.Integral) and a != 0 for a in axes):
        raise ValueError(
            "`axis` must be an int, a non-empty tuple of ints, or None, and must not "
            f"name the batch axis 0. Received: axis={axis}"
        )
    return [int(a) for a in axes] if axes is axis else int(axis)


def resolve_axes(axis, rank):
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


def check_data_format(axis, layers, rank):
    """Raises if the norm is over the width of images with their channels first."""
    axes = axis if isinstance(axis, (list, tuple)) else [axis]
    first = [x for x in layers if getattr(x, "data_format", None) == "channels_first"]
    if first and rank > 2 and axis is not None and set(axes) <= {-1, rank - 1}:
        raise ValueError(
            "`axis` must be the axis of the channels, 1, since layers of `branch` have "
            f"data_format='channels_first'. Received: axis={axis}, and the layer "
            f"'{first[0].name}'"
        )


def may_be_equal(a, b):
    """Whether two shapes may be equal, `None` being an unknown size."""
    return len(a) == len(b) and all(
        m == n or m is None or n is None for m, n in zip(a, b, strict=True)
    )


def positive_integer(name, value, optional=False):
    if value is None and optional:
        return None
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(
            f"`{name}` must be a positive integer. Received: {name}={value}"
        )
    return int(value)
