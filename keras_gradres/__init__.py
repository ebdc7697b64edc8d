"""Gradient residual connections and gradient adjustment learning for Keras 3."""

from keras_gradres import callbacks, layers, losses, models, optimizers

__all__ = ["__version__", "callbacks", "layers", "losses", "models", "optimizers"]
__version__ = "0.1.0"
