"""What the tests of Keras around the layers need: data, and a model of images."""

import keras
import numpy as np
from keras import layers

from keras_gradres.layers import (
    GradientResidual,
    GradientResidualConv,
    GradientResidualDense,
)


def data(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def image_model():
    x = inputs = keras.Input((None, None, 4))
    x = GradientResidualConv(activation="gelu", name="first")(x)
    x = GradientResidual(
        [
            layers.Conv2D(4, 3, padding="same"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dropout(0.3, seed=1),
            layers.Conv2D(6, 1),
            layers.BatchNormalization(),
        ],
        alpha=-1.0,
        shortcut=layers.Conv2D(6, 1),
        activation="relu",
        name="second",
    )(x)
    x = GradientResidualDense(residual="magnitude", axis=None, second_order=True)(x)
    return keras.Model(inputs, x)
