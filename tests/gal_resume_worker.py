"""Loads what was trained elsewhere: to predict without GAL, and to go on with it."""

import pathlib
import sys

import keras
import numpy as np
from gal_cases import QUICK
from keras import layers


def make_model():
    from keras_gradres.optimizers import GAL, Lookahead

    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    x = layers.Dense(8, activation="tanh")(inputs)
    outputs = {"kind": layers.Dense(3, name="kind")(x), "size": layers.Dense(2)(x)}
    model = keras.Model(inputs, outputs)
    kind = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    inner = Lookahead(keras.optimizers.Adam(0.05, amsgrad=True), sync_period=3)
    gal = GAL(inner, alpha=0.5, hidden_units=(8, 4), activation="tanh", seed=1)
    model.compile(gal, gal.loss([kind, "mse"]), **QUICK)
    return model


def train(model, epochs):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 6)).astype("float32")
    y = [rng.integers(0, 3, 32), x[:, :2] ** 2]
    for _ in range(epochs):
        model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    return {
        str(i): np.array(v.numpy())
        for i, v in enumerate([*model.variables, *model.optimizer.variables])
    }


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    model = keras.models.load_model(folder / "predicting.keras", compile=False)
    assert "keras_gradres" not in sys.modules
    np.save(folder / "predicted.npy", model.predict(np.ones((2, 6)), verbose=0))

    import keras_gradres  # noqa: F401

    loaded = keras.models.load_model(folder / "model.keras")
    np.savez(folder / "resumed.npz", **train(loaded, epochs=1))
