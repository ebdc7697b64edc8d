"""Loads the model files of a folder, predicts, and writes the outputs or the errors."""

import json
import pathlib
import sys

import keras
import numpy as np

import keras_gradres  # noqa: F401  # Registers its layers.


def main(folder):
    errors, outputs = {}, {}
    for path in sorted(folder.glob("*.keras")):
        x = np.load(path.with_suffix(".npy"))
        try:
            model = keras.models.load_model(path)
            called = model(keras.ops.convert_to_tensor(x), training=False)
            outputs[path.stem] = keras.ops.convert_to_numpy(called)
            outputs[f"{path.stem}-predicted"] = model.predict(x, verbose=0)
        except Exception as error:
            errors[path.stem] = str(error)
    np.savez(folder / f"{keras.backend.backend()}.npz", **outputs)
    (folder / f"{keras.backend.backend()}.json").write_text(json.dumps(errors))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
