"""Optimizers."""

from keras_gradres.optimizers.gal import GAL

__all__ = ["GAL"]
