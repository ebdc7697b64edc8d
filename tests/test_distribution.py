"""Several devices give the numbers of one, with each engine for them.

What a device computes of its own part of the batch is another matter: the granularities
"batch" and "reference", the drift, statistics that are not synchronized. There, the
devices must agree with each other, and the numbers are near those of one device.
"""

import pathlib
import socket

import keras
import numpy as np
import pytest
from helpers import run_together

# Each engine has processes of its own.
pytestmark = pytest.mark.slow
WORKER = pathlib.Path(__file__).with_name("distribution_worker.py")
BACKEND = keras.backend.backend()
CASES = [
    "layers",
    "normalized layers",
    "lookahead",
    "adabound",
    "sgd",
    "adam",
    "two outputs",
]
LOCAL = {"batch": 2e-4, "reference": 2e-2}


def _run(folder, engine, devices, ranks=()):
    """Runs the worker, in one process or in one for each rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    arguments = [WORKER, folder, engine, str(devices)]
    run_together(
        ([*arguments, *more], {"OMP_NUM_THREADS": "1"})
        for more in ([[str(rank), port] for rank in ranks] or [[]])
    )
    return {path.stem: dict(np.load(path)) for path in folder.glob("*.npz")}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each engine has trained, and one device."""
    folder = tmp_path_factory.mktemp("devices")
    if BACKEND == "jax":
        return _run(folder, "jax_devices", 4)
    if BACKEND == "tensorflow":
        return _run(folder, "tensorflow_devices", 2)
    _run(folder, "torch_one", 1)
    return _run(folder, "torch_ranks", 2, ranks=range(2))


def _of(found, case):
    prefix = f"{case}/"
    return {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}


def _assert_near(found, one, atol, names=""):
    compared = [name for name in one if name.startswith(names)]
    assert compared
    for name in compared:
        # One device has the drift of the whole batch.
        if not (name.startswith("drift") and BACKEND != "jax"):
            np.testing.assert_allclose(found[name], one[name], 0, atol, err_msg=name)


ENGINES = {
    "jax": ["data parallel", "model parallel"],
    "tensorflow": ["mirrored"],
    "torch": ["fit 0", "fit 1"],
}[BACKEND]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", CASES)
def test_devices_train_as_one(found, case, engine):
    if BACKEND == "torch" and case == "normalized layers":
        pytest.skip("Keras does not synchronize BatchNormalization with PyTorch")
    _assert_near(_of(found[engine], case), _of(found["one"], case), 1e-6)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", LOCAL)
def test_granularities_of_the_part_of_a_device(found, case, engine):
    atol = 1e-6 if BACKEND == "jax" else LOCAL[case]
    _assert_near(_of(found[engine], case), _of(found["one"], case), atol)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_step_that_is_not_finite_on_one_device(found, engine):
    # The last of eight: no device trains theta in it, which is as before that step.
    several, one = _of(found[engine], "overflow"), _of(found["one"], "overflow")
    assert several["dropped"] == one["dropped"] == 1
    _assert_near(several, one, 1e-6, names="theta")
    # The other device has adjusted its part of the model's gradient.
    _assert_near(several, one, 1e-6 if BACKEND == "jax" else 2e-2, names="weight")


if BACKEND == "torch":

    def test_ranks_are_equal_to_the_last_bit(found):
        for way in ("fit", "loop", "unlike"):
            first, second = found[f"{way} 0"], found[f"{way} 1"]
            for name in first:
                # The statistics of a rank are of its own batches.
                if not name.startswith("normalized layers/weight"):
                    np.testing.assert_array_equal(first[name], second[name], name)

    @pytest.mark.parametrize("case", ["sgd", "adam"])
    def test_custom_loop(found, case):
        _assert_near(_of(found["loop 0"], case), _of(found["one"], case), 1e-6)

    def test_networks_that_the_ranks_make_unlike(found):
        # All take those of the first, which are those of one process.
        _assert_near(_of(found["unlike 1"], "sgd"), _of(found["one"], "sgd"), 1e-6)

    def test_adjustment_networks_are_trained(found):
        # Else their being equal shows nothing.
        moved = _of(found["one"], "sgd")["theta_1"]  # A bias, which starts at zero.
        assert np.abs(moved).max() > 1e-5


if BACKEND == "jax":

    def test_two_processes(found, tmp_path):
        ranks = _run(tmp_path, "jax_processes", 2, ranks=range(2))
        for case in ("normalized layers", "sgd", "two outputs"):
            first, second = (_of(ranks[f"rank {rank}"], case) for rank in range(2))
            _assert_near(first, _of(found["one"], case), 1e-6)
            for name in first:
                np.testing.assert_array_equal(first[name], second[name], name)


if BACKEND == "tensorflow":

    def test_fifty_times_the_same(found):
        # Collectives in another order on another device would give another result.
        results = found["repeated"]["arr_0"]
        assert len(results) == 50
        np.testing.assert_allclose(results, results[:1].repeat(50, 0), 0, 1e-6)

    def test_four_devices(tmp_path):
        several = _run(tmp_path, "tensorflow_devices", 4)
        for case in ("adam", "two outputs"):
            one = _of(several["one"], case)
            _assert_near(_of(several["mirrored"], case), one, 1e-6)
