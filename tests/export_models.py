"""The models of the export tests, in plain Keras and with gradient residuals."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
from keras import layers

from keras_gradres import models
from keras_gradres.layers import GradientResidual


@dataclasses.dataclass(frozen=True)
class Case:
    """A model of gradient residuals.

    Attributes:
        make: Called with the arguments of `GradientResidual`, it returns the model.
        traced: The shape of an input that a tracer may look at.
        other: The shape of an input that it has not seen.
    """

    make: Callable
    traced: tuple
    other: tuple


def _mlp(activation, **kwargs):
    return models.MLP(3, blocks=2, units=8, activation=activation, **kwargs)


def _edsr(**kwargs):
    return models.EDSR(2, blocks=2, filters=8, **kwargs)


def _conv(**kwargs):
    return layers.Conv2D(6, 3, padding="same", **kwargs)


def _conv_bn(**kwargs):
    inputs = x = keras.Input((None, None, 3))
    x = _conv()(x)
    for _ in range(2):
        branch = [
            _conv(),
            layers.BatchNormalization(),
            layers.ReLU(),
            _conv(),
            layers.BatchNormalization(),
        ]
        x = GradientResidual(branch, **kwargs)(x)
    return keras.Model(inputs, x)


def _attention(**kwargs):
    inputs = keras.Input((None, 8))
    h = layers.LayerNormalization()(inputs)
    branch = keras.Model(inputs, layers.MultiHeadAttention(2, 4)(h, h))
    x = keras.Input((None, 8))
    y = GradientResidual(branch, **kwargs)(x)
    return keras.Model(x, layers.Dense(3)(y))


MODELS = {
    "MLP, tanh": Case(lambda **kwargs: _mlp("tanh", **kwargs), (2, 3), (5, 3)),
    "MLP, GELU": Case(lambda **kwargs: _mlp("gelu", **kwargs), (2, 3), (5, 3)),
    "EDSR": Case(_edsr, (2, 6, 7, 3), (3, 9, 5, 3)),
    "conv, BN, ReLU": Case(_conv_bn, (2, 6, 7, 3), (3, 9, 5, 3)),
    "attention": Case(_attention, (2, 4, 8), (3, 6, 8)),
}
PLAIN = "plain Keras"
VARIANTS = {
    "first order": {"residual": "convex"},
    "second order": {"residual": "convex", "second_order": True},
}


def make(name, variant):
    """The model `name` with weights and moving statistics of ordinary size."""
    case = MODELS[name]
    if variant == PLAIN:
        model = plain(case.make(residual="identity"))
    else:
        model = case.make(**VARIANTS[variant])
    rng = np.random.default_rng(0)
    for v in model.weights:
        scale = np.sqrt(1 / np.prod(v.shape[:-1])) if len(v.shape) > 1 else 0.3
        value = rng.normal(scale=scale, size=v.shape)
        v.assign(np.abs(value) + 0.5 if "variance" in v.path else value)
    model(inputs(case.traced))  # Keras exports only models that were called.
    return model


def inputs(shape):
    return np.random.default_rng(1).normal(size=shape).astype("float32")


def plain(model):
    """`model` with `x + branch(x)` of Keras's own layers for each identity residual."""

    def clone(layer):
        if not isinstance(layer, GradientResidual):
            return layer.__class__.from_config(layer.get_config())

        # PyTorch knows parameters by their path, so that no two may be the same.
        def renamed(inner):
            config = {**inner.get_config(), "name": f"{layer.name}_{inner.name}"}
            return inner.__class__.from_config(config)

        x = keras.Input(layer.input.shape[1:])
        branch = keras.models.clone_model(layer.branch, clone_function=renamed)
        return keras.Model(x, layers.Add()([x, branch(x)]))

    return keras.models.clone_model(model, clone_function=clone)
