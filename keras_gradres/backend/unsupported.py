"""Keras backends that cannot differentiate: importing works, calling raises."""

import keras


def _refuse(*args, **kwargs):
    raise NotImplementedError(
        f"The Keras backend '{keras.backend.backend()}' cannot differentiate. "
        "Set the environment variable `KERAS_BACKEND` to 'jax', 'tensorflow' or "
        "'torch' before Keras is imported."
    )


vjp = value_and_grad = all_finite = _refuse


def gradient_hook(x, backward, *operands):
    # There is no backward pass; values are what they are elsewhere.
    return x, lambda: False


def uncompiled(function):
    return function


def parts(variable):
    return [variable]


def eagerly(function):
    return function()


def all_reduce(tensors, after):
    return tensors


def broadcast(variables):
    pass


def to_apply(gradients):
    return gradients


def assign(variable, value):
    variable.assign(value)


def known(condition):
    return condition
