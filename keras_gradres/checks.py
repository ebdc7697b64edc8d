"""Checks of sizes and shapes, which layers, models and optimizers have in common."""

import numbers
from typing import Any

from keras_gradres.typing import Shape


def positive_integer(name: str, value: Any) -> int:
    """`value` as an int; raises if it is not a positive integer.

    Args:
        name: The name of the argument, for the message.
        value: Its value.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(
            f"`{name}` must be a positive integer. Received: {name}={value}"
        )
    return int(value)


def may_be_equal(a: Shape, b: Shape) -> bool:
    """Whether two shapes may be equal, `None` being an unknown size."""
    return len(a) == len(b) and all(
        m == n or m is None or n is None for m, n in zip(a, b, strict=True)
    )


def known_size(shape: Shape, axis: int, reason: str = "") -> int:
    """The size of an axis of the inputs; raises if it is not known.

    Args:
        shape: The shape of the inputs.
        axis: The axis.
        reason: Why the size is needed, for the message.
    """
    size = shape[axis]
    if size is None:
        raise ValueError(
            f"The size of axis {axis} of the inputs must be known{reason}. "
            f"Received: inputs of shape {shape}"
        )
    return size
