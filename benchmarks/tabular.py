"""The small tables of the GAL paper, and the networks that it has for each.

x, y = load("boston", folder)
model = network("boston", x.shape[1], seed=0, arguments={"alpha": 0.001})
"""

import keras
import numpy as np
from keras import layers

from benchmarks import data
from benchmarks.seeds import compiled

# The hidden layers of the model and of the adjustment network, batch size, epochs.
TASKS = {
    "boston": ((100, 50), (16, 4), 32, 200),
    "diabetes": ((64, 32), (128, 4), 32, 200),
    "california": ((256, 64), (128, 2), 64, 10),
}
LEARNING_RATE = 1e-3


def load(task, folder):
    """X, y."""
    x, y = data.diabetes() if task == "diabetes" else getattr(data, task)(folder)
    return x, y.astype("float32")


def network(task, inputs, seed, arguments):
    """The compiled network, with Adam, inside GAL where it has arguments."""
    hidden, adjusting, *_ = TASKS[task]
    dense = [layers.Dense(units, activation="relu") for units in hidden]
    model = keras.Sequential([keras.Input((inputs,)), *dense, layers.Dense(1)])
    if arguments is not None:
        arguments = {"hidden_units": adjusting, "skip": False, **arguments}
    return compiled(model, keras.optimizers.Adam(LEARNING_RATE), "mse", seed, arguments)


def scores(predictions, truth):
    """The measures at each evaluation."""
    wrong = predictions - truth
    mse = np.mean(wrong**2, axis=(1, 2))
    return {
        "mae": np.mean(np.abs(wrong), axis=(1, 2)),
        "mse": mse,
        "r2": 1 - mse / truth.var(),
    }
