"""Gradient residual layers."""

from keras_gradres.layers import nested  # noqa: F401  # Registers its rule.
from keras_gradres.layers.blocks import GradientResidualConv, GradientResidualDense
from keras_gradres.layers.gradient_residual import GradientResidual

__all__ = ["GradientResidual", "GradientResidualConv", "GradientResidualDense"]
