"""Keras backends that cannot differentiate: importing works, calling raises."""

import keras


def vjp(layer, x, cotangent, *, second_order=False, **call_arguments):
    raise NotImplementedError(
        f"The Keras backend '{keras.backend.backend()}' cannot differentiate a layer. "
        "Set the environment variable `KERAS_BACKEND` to 'jax', 'tensorflow' or "
        f"'torch' before Keras is imported. Received: layer={layer}"
    )
