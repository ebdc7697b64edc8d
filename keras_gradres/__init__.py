"""Gradient residual connections and gradient adjustment learning for Keras 3."""

from keras_gradres import layers, losses, optimizers

__all__ = ["__version__", "layers", "losses", "optimizers"]
__version__ = "0.1.0"
