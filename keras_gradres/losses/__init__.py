"""Losses."""

from keras_gradres.optimizers.gal.loss import AdjustedLoss

__all__ = ["AdjustedLoss"]
