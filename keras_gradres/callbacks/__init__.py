"""Callbacks."""

from keras_gradres.callbacks.diagnostics import Diagnostics

__all__ = ["Diagnostics"]
