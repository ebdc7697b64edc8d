"""Each study, cut short; and what all have in common."""

import json
import os
import subprocess
import sys

import keras
import pytest
from helpers import ROOT, require_extra, require_studies

require_studies("PIL", "matplotlib", "scipy", "skimage", "sklearn", "tqdm")

from PIL import Image  # noqa: E402

from benchmarks import data  # noqa: E402

# Where tox runs a study's smoke; elsewhere it is `separate`. It shows that the study's
# machinery works, which is the same on each backend.
QUICK = {
    "cifar": "torch",
    "convergence": "torch",
    "gal_ablation": "jax",
    "gal_mechanism": "torch",
    "regression": "tensorflow",
    "segmentation": "tensorflow",
    "sine": "jax",
    "super_resolution": "tensorflow",
    "theory": "torch",
}
# These take longer, or repeat the machinery of others.
SLOW = [
    "cifar_large",
    "cifar_smooth",
    "detection",
    "feature_adjustment",
    "gal_alternatives",
    "imagenet",
    "neural_field",
    "paper_split",
    "sine_relu",
    "super_resolution_smooth",
]


def marks_of(name):
    here = keras.backend.backend() == QUICK.get(name)
    return [pytest.mark.slow if here else pytest.mark.separate]


def run(name, folder, *arguments):
    # On JAX most of the time goes into compiling; what is alike is compiled once.
    compiled = {
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--out", folder, *arguments],
        cwd=ROOT,
        env={**compiled, **os.environ},  # tox has a folder for all that it runs.
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=marks_of(name)) for name in (*QUICK, *SLOW)],
)
def test_smoke(name, tmp_path):
    if name == "detection":
        require_extra("bench", "pycocotools")
    found = run(name, tmp_path)
    assert found.returncode == 0, found.stderr
    report = (tmp_path / f"{name}.md").read_text()
    assert "| --- |" in report
    assert (
        f"KERAS_BACKEND={keras.backend.backend()} python -m benchmarks.{name}" in report
    )
    with Image.open(tmp_path / f"{name}.png") as image:
        assert image.size[0] > 300


@pytest.mark.slow
def test_resumes_where_it_was_interrupted(tmp_path):
    assert run("convergence", tmp_path).returncode == 0
    path = tmp_path / "convergence.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    records = [json.loads(line) for line in lines]
    assert sum("environment" in record for record in records) == 1
    path.write_text("".join(lines[:-2]) + lines[-2][:50])  # Within a write.
    assert run("convergence", tmp_path).returncode == 0
    resumed = [json.loads(line) for line in path.read_text().splitlines()]
    assert resumed[: len(lines) - 2] == records[:-2]
    assert "environment" in resumed[len(lines) - 2]
    assert [r["run"] for r in resumed[len(lines) - 1 :]] == [
        r["run"] for r in records[-2:]
    ]
    # Only the seed that is new.
    assert run("convergence", tmp_path, "--seeds", "3").returncode == 0
    added = [json.loads(line) for line in path.read_text().splitlines()[len(resumed) :]]
    assert {r["run"]["seed"] for r in added if "run" in r} == {2}
    # Another backend's results are not taken for one's own.
    backend = keras.backend.backend()
    path.write_text(path.read_text().replace(f'"{backend}"', '"another"'))
    found = run("convergence", tmp_path)
    assert found.returncode != 0
    assert "has results of ['another']" in found.stderr


@pytest.mark.slow
def test_missing_data_is_named(tmp_path):
    found = run("cifar", tmp_path, "--budget", "cpu", "--data", str(tmp_path))
    assert found.returncode != 0
    assert f"There is no 'cifar10' in {tmp_path}" in found.stderr
    with pytest.raises(FileNotFoundError, match="as --data or in the environment"):
        data.images(None, "set5")
