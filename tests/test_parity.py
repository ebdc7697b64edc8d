"""The same weights and data give the same numbers on every backend.

One backend makes a model file. Each, in a process of its own, loads it, predicts, and
trains one step. Skipped where not all three are installed.
"""

import importlib.util
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from conftest import BACKENDS

WORKER = pathlib.Path(__file__).with_name("parity_worker.py")
MISSING = [name for name in BACKENDS if importlib.util.find_spec(name) is None]


@pytest.fixture(scope="module", params=["sgd", "adam"])
def results(request, tmp_path_factory):
    if MISSING:
        pytest.skip(f"not installed here: {MISSING}")
    folder = tmp_path_factory.mktemp("parity")
    for name in BACKENDS:
        run = subprocess.run(
            [sys.executable, str(WORKER), str(folder), request.param],
            env={**os.environ, "KERAS_BACKEND": name},
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr
    return {name: dict(np.load(folder / f"{name}.npz")) for name in BACKENDS}


@pytest.mark.parametrize("name", BACKENDS[1:])
def test_same_numbers(results, name):
    found, expected = results[name], results[BACKENDS[0]]
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        scale = max(1, np.abs(value).max())
        np.testing.assert_allclose(
            found[key], value, rtol=0, atol=1e-5 * scale, err_msg=key
        )


def test_training_changed_the_weights(results):
    moved = results[BACKENDS[0]]
    # All but a few: a bias before a batch normalization has no gradient.
    before = [key for key in moved if key.startswith("before")]
    still = [
        key
        for key in before
        if np.array_equal(moved[key], moved[key.replace("before", "after")])
    ]
    assert len(still) < len(before) / 5
