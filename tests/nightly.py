"""Tests that may fail with the nightly build of Keras, by name.

`conftest.py` marks them there as expected to fail. A test that fails and is not named
here is news. One that passes again stays green, and its line can go.
"""

# The test, the backends where it may fail, and the reason.
MAY_FAIL = [
    (
        "test_keras_masks.py::test_padding_does_not_matter[lstm]",
        ("tensorflow", "torch"),
        "Keras 3.16 says `supports_masking = False` of its RNN layers, though they "
        "take a mask. So a gradient residual layer does not pass it on.",
    ),
    (
        "test_keras.py::test_dtype_policies[bfloat16]",
        ("tensorflow",),
        "By rounding.",
    ),
]
