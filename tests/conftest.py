import contextlib
import importlib.util
import mmap
import os
import pathlib

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
# On a CPU with AVX2 and without AVX-512, PyTorch 2.13 writes outside of its memory in
# the gradient of a convolution of size 1 and stride 2 with fewer than 8 channels.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX")
# PyTorch's compiler otherwise starts processes of its own, which import PyTorch.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

# Most of a test's time on JAX, and much of it on TensorFlow, is that of XLA compiling
# what runs once. Without its optimizations it compiles in a third of the time.
COMPILE_FAST = {
    "xla_backend_optimization_level": "0",
    # Each operation otherwise sets up a compiler of its own kind, MLIR's.
    "xla_cpu_use_fusion_emitters": "false",
}
XLA = {"jaxlib": "libjax_common.so", "tensorflow": "libtensorflow_cc.so*"}


def flags_of_xla():
    """Those of `COMPILE_FAST` that each XLA here has: an unknown one ends its process.

    None on a GPU, which is tested as it is used.
    """
    known = list(COMPILE_FAST)
    for package, library in XLA.items():
        found = importlib.util.find_spec(package)
        if found is None:
            continue
        path = next(pathlib.Path(found.origin).parent.glob(library), None)
        if path is None:
            return ""
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            known = [name for name in known if content.find(name.encode()) >= 0]
    on_cpu = not os.path.exists("/dev/nvidiactl")
    return " ".join(f"--{name}={COMPILE_FAST[name]}" for name in known if on_cpu)


# Before the import of any backend, and for all processes that the tests start.
if "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = flags_of_xla()


def pytest_report_header(config):
    """How long it takes, where all is to run."""
    selected = config.option.keyword or not all(map(os.path.isdir, config.args))
    if not selected:
        return (
            "duration: with `-n 2` on two cores, 8 to 13 minutes on one backend; "
            '-m "not slow" takes a minute and a half on PyTorch, 7 minutes on JAX'
        )


def pytest_collection_modifyitems(items):
    import keras

    for item in items:
        if item.get_closest_marker("separate"):
            item.add_marker("slow")

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
