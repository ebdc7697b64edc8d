"""The example of the README runs; the loops of the examples do what `fit` does."""

import functools
import re
import runpy
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers import ROOT, require_extra

from keras_gradres.optimizers import GAL

FOLDER = ROOT / "examples"
SCRIPT = FOLDER / f"custom_loop_{keras.backend.backend()}.py"


def _blocks_of_the_readme():
    text = (FOLDER.parent / "README.md").read_text()
    return re.findall("```python\n(.*?)```", text, re.DOTALL)


def _run(code):
    names: dict = {}
    exec(code, names)
    return names


@pytest.mark.slow
def test_first_lines_of_the_readme_learn():
    code = _blocks_of_the_readme()[0]
    assert len(code.strip().splitlines()) <= 16
    names = _run(code)
    error = names["model"].evaluate(names["x"], names["y"], verbose=0)
    assert error < 0.05 * np.var(names["y"])


@pytest.mark.slow
def test_gal_of_the_readme():
    (code,) = [c for c in _blocks_of_the_readme() if "Diagnostics" in c]
    names = _run(code)
    history = names["model"].history.history
    assert history["loss"][-1] < 0.05 * np.var(names["y"])
    assert history["gal_accepted"][-1] > 0
    assert "mix_gradient_residual_dense" in history


def test_custom_loop_is_fit(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    example = runpy.run_path(str(SCRIPT))
    batches = example["make_data"](steps=10)

    def make():
        inner = keras.optimizers.SGD(0.1, momentum=0.9)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        gal = GAL(inner, alpha=0.3, seed=0, output_shapes=[(None, 3)])
        return example["make_model"](), gal, gal.loss(loss)

    model, gal, loss = make()
    losses = example["train"](model, gal, loss, batches)
    fitted, fitted_gal, loss = make()
    fitted.compile(fitted_gal, loss)
    for (x, y), found in zip(batches, losses, strict=True):
        fitted.reset_metrics()
        value = fitted.train_on_batch(x, y)
        np.testing.assert_allclose(float(found), value, rtol=1e-4)
    pairs = zip(
        [*model.variables, *gal.variables],
        [*fitted.variables, *fitted_gal.variables],
        strict=True,
    )
    for a, b in pairs:
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-4, atol=1e-5)
    assert gal.diagnostics["accepted"] > 0


@pytest.mark.slow
def test_converted_resnet(monkeypatch, capsys):
    require_extra("examples", "PIL", "scipy", "sklearn")
    # Without the folder of data it takes the digits.
    monkeypatch.delenv("KERAS_GRADRES_DATA", raising=False)
    monkeypatch.syspath_prepend(FOLDER)
    example = runpy.run_path(str(FOLDER / "convert_resnet.py"))
    data = example["make_data"](samples=128)
    assert [x.shape for x, _ in data] == [(128, 16, 16, 3), (500, 16, 16, 3)]
    make = functools.partial(example["make_model"], width=2, blocks=1)
    monkeypatch.setitem(example["compare"].__globals__, "make_model", make)
    errors, ratio = example["compare"](data, epochs=1, further=1, seeds=1)
    printed = capsys.readouterr().out
    assert "3 of 3 sums are converted" in printed
    assert "the same outputs before the first step: True" in printed
    assert errors.shape == (1, 3)
    assert ratio > 0
    assert "mean of 1 seeds" in example["verdict"](errors, ratio)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["custom_loop", "distributed"])
def test_script_trains(kind):
    script = FOLDER / f"{kind}_{keras.backend.backend()}.py"
    run = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    accuracy = re.search(r"accuracy on new points: ([0-9.]+) %", run.stdout)
    assert float(accuracy[1]) > 95


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gal_regression", "gal_classification"])
def test_comparison(name, tmp_path):
    """Cut short; the two do the same on each backend, with the same code."""
    if keras.backend.backend() != "jax":
        pytest.skip("one backend is enough: all three would run the same lines")
    require_extra("examples", "matplotlib", "sklearn", "scipy")
    picture = tmp_path / "curves.png"
    command = [sys.executable, FOLDER / f"{name}.py", "--seeds", "2", "--epochs", "2"]
    run = subprocess.run(
        [*command, "--output", picture], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    rows = [line.split("|") for line in run.stdout.splitlines() if line[:1] == "|"]
    _, _, *numbers = rows
    assert len(numbers) >= 3
    # Of two seeds the worst is the mean + spread / sqrt(2).
    for _, _, mean, spread, worst, *_ in numbers:
        expected = float(mean) + float(spread) / np.sqrt(2)
        assert float(worst) == pytest.approx(expected, abs=2e-3)
    assert picture.stat().st_size > 10_000
