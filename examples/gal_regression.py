"""GAL on a regression: the progression of diabetes in 442 patients.

The data is that of scikit-learn, nothing is downloaded. Trains a multilayer perceptron
with momentum, alone and inside GAL, from the same seeds. Prints the error on the 122
patients that were kept back, with Welch's t-test, and draws what GAL did. Takes
less than two minutes on two CPU cores:

    KERAS_BACKEND=jax python examples/gal_regression.py
"""

import keras
import numpy as np
from comparison import main, run
from keras import layers
from sklearn.datasets import load_diabetes

VARIANTS = {
    "alpha 0.001": {"alpha": 0.001},
    "alpha 0.1": {"alpha": 0.1},
    "alpha 0.1, improve": {"alpha": 0.1, "policy": "improve"},
}
TITLE = "test error, squared"


def make_data():
    """Patients for training and for testing; the targets in standard deviations."""
    x, y = load_diabetes(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    train, test = order[:320], order[320:]  # Batches of 32, all full.
    x = ((x - x[train].mean(0)) / x[train].std(0)).astype("float32")
    y = ((y - y[train].mean()) / y[train].std()).astype("float32")[:, None]
    return (x[train], y[train]), (x[test], y[test])


def make_model():
    inputs = keras.Input((10,))
    x = layers.Dense(32, activation="tanh")(inputs)
    x = layers.Dense(32, activation="tanh")(x)
    return keras.Model(inputs, layers.Dense(1)(x))


def make_inner():
    return keras.optimizers.SGD(0.01, momentum=0.9)


if __name__ == "__main__":
    data = make_data()

    def train(arguments, seed, epochs):
        return run(make_model, "mse", make_inner, arguments, data, seed, epochs, "mse")

    main(VARIANTS, train, "val_mse", TITLE, epochs=15, output="gal_regression.png")
