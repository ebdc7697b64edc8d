"""What GAL and the gradient residuals are doing, in the logs."""

import keras

from keras_gradres.layers import GradientResidual
from keras_gradres.optimizers import GAL
from keras_gradres.traversal import layers_in


class Diagnostics(keras.callbacks.Callback):
    """Adds the state of GAL and of the gradient residuals to the logs of each epoch.

    These are `gal_remainder`, `gal_accepted`, `gal_cosine`, `gal_drift` and
    `gal_dropped`, see `GAL.diagnostics`, of the last step of the epoch; and
    `mix_<layer>`, sigmoid(alpha), of each `GradientResidual` that has one.

    Callbacks run in the order of their list: give this one before those that read the
    logs, such as `CSVLogger` and `TensorBoard`. `History` and the progress bar come
    after it by themselves.
    """

    def on_epoch_end(self, epoch, logs=None):
        if logs is None:
            return
        model = self.model
        if isinstance(model.optimizer, GAL):
            for name, value in model.optimizer.diagnostics.items():
                logs[f"gal_{name}"] = value
        for layer in layers_in(model):
            if isinstance(layer, GradientResidual) and layer.mix is not None:
                logs[f"mix_{layer.name}"] = float(layer.mix)
