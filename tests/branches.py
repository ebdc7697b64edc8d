"""The branches that every test of the layer's mathematics runs on.

`make` returns the branch as a user would write it. How many layers its affine tail and
its trailing normalization have is said by hand.
"""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
from keras import layers

from keras_gradres.layers import GradientResidual


@dataclasses.dataclass(frozen=True)
class Branch:
    make: Callable
    shape: tuple
    affine_tail: int  # The number of its layers.
    trailing: int = 0  # The number of layers of the trailing normalization.
    shortcut: Callable = lambda: None

    def layer(self, **kwargs):
        """A built layer around the branch, with weights of ordinary size."""
        layer = GradientResidual(self.make(), shortcut=self.shortcut(), **kwargs)
        layer.build(self.shape)
        rng = np.random.default_rng(0)
        # Those of the layer itself last: what there is depends on `residual`.
        inner = layer.branch.weights
        if layer.shortcut is not None:
            inner = [*inner, *layer.shortcut.weights]
        inner_ids = {id(v) for v in inner}
        own = [v for v in layer.weights if id(v) not in inner_ids]
        for v in [*inner, *own]:
            value = rng.normal(scale=0.5, size=v.shape).astype("float32")
            v.assign(np.abs(value) + 0.5 if "variance" in v.path else value)
        return layer

    def inputs(self):
        return np.random.default_rng(1).normal(size=self.shape).astype("float32")


def conv(filters=4, **kwargs):
    return layers.Conv2D(filters, 3, padding="same", **kwargs)


def attention():
    x = keras.Input((None, 4))
    h = layers.LayerNormalization()(x)
    return keras.Model(x, layers.MultiHeadAttention(2, 3, flash_attention=False)(h, h))


def parallel():
    x = keras.Input((None, None, 4))
    a = layers.Conv2D(4, 3, padding="same", activation="tanh")(x)
    b = layers.Conv2D(4, 1, activation="sigmoid")(x)
    return keras.Model(x, layers.Add()([a, layers.Multiply()([a, b])]))


def functional():
    x = keras.Input((None, None, 4))
    a = layers.Multiply()([conv(activation="tanh")(x), conv()(x)])
    return keras.Model(x, layers.BatchNormalization()(conv()(a)))


IMAGE = (2, 5, 4, 4)
BRANCHES = {
    "dense": Branch(
        lambda: [layers.Dense(7, activation="tanh"), layers.Dense(5)],
        (3, 5),
        affine_tail=1,
    ),
    "gelu": Branch(
        lambda: [layers.Dense(7, activation="gelu"), layers.Dense(5)],
        (3, 5),
        affine_tail=1,
    ),
    "one layer": Branch(
        lambda: layers.Dense(5, activation="tanh"), (3, 5), affine_tail=0
    ),
    "affine": Branch(lambda: [layers.Dense(7), layers.Dense(5)], (3, 5), affine_tail=2),
    "sequence": Branch(
        lambda: [layers.Dense(7, activation="tanh"), layers.Dense(5)],
        (2, 4, 5),
        affine_tail=1,
    ),
    "conv": Branch(lambda: [conv(6), layers.ReLU(), conv()], IMAGE, affine_tail=1),
    "conv 1d": Branch(
        lambda: [
            layers.Conv1D(5, 3, padding="same", activation="tanh"),
            layers.Conv1D(4, 3, padding="causal"),
        ],
        (2, 6, 4),
        affine_tail=1,
    ),
    "batch norm inside": Branch(
        lambda: [conv(), layers.BatchNormalization(), layers.ReLU(), conv()],
        IMAGE,
        affine_tail=1,
    ),
    "srresnet": Branch(
        lambda: [
            conv(),
            layers.BatchNormalization(),
            layers.PReLU(shared_axes=(1, 2)),
            conv(),
            layers.BatchNormalization(),
        ],
        IMAGE,
        affine_tail=1,
        trailing=1,
    ),
    "dropout": Branch(
        lambda: [
            layers.Dense(8, activation="tanh"),
            layers.Dropout(0.5, seed=1),
            layers.Dense(5),
            layers.Dropout(0.3, seed=2),
        ],
        (4, 5),
        affine_tail=0,
    ),
    "depthwise": Branch(
        lambda: [
            layers.DepthwiseConv2D(3, padding="same", activation="tanh"),
            layers.DepthwiseConv2D(3, padding="same"),
        ],
        IMAGE,
        affine_tail=1,
    ),
    "separable": Branch(
        lambda: [
            layers.SeparableConv2D(4, 3, padding="same", activation="tanh"),
            layers.SeparableConv2D(4, 3, padding="same"),
        ],
        IMAGE,
        affine_tail=1,
    ),
    "attention": Branch(attention, (2, 3, 4), affine_tail=0),
    "transformer mlp": Branch(
        lambda: [
            layers.LayerNormalization(),
            layers.Dense(9, activation="gelu"),
            layers.Dense(4),
        ],
        (2, 3, 4),
        affine_tail=1,
    ),
    "layer norm last": Branch(
        lambda: [layers.Dense(4, activation="tanh"), layers.LayerNormalization()],
        (3, 4),
        affine_tail=0,
        trailing=1,
    ),
    "softmax last": Branch(
        lambda: [layers.Dense(6, activation="tanh"), layers.Dense(4), layers.Softmax()],
        (3, 4),
        affine_tail=1,
        trailing=1,
    ),
    "norm and dropout last": Branch(
        lambda: [
            layers.Dense(4, activation="tanh"),
            layers.BatchNormalization(),
            layers.Activation("softmax"),
            layers.Dropout(0.5, seed=1),
        ],
        (3, 4),
        affine_tail=0,
        trailing=3,
    ),
    "lstm": Branch(
        lambda: layers.LSTM(4, return_sequences=True), (2, 3, 4), affine_tail=0
    ),
    "parallel": Branch(parallel, IMAGE, affine_tail=1),
    "functional": Branch(functional, IMAGE, affine_tail=1, trailing=1),
    "nested": Branch(
        lambda: [
            # The outer product differentiates the inner one only at second order.
            GradientResidual([conv(activation="tanh"), conv()], second_order=True),
            layers.Activation("tanh"),
            conv(),
        ],
        IMAGE,
        affine_tail=1,
    ),
    "nested sequential": Branch(
        lambda: [
            conv(activation="tanh"),
            keras.Sequential([conv(activation="tanh"), conv(), layers.Softmax()]),
        ],
        IMAGE,
        affine_tail=1,
        trailing=1,
    ),
    "pooling": Branch(
        lambda: [conv(3, activation="tanh"), conv(6), layers.AveragePooling2D(2)],
        (2, 4, 6, 4),
        affine_tail=2,
        shortcut=lambda: layers.Conv2D(6, 2, strides=2),
    ),
    "upsampling": Branch(
        lambda: [
            conv(activation="tanh"),
            layers.Conv2DTranspose(4, 2, strides=2),
            layers.ZeroPadding2D(1),
            layers.Cropping2D(1),
        ],
        (2, 3, 3, 4),
        affine_tail=3,
        shortcut=lambda: layers.UpSampling2D(2, interpolation="bilinear"),
    ),
}
