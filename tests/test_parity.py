"""The same weights and data give the same numbers on every backend.

One backend makes a model file. Each, in a process of its own, loads it, predicts, and
trains one step; all three at the same time. Skipped where not all are installed.
"""

import importlib.util
import pathlib

import numpy as np
import pytest
from conftest import BACKENDS
from helpers import run_together
from parity_worker import OPTIMIZERS, PARTS, save_model

# Three processes, each of which imports its backend and compiles with it.
pytestmark = pytest.mark.slow
WORKER = pathlib.Path(__file__).with_name("parity_worker.py")
MISSING = [name for name in BACKENDS if importlib.util.find_spec(name) is None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where each backend has written its numbers."""
    if MISSING:
        pytest.skip(f"not installed here: {MISSING}")
    folder = tmp_path_factory.mktemp("parity")
    save_model(folder / "model.keras")
    run_together(([WORKER, folder], {"KERAS_BACKEND": name}) for name in BACKENDS)
    return folder


def numbers_of(folder, name, part):
    return dict(np.load(folder / f"{name}-{part}.npz"))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", BACKENDS[1:])
def test_same_numbers(folder, name, part):
    found = numbers_of(folder, name, part)
    expected = numbers_of(folder, BACKENDS[0], part)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        scale = max(1, np.abs(value).max())
        np.testing.assert_allclose(
            found[key], value, rtol=0, atol=1e-5 * scale, err_msg=key
        )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_changed_the_weights(folder, optimizer):
    moved = numbers_of(folder, BACKENDS[0], optimizer)
    # All but a few: a bias before a batch normalization has no gradient.
    before = [key for key in moved if key.startswith("before")]
    still = [
        key
        for key in before
        if np.array_equal(moved[key], moved[key.replace("before", "after")])
    ]
    assert len(still) < len(before) / 5
