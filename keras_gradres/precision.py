"""How finely the floating-point types round."""

from typing import Any

import keras

from keras_gradres.typing import Dtype

_SPACING = {
    "bfloat16": 2.0**-7,
    "float16": 2.0**-10,
    "float32": 2.0**-23,
    "float64": 2.0**-52,
}


def spacing(dtype: Dtype) -> float:
    """The distance from 1 to the next number of a floating-point type."""
    return _SPACING[dtype]


def wide(dtype: Any) -> Dtype:
    """The name of a floating-point type, or float32 if the type is narrower.

    `keras.backend.result_type` is not used, because it returns float32 for float64 and
    float32.

    Args:
        dtype: A dtype of Keras or of the framework.
    """
    name = keras.backend.standardize_dtype(dtype)
    return "float64" if name == "float64" else "float32"
