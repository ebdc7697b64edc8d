"""What importing the package does, and that it is what was installed."""

import importlib.metadata
import json
import os
import pathlib
import re
import subprocess
import sys

import keras
import pytest
from conftest import BACKENDS
from helpers import ROOT

import keras_gradres

CODE = """
import json, os, random, sys, time, warnings
import keras, numpy as np
keras.backend.backend()
before = set(sys.modules)
def state():
    return [dict(os.environ), keras.config.floatx(), str(keras.config.dtype_policy()),
            keras.config.image_data_format(), np.geterr(), random.getstate()[1][:3],
            np.random.get_state()[1][:3].tolist(), len(warnings.filters)]
old, start = state(), time.process_time()
import keras_gradres
seconds = time.process_time() - start
print(json.dumps([sorted(set(sys.modules) - before), seconds, state() == old]))
"""


@pytest.fixture(scope="module")
def imported():
    run = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=True
    )
    return json.loads(run.stdout)


@pytest.mark.slow
def test_import_adds_only_the_package(imported):
    # Neither a backend (the active one is there with Keras) nor anything else.
    modules, _, _ = imported
    foreign = {name.split(".")[0] for name in modules} - {"keras_gradres"}
    assert not foreign & (set(BACKENDS) - {keras.backend.backend()})
    assert not {name for name in modules if name.startswith("keras.")}
    active = keras.backend.backend()
    inner = {name for name in modules if name.startswith("keras_gradres.backend.")}
    assert inner == {f"keras_gradres.backend.{active}"}


@pytest.mark.slow
def test_import_has_no_side_effects_and_takes_no_time(imported):
    # Keras itself takes seconds.
    _, seconds, unchanged = imported
    assert unchanged
    assert seconds < 0.2


def test_other_backends_are_absent():
    # tox gives each backend an environment without the others; elsewhere, skip.
    absent = os.environ.get("KERAS_GRADRES_ONLY_BACKEND")
    if not absent:
        pytest.skip("KERAS_GRADRES_ONLY_BACKEND is set by tox")
    for name in set(BACKENDS) - {keras.backend.backend()}:
        with pytest.raises(ImportError):
            __import__(name)


def test_installed_package_is_tested():
    if not os.environ.get("TOX_ENV_DIR"):
        pytest.skip("run by tox")
    folder = pathlib.Path(keras_gradres.__file__).parent
    assert "site-packages" in folder.parts
    assert (folder / "py.typed").exists()


def test_backend_must_be_chosen():
    environment = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", pathlib.Path(__file__)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode != 0
    assert "Set the environment variable KERAS_BACKEND" in run.stdout + run.stderr


def test_nothing_private_and_no_backend_outside_its_place():
    root = pathlib.Path(keras_gradres.__file__).parent
    for path in root.rglob("*.py"):
        text = path.read_text()
        assert "keras.src" not in text
        if path.parent.name != "backend":
            assert not any(f"import {name}" in text for name in BACKENDS)


def test_long_description_has_no_relative_link():
    # A package index shows it, where no file stands beside it.
    try:
        metadata = importlib.metadata.metadata("keras-gradres")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package is not installed: tox installs it")
    text = metadata["Description"] or metadata.get_payload()
    assert text.startswith("# keras_gradres")
    # In parentheses, by reference, and in HTML.
    links = re.findall(
        r"\]\(([^)\s]+)|^\[[^]]+\]:\s*(\S+)|(?:href|src)=.([^'\"]+)", text, re.M
    )
    links = ["".join(link) for link in links]
    assert len(links) > 10
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    anchors = {"#" + title.lower().replace(" ", "-") for title in titles}
    assert not [x for x in links if x not in anchors and not x.startswith("https://")]


def test_citations_are_of_this_version():
    for name, pattern in (
        ("CITATION.cff", r"^version: (\S+)$"),
        ("README.md", r"^  version = \{(\S+)\},$"),
    ):
        (version,) = re.findall(pattern, (ROOT / name).read_text(), re.M)
        assert version == keras_gradres.__version__
