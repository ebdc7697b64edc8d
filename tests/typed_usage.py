"""The library as a program with types uses it; checked by mypy, and run by a test.

Lines with `type: ignore` are mistakes of a user that mypy is to find. If it does not,
it says that the comment is unused.
"""

from typing import assert_type

import keras
import numpy as np

import keras_gradres
from keras_gradres.callbacks import Diagnostics
from keras_gradres.conversion import ConversionReport
from keras_gradres.layers import (
    GradientResidual,
    GradientResidualConv,
    GradientResidualDense,
)
from keras_gradres.losses import AdjustedLoss
from keras_gradres.models import EDSR, MLP
from keras_gradres.optimizers import GAL, AdaBound, Lookahead


def network(width: int) -> keras.Model:
    """A network with each of the layers."""
    dense = keras.layers.Dense
    inputs = keras.Input((8, 8, width))
    image = GradientResidualConv(kernel_size=(3, 3), axis=-1, alpha=-3.0)(inputs)
    x = keras.layers.GlobalAveragePooling2D()(image)
    residual = GradientResidual(
        [dense(2 * width, activation="tanh"), dense(width)],
        residual="gain",
        second_order=True,
    )
    x = GradientResidualDense(kernel_regularizer="l2")(residual(x))
    assert_type(residual.mix, float | None)
    assert_type(residual.parts, dict[str, list[str]] | None)
    return keras.Model(inputs, x)


def train(model: keras.Model, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """A step with GAL around other optimizers."""
    gal = GAL(Lookahead(AdaBound(1e-3), sync_period=2), hidden_units=(8,), seed=0)
    model.compile(gal, loss=gal.loss("mse"))
    model.fit(x, y, verbose=0, callbacks=[Diagnostics()])
    return gal.diagnostics


def plain() -> keras.Model:
    """A model with a skip connection."""
    inputs = keras.Input((4,))
    x = keras.layers.Dense(4, activation="tanh")(inputs)
    return keras.Model(inputs, keras.layers.Add(name="sum")([inputs, x]))


def convert(model: keras.Model) -> tuple[keras.Model, list[str]]:
    """The converted model, and the names of what was converted."""
    report = keras_gradres.conversion_report(model)
    assert_type(report, ConversionReport)
    names = [entry.name for entry in report.converted]
    return keras_gradres.convert(model, "gain", layers=names), names


def mistakes() -> None:
    """Not called."""
    GradientResidual([], residual=1)  # type: ignore[arg-type]
    GradientResidualDense(units="64")  # type: ignore[arg-type]
    GradientResidualConv(second_order="yes")  # type: ignore[arg-type]
    EDSR("2")  # type: ignore[arg-type]
    MLP()  # type: ignore[call-arg]
    GAL("sgd", alpha="0.1")  # type: ignore[arg-type]
    AdjustedLoss("mse", name=3)  # type: ignore[arg-type]
    keras_gradres.convert(plain(), layers=3)  # type: ignore[arg-type]
