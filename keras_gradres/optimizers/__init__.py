"""Optimizers."""

from keras_gradres.optimizers.adabound import AdaBound
from keras_gradres.optimizers.gal import GAL
from keras_gradres.optimizers.lookahead import Lookahead

__all__ = ["GAL", "AdaBound", "Lookahead"]
