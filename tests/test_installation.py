"""What `pip install` of the wheel and of the sdist gives, in an empty environment.

`tox run -e package` runs this. It downloads a backend for each of the two, so that the
other environments leave it out.
"""

import json
import os
import pathlib
import subprocess
import sys
import tarfile
import venv
import zipfile

import pytest
from helpers import ROOT

import keras_gradres

pytest.importorskip("twine", reason="`tox run -e package` runs it, which has twine")

pytestmark = pytest.mark.separate
# tanh(x w) with w = 1 has the direction g = 1, and s = sigmoid(0) = 1/2.
CODE = """
import json, pathlib
import keras, numpy
import keras_gradres
dense = keras.layers.Dense(1, "tanh", kernel_initializer="ones")
layer = keras_gradres.layers.GradientResidual(dense)
y = keras.ops.convert_to_numpy(layer(numpy.array([[0.5]], "float32")))
gal = keras_gradres.optimizers.GAL(keras.optimizers.SGD(0.1))
model = keras.Sequential([keras.Input((1,)), layer])
model.compile(gal, gal.loss("mse"))
model.fit(numpy.ones((4, 1)), numpy.zeros((4, 1)), verbose=0)
folder = pathlib.Path(keras_gradres.__file__).parent
print(json.dumps([
    float(y[0, 0]), int(gal.iterations), keras_gradres.__version__, str(folder),
    (folder / "py.typed").exists(),
]))
"""


def _run(*command, **arguments):
    run = subprocess.run(command, capture_output=True, text=True, **arguments)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The files that a release uploads, by kind."""
    folder = tmp_path_factory.mktemp("dist")
    # The wheel is made from the sdist, as a release makes it.
    _run(sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT))
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return {"wheel": wheel, "sdist": sdist}


def test_description_renders(built):
    _run(sys.executable, "-m", "twine", "check", "--strict", *map(str, built.values()))


def test_wheel_holds_the_package_alone(built):
    with zipfile.ZipFile(built["wheel"]) as file:
        names = file.namelist()
    folders = {name.split("/")[0] for name in names}
    version = keras_gradres.__version__
    assert folders == {"keras_gradres", f"keras_gradres-{version}.dist-info"}
    modules = {name for name in names if name.endswith(".py")}
    here = (ROOT / "keras_gradres").rglob("*.py")
    assert modules == {path.relative_to(ROOT).as_posix() for path in here}


def test_sdist_holds_tests_studies_and_examples(built):
    with tarfile.open(built["sdist"]) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert names >= {
        "tests/conftest.py",
        "tests/gal_reference.npz",
        "benchmarks/study.py",
        "benchmarks/results/sine.md",
        "examples/quickstart.py",
        "docs/choosing.md",
        "tox.ini",
    }
    assert not [name for name in names if name.startswith((".github", ".tox"))]


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_installs_and_trains(kind, built, tmp_path):
    venv.create(tmp_path, with_pip=True)
    scripts = tmp_path / ("Scripts" if sys.platform == "win32" else "bin")
    python = str(scripts / "python")
    _run(python, "-m", "pip", "install", "--quiet", f"{built[kind]}[jax]")
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    environment.pop("PYTHONPATH", None)
    output = _run(python, "-c", CODE, env=environment, cwd=tmp_path)
    y, steps, version, folder, typed = json.loads(output.splitlines()[-1])
    # tanh(0.5) + 0.5 * 0.5 + 0.5 * 1.
    assert y == pytest.approx(0.4621172 + 0.25 + 0.5, abs=1e-6)
    assert steps == 1
    assert version == keras_gradres.__version__
    assert pathlib.Path(folder).is_relative_to(tmp_path)
    assert typed
