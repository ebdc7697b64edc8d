"""GAL on a classification: handwritten digits of 8 by 8 pixels.

The data is that of scikit-learn, nothing is downloaded. Trains a multilayer perceptron
with momentum, alone and inside GAL with growing `alpha`, from the same seeds. Prints
the error on the 453 digits that were kept back, with Welch's t-test, and draws what GAL
did. Takes less than two minutes on two CPU cores:

    KERAS_BACKEND=jax python examples/gal_classification.py
"""

import keras
import numpy as np
from comparison import main, run
from keras import layers
from sklearn.datasets import load_digits

VARIANTS = {
    **{f"alpha {alpha}": {"alpha": alpha} for alpha in (0.001, 0.01, 0.1)},
    "alpha 0.1, improve": {"alpha": 0.1, "policy": "improve"},
    "alpha 0.1, MLP(z)": {"alpha": 0.1, "skip": False},
}
TITLE = "test error, %"


def make_data():
    """Digits for training and for testing, the pixels in [0, 1]."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    order = np.random.default_rng(0).permutation(len(x))
    train, test = order[:1344], order[1344:]  # Batches of 32, all full.
    return (x[train], y[train]), (x[test], y[test])


def make_model():
    inputs = keras.Input((64,))
    x = layers.Dense(64, activation="relu")(inputs)
    x = layers.Dense(64, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def error(y_true, y_pred):
    return 1 - keras.metrics.sparse_categorical_accuracy(y_true, y_pred)


def make_inner():
    return keras.optimizers.SGD(0.05, momentum=0.9)


if __name__ == "__main__":
    data = make_data()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def train(arguments, seed, epochs):
        return run(make_model, loss, make_inner, arguments, data, seed, epochs, error)

    output = "gal_classification.png"
    main(VARIANTS, train, "val_error", TITLE, epochs=12, output=output, scale=100)
