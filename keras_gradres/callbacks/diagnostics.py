"""The state of GAL and of the gradient residuals in the logs."""

from typing import Any

import keras

from keras_gradres.layers import GradientResidual
from keras_gradres.optimizers import GAL
from keras_gradres.traversal import layers_in


class Diagnostics(keras.callbacks.Callback):
    """Adds the state of GAL and of the gradient residuals to the logs of each epoch.

    The logs get `gal_remainder`, `gal_accepted`, `gal_cosine`, `gal_drift` and
    `gal_dropped` of the last step of the epoch, see `GAL`. They get `mix_<layer>`,
    which is sigmoid(alpha), of each `GradientResidual` that has one.

    Callbacks run in the order of their list. So put this one before those that read the
    logs, such as `CSVLogger` and `TensorBoard`. `History` and the progress bar run
    after it in any case.

    Example:
    >>> import keras
    >>> import numpy as np
    >>> from keras_gradres.callbacks import Diagnostics
    >>> from keras_gradres.layers import GradientResidualDense
    >>> block = GradientResidualDense(trainable_alpha=False, name="block")
    >>> model = keras.Sequential([keras.Input((4,)), block])
    >>> model.compile("sgd", "mse")
    >>> x = np.ones((8, 4), "float32")
    >>> history = model.fit(x, x, verbose=0, callbacks=[Diagnostics()])
    >>> history.history["mix_block"]
    [0.5]
    """

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is None:
            return
        model = self.model
        if isinstance(model.optimizer, GAL):
            for name, value in model.optimizer.diagnostics.items():
                logs[f"gal_{name}"] = value
        for layer in layers_in(model):
            if isinstance(layer, GradientResidual) and layer.mix is not None:
                logs[f"mix_{layer.name}"] = float(layer.mix)
