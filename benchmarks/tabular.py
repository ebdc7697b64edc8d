"""The small tables of the GAL paper, and the networks that it has for each.

x, y = load("boston", folder)
model = network("boston", x.shape[1], seed=0, arguments={"alpha": 0.001})
"""

import keras
import numpy as np
from keras import layers

from benchmarks import data
from keras_gradres.optimizers import GAL

# The hidden layers of the model and of the adjustment network, batch size, epochs.
TASKS = {
    "boston": ((100, 50), (16, 4), 32, 200),
    "diabetes": ((64, 32), (128, 4), 32, 200),
    "california": ((256, 64), (128, 2), 64, 10),
}
LEARNING_RATE = 1e-3


def load(task, folder):
    """X, y."""
    return data.diabetes() if task == "diabetes" else getattr(data, task)(folder)


def split(x, y, seed, features):
    """(x, y), (x_test, y_test), in another way for each seed."""
    order = np.random.default_rng(seed).permutation(len(x))
    train, test = np.split(order, [int(0.8 * len(x))])
    if features == "standardized":
        x = (x - x[train].mean(0)) / x[train].std(0)
    x, y = x.astype("float32"), y.astype("float32")
    return (x[train], y[train]), (x[test], y[test])


def network(task, inputs, seed, arguments):
    """The compiled network, with Adam, inside GAL where it has arguments."""
    hidden, adjusting, *_ = TASKS[task]
    dense = [layers.Dense(units, activation="relu") for units in hidden]
    model = keras.Sequential([keras.Input((inputs,)), *dense, layers.Dense(1)])
    optimizer, loss = keras.optimizers.Adam(LEARNING_RATE), "mse"
    if arguments is not None:
        optimizer = GAL(
            optimizer,
            hidden_units=adjusting,
            skip=False,
            seed=seed,
            output_shapes=[(None, 1)],
            **arguments,
        )
        loss = optimizer.loss(loss)
    model.compile(optimizer, loss)
    return model


def scores(predictions, truth):
    """The measures at each evaluation."""
    wrong = predictions - truth
    mse = np.mean(wrong**2, axis=(1, 2))
    return {
        "mae": np.mean(np.abs(wrong), axis=(1, 2)),
        "mse": mse,
        "r2": 1 - mse / truth.var(),
    }
