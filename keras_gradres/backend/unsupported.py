"""Keras backends that cannot differentiate: importing works, calling raises."""

import keras


def _refuse(*args, **kwargs):
    raise NotImplementedError(
        f"The Keras backend '{keras.backend.backend()}' cannot differentiate. "
        "Set the environment variable `KERAS_BACKEND` to 'jax', 'tensorflow' or "
        "'torch' before Keras is imported."
    )


value_and_grad = all_finite = _refuse


def vjp(function, tensors, layer, *, second_order=False):
    name = getattr(layer, "name", None) or type(layer).__name__
    raise NotImplementedError(
        f"The Keras backend '{keras.backend.backend()}' cannot differentiate, and the "
        f"layer '{name}' (of type {type(layer).__name__}) in the branch of a gradient "
        "residual has no pullback rule. Register one, or set the environment variable "
        "`KERAS_BACKEND` to 'jax', 'tensorflow' or 'torch' before Keras is imported."
    )


def gradient_hook(x, backward, *operands):
    # There is no backward pass; values are what they are elsewhere.
    return x, lambda: False


def uncompiled(function):
    return function


def parts(variable):
    return [variable]


def tracer():
    return None


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
