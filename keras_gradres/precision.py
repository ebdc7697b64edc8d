"""How finely the floating-point types round."""

from typing import Any

import keras

_SPACING = {
    "bfloat16": 2.0**-7,
    "float16": 2.0**-10,
    "float32": 2.0**-23,
    "float64": 2.0**-52,
}


def spacing(dtype: str) -> float:
    """The distance from 1 to the next number of a floating-point type."""
    return _SPACING[dtype]


def wide(dtype: Any) -> str:
    """The type itself, or float32 if it is narrower.

    (`keras.backend.result_type` makes float32 of float64 and float32.)
    """
    dtype = keras.backend.standardize_dtype(dtype)
    return dtype if dtype == "float64" else "float32"
