"""Loads a converted model, in a process and on a backend of its own, and uses it."""

import pathlib
import sys

import keras
import numpy as np

import keras_gradres  # noqa: F401


def main(folder):
    model = keras.models.load_model(folder / "model.keras")
    arrays = np.load(folder / "data.npz")
    numbers = {"predicted": model.predict(arrays["x"], verbose=0)}
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
    numbers["loss"] = np.array(model.train_on_batch(arrays["x"], arrays["y"]))
    for i, v in enumerate(model.variables):
        if "seed" not in v.path:
            numbers[f"weights/{i}"] = np.array(v.numpy())
    np.savez(folder / f"{keras.backend.backend()}.npz", **numbers)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
