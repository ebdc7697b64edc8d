"""GAL: gradient adjustment learning."""

from keras_gradres.optimizers.gal.loss import AdjustedLoss
from keras_gradres.optimizers.gal.optimizer import GAL

__all__ = ["GAL", "AdjustedLoss"]
