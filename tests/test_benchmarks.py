"""Each study, cut short; and what all have in common."""

import json
import os
import subprocess
import sys
import typing

import keras
import pytest
from helpers import ROOT, require_extra, require_studies

require_studies("PIL", "matplotlib", "scipy", "skimage", "sklearn", "tqdm")

from PIL import Image  # noqa: E402

from benchmarks import data  # noqa: E402
from benchmarks.cifar import Cifar  # noqa: E402
from benchmarks.curves import Panel  # noqa: E402
from benchmarks.study import Study  # noqa: E402
from benchmarks.tables import Compared, last  # noqa: E402

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


class Halving(Study):
    """A loss that is halved in each step; nothing is trained."""

    variants: typing.ClassVar = {"slow": 1.0, "fast": 2.0}
    baseline = "slow"
    budgets: typing.ClassVar = {"smoke": {"seeds": 2, "steps": 3}}
    columns = (Compared("loss", last("loss"), 4),)
    panels = (Panel("loss", "loss"),)

    def train(self, run, bar):
        trained.append((run["variant"], run["seed"]))
        rate = self.variants[run["variant"]]
        return {"loss": [(1 + run["seed"]) / 2 ** (rate * i) for i in range(4)]}


trained: list = []


@pytest.fixture
def halving(tmp_path, monkeypatch):
    """A function that runs it as its command does, and returns what it trains."""
    monkeypatch.setattr(sys.modules[__name__].__spec__, "name", "benchmarks.halving")

    def main(*arguments):
        trained.clear()
        monkeypatch.setattr(sys, "argv", ["", "--out", str(tmp_path), *arguments])
        Halving.main()
        return list(trained)

    return main


def test_resumes_where_it_was_interrupted(halving, tmp_path):
    halving()
    path = tmp_path / "halving.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    records = [json.loads(line) for line in lines]
    assert sum("environment" in record for record in records) == 1
    path.write_text("".join(lines[:-2]) + lines[-2][:50])  # Within a write.
    assert halving() == [("slow", 1), ("fast", 1)]
    resumed = [json.loads(line) for line in path.read_text().splitlines()]
    assert resumed[: len(lines) - 2] == records[:-2]
    assert "environment" in resumed[len(lines) - 2]
    assert [r["run"] for r in resumed[len(lines) - 1 :]] == [
        r["run"] for r in records[-2:]
    ]
    assert halving() == []
    # Only the seed that is new.
    assert halving("--seeds", "3") == [("slow", 2), ("fast", 2)]


def test_results_of_another_backend_are_not_taken_for_ones_own(halving, tmp_path):
    halving()
    path = tmp_path / "halving.jsonl"
    backend = keras.backend.backend()
    path.write_text(path.read_text().replace(f'"{backend}"', '"another"'))
    with pytest.raises(ValueError, match=r"has results of \['another'\]"):
        halving()


def test_report(halving, tmp_path):
    """1/8 and 2/8 at the end of the slow one, 1/64 and 2/64 of the fast one."""
    halving()
    heading, table, footnote, made = (tmp_path / "halving.md").read_text().split("\n\n")
    assert heading == "2 seeds"
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    assert [row[:2] for row in rows] == [
        ["slow", "0.1875 ± 0.0625"],
        ["fast", "0.0234 ± 0.0078"],
    ]
    assert footnote.startswith("± is the standard error; p that of the paired t-test")
    backend = keras.backend.backend()
    assert f"`KERAS_BACKEND={backend} python -m benchmarks.halving --out" in made
    with Image.open(tmp_path / "halving.png") as image:
        assert image.size[0] > 300


def test_missing_data_is_named(tmp_path):
    folder = str(tmp_path)
    study = Cifar(["--budget", "cpu", "--data", folder, "--out", folder])
    with pytest.raises(FileNotFoundError, match=f"There is no 'cifar10' in {folder}"):
        study.load()
    with pytest.raises(FileNotFoundError, match="as --data or in the environment"):
        data.images(None, "set5")
