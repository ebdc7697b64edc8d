"""Gradient residual connections and gradient adjustment learning for Keras 3."""

from keras_gradres import callbacks, layers, losses, models, optimizers
from keras_gradres.conversion import conversion_report, convert

__all__ = [
    "__version__",
    "callbacks",
    "conversion_report",
    "convert",
    "layers",
    "losses",
    "models",
    "optimizers",
]
__version__ = "0.1.0"
