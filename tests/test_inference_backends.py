"""What was saved with one backend predicts on those of Keras that only predict.

A backend is one for a whole process, so that each of them has its own.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import export_models
import keras
import numpy as np
import pytest
from export_models import MODELS, PLAIN, VARIANTS
from keras import layers

from keras_gradres.layers import GradientResidual

# Of the same kind and quick: `test_backends_without_gradients`.
pytestmark = pytest.mark.slow
WORKER = pathlib.Path(__file__).with_name("inference_worker.py")
INFERENCE_ONLY = ("numpy", "openvino")
# (backend, model): what plain Keras raises.
CANNOT: dict = {}


def _file(name, variant):
    return f"{list(MODELS).index(name)}-{variant}".replace(" ", "-")


def _fallback():
    x = keras.Input((5, 4))
    branch = layers.LSTM(4, return_sequences=True, name="the_cause")
    return keras.Model(x, GradientResidual(branch)(x))


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """A folder of model files and inputs, and the outputs on the active backend."""
    folder, outputs = tmp_path_factory.mktemp("inference"), {}

    def save(file, model, x):
        model.save(folder / f"{file}.keras")
        np.save(folder / f"{file}.npy", x)
        outputs[file] = model.predict(x, verbose=0)

    for name, case in MODELS.items():
        for variant in (PLAIN, *VARIANTS):
            model = export_models.make(name, variant)
            save(_file(name, variant), model, export_models.inputs(case.other))
    save("fallback", _fallback(), export_models.inputs((2, 5, 4)))
    return folder, outputs


@pytest.fixture(scope="module", params=INFERENCE_ONLY)
def results(request):
    """The backend, the outputs that are expected, those that it gave, its errors."""
    # Both of Keras's backends take functions from the one of JAX.
    missing = [p for p in (request.param, "jax") if importlib.util.find_spec(p) is None]
    if missing:
        pytest.skip(f"not installed here: {missing}")
    # Only here, because it is not wanted where this is skipped.
    folder, outputs = request.getfixturevalue("expected")
    run = subprocess.run(
        [sys.executable, str(WORKER), str(folder)],
        env={**os.environ, "KERAS_BACKEND": request.param},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    found = dict(np.load(folder / f"{request.param}.npz"))
    errors = json.loads((folder / f"{request.param}.json").read_text())
    return request.param, outputs, found, errors


@pytest.mark.parametrize("variant", [PLAIN, *VARIANTS])
@pytest.mark.parametrize("name", MODELS)
def test_same_numbers(results, name, variant):
    backend, expected, found, errors = results
    file = _file(name, variant)
    if (backend, name) in CANNOT:
        assert CANNOT[backend, name] in errors[_file(name, PLAIN)]
        return
    assert file in found, errors[file]
    np.testing.assert_allclose(found[file], expected[file], rtol=0, atol=1e-5)
    predicted = found[f"{file}-predicted"]
    if backend == "openvino":
        # Keras lets it predict in bfloat16 where the processor has it.
        error = np.linalg.norm(predicted - expected[file])
        assert error < 0.1 * np.linalg.norm(expected[file])
    else:
        np.testing.assert_allclose(predicted, expected[file], rtol=0, atol=1e-5)


def test_a_branch_without_closed_form_names_the_layer(results):
    _, _, _, errors = results
    assert "the_cause" in errors["fallback"]
