"""Gradient residual connections for Keras 3, on TensorFlow, JAX and PyTorch."""

from keras_gradres import layers

__all__ = ["__version__", "layers"]
__version__ = "0.1.0"
