"""How finely the floating-point types round."""

_SPACING = {
    "bfloat16": 2.0**-7,
    "float16": 2.0**-10,
    "float32": 2.0**-23,
    "float64": 2.0**-52,
}


def spacing(dtype: str) -> float:
    """The distance from 1 to the next number of a floating-point type."""
    return _SPACING[dtype]
