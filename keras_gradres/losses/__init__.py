"""Losses."""

from keras_gradres.losses.adjusted_loss import AdjustedLoss

__all__ = ["AdjustedLoss"]
