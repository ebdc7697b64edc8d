import contextlib
import os

import pytest
from nightly import MAY_FAIL

BACKENDS = ("jax", "tensorflow", "torch")

if os.environ.get("KERAS_BACKEND") not in BACKENDS:
    raise pytest.UsageError(
        "Set the environment variable KERAS_BACKEND to one of "
        f"{BACKENDS} to run the tests, or run `tox`, which does. "
        f"Received: KERAS_BACKEND={os.environ.get('KERAS_BACKEND')}"
    )
# Full precision in matrix products on accelerators, set before the import.
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")
os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def pytest_report_header(config):
    """How long it takes, where all is to run."""
    selected = config.option.keyword or not all(map(os.path.isdir, config.args))
    if not selected:
        return (
            "duration: 5 to 15 minutes on one backend, with `-n 2` on two idle cores; "
            "JAX takes longest, and half of that where its compilations are cached"
        )


def pytest_collection_modifyitems(items):
    import keras

    if "dev" not in keras.__version__:
        return
    reasons = {
        name: reason
        for name, backends, reason in MAY_FAIL
        if os.environ["KERAS_BACKEND"] in backends
    }
    for item in items:
        name = item.nodeid.rpartition("/")[2]
        if name in reasons:
            item.add_marker(pytest.mark.xfail(reason=reasons[name], strict=False))


@pytest.fixture
def dtype_policy():
    """Sets the policy of Keras within a `with` statement; then the former is back."""
    import keras

    @contextlib.contextmanager
    def use(name):
        former = keras.config.dtype_policy()
        keras.config.set_dtype_policy(name)
        try:
            yield
        finally:
            keras.config.set_dtype_policy(former)

    return use


@pytest.fixture(autouse=True)
def _fresh_keras():
    import keras

    # Not its garbage collection, which takes longer than most tests.
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
