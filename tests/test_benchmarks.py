"""The benchmarks' parts, against independent ones; and each of them, cut short."""

import json
import os
import pathlib
import pickle
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
from keras import ops
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
# At the end: an installed package goes before the folder of that name there.
sys.path.append(str(ROOT))

from benchmarks import cifar, data, images, segmentation, study, together  # noqa: E402
from keras_gradres.optimizers import GAL  # noqa: E402

STUDIES = [
    "cifar",
    "convergence",
    "gal_ablation",
    "regression",
    "segmentation",
    "sine",
    "super_resolution",
]
DATA = os.environ.get(study.DATA)


def run(name, folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--out", folder, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("name", [*STUDIES, "cifar_large", "detection", "imagenet"])
def test_smoke(name, tmp_path):
    if name == "detection":
        pytest.importorskip("pycocotools")
    found = run(name, tmp_path)
    assert found.returncode == 0, found.stderr
    report = (tmp_path / f"{name}.md").read_text()
    assert "| --- |" in report
    assert (
        f"KERAS_BACKEND={keras.backend.backend()} python -m benchmarks.{name}" in report
    )
    with Image.open(tmp_path / f"{name}.png") as image:
        assert image.size[0] > 300


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


def test_missing_data_is_named(tmp_path):
    found = run("cifar", tmp_path, "--budget", "cpu", "--data", str(tmp_path))
    assert found.returncode != 0
    assert f"There is no 'cifar10' in {tmp_path}" in found.stderr
    with pytest.raises(FileNotFoundError, match="as --data or in the environment"):
        data.images(None, "set5")


@pytest.mark.skipif(not hasattr(ops.image, "ssim"), reason="Keras has it from 3.15 on")
def test_psnr_and_ssim_are_those_of_keras():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 256, (32, 40, 3)).astype("uint8")
    image = np.clip(truth + rng.normal(0, 9, truth.shape), 0, 255).astype("uint8")
    a, b = (images.luminance(x.astype("float64"))[2:-2, 2:-2] for x in (truth, image))
    expected = ops.psnr(a.astype("float32"), b.astype("float32"), 255.0)
    assert images.psnr(image, truth, 2) == pytest.approx(float(expected), rel=1e-5)
    a, b = (x[..., None].astype("float32") for x in (a, b))
    expected = ops.image.ssim(a, b, max_val=255.0, data_format="channels_last")
    assert images.ssim(image, truth, 2) == pytest.approx(float(expected), rel=1e-4)


def test_psnr_by_hand():
    # Two less in all colors is 2 (65.481 + 128.553 + 24.966) / 255 = 1.7176 less in
    # luminance: 20 log10(255 / 1.7176) = 43.43 dB; the edge does not count.
    truth = np.full((12, 12, 3), 100, "uint8")
    image = truth - 2
    image[0] = 0
    assert images.psnr(image, truth, 1) == pytest.approx(43.432, abs=1e-3)
    assert images.luminance(np.array([255.0, 255, 255])) == pytest.approx(235)
    assert images.luminance(np.zeros(3)) == 16


@pytest.mark.skipif(not DATA, reason=f"needs the folder of data in {study.DATA}")
@pytest.mark.parametrize(
    ("name", "psnr", "ssim"),
    # Bicubic x2 in the tables of super-resolution papers (as of arXiv 1707.02921).
    [("set5", 33.66, 0.9299), ("set14", 30.24, 0.8688), ("bsd100", 29.56, 0.8431)],
)
def test_bicubic_is_the_published_one(name, psnr, ssim):
    pictures = [images.cropped(picture, 2) for picture in data.images(DATA, name)]
    pairs = [(images.enlarged(images.reduced(p, 2), 2), p) for p in pictures]
    assert np.mean([images.psnr(*pair, 2) for pair in pairs]) == pytest.approx(
        psnr, abs=0.1
    )
    assert np.mean([images.ssim(*pair, 2) for pair in pairs]) == pytest.approx(
        ssim, abs=0.002
    )


def test_resizing():
    picture = np.arange(5 * 7 * 3).reshape(5, 7, 3).astype("uint8")
    assert images.cropped(picture, 2).shape == (4, 6, 3)
    assert images.reduced(picture[:4, :6], 2).shape == (2, 3, 3)
    assert images.enlarged(picture, 3).shape == (15, 21, 3)
    flat = np.full((8, 8, 3), 77, "uint8")
    np.testing.assert_array_equal(images.enlarged(images.reduced(flat, 4), 4), flat)


def test_image_folders(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype("uint8")
    for path in ("Set5/b.png", "Set5/a.png", "urban100/HR/c.bmp", "DIV2K/LR/d.png"):
        path = tmp_path / path
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture if path.stem != "a" else picture[:, :, 0]).save(path)
    (tmp_path / "DIV2K" / "DIV2K_train_HR").mkdir()
    Image.fromarray(picture[:3]).save(tmp_path / "DIV2K" / "DIV2K_train_HR" / "1.png")
    grey, color = data.images(tmp_path, "set5")
    np.testing.assert_array_equal(grey, np.repeat(picture[:, :, :1], 3, -1))
    np.testing.assert_array_equal(color, picture)
    np.testing.assert_array_equal(data.images(tmp_path, "urban100"), [picture])
    np.testing.assert_array_equal(data.images(tmp_path, "div2k"), [picture[:3]])
    assert data.has(tmp_path, "set5")
    assert not data.has(tmp_path, "set14")


def test_cifar_layouts(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (6, 32, 32, 3)).astype("uint8")
    y = rng.integers(0, 10, 6)
    (tmp_path / "npz" / "cifar10").mkdir(parents=True)
    np.savez(
        tmp_path / "npz" / "cifar10" / "a.npz",
        x_train=x[:4],
        y_train=y[:4, None].astype("uint8"),
        x_test=x[4:],
        y_test=y[4:],
    )
    batches = tmp_path / "tar" / "cifar-10-batches-py"
    batches.mkdir(parents=True)
    # As its authors pack it: a row of all red, all green and all blue values.
    rows = x.transpose(0, 3, 1, 2).reshape(6, -1)
    for name, part in (
        ("data_batch_1", slice(2)),
        ("data_batch_2", slice(2, 4)),
        ("test_batch", slice(4, 6)),
    ):
        content = {b"data": rows[part], b"labels": y[part].tolist()}
        (batches / name).write_bytes(pickle.dumps(content))
    for layout in ("npz", "tar"):
        (a, b), (c, d) = data.cifar10(tmp_path / layout)
        np.testing.assert_array_equal(np.concatenate([a, c]), x)
        np.testing.assert_array_equal(np.concatenate([b, d]), y)


def test_tables(tmp_path):
    (tmp_path / "boston").mkdir()
    (tmp_path / "boston" / "b.csv").write_text('2,2,,\n"A","B","MEDV"\n1,2,3\n4,5,6\n')
    x, y = data.boston(tmp_path)
    assert x.tolist() == [[1, 2], [4, 5]]
    assert y.tolist() == [[3], [6]]
    (tmp_path / "california").mkdir()
    np.savez(tmp_path / "california" / "c.npz", data=np.ones((3, 2)), target=[1, 2, 3])
    x, y = data.california(tmp_path)
    assert (x.shape, y.tolist()) == ((3, 2), [[1], [2], [3]])


@pytest.mark.skipif(not DATA, reason=f"needs the folder of data in {study.DATA}")
def test_real_data():
    (x, y), (x_test, y_test) = data.cifar10(DATA)
    assert x.shape[1:] == x_test.shape[1:] == (32, 32, 3)
    assert len(x) == len(y)
    assert set(y) == set(y_test) == set(range(10))
    assert [a.shape for a in data.boston(DATA)] == [(506, 13), (506, 1)]
    assert [a.shape for a in data.california(DATA)] == [(20640, 8), (20640, 1)]
    assert len(data.images(DATA, "t91")) == 91


def test_images_and_masks(tmp_path):
    for folder, value in (("images", 9), ("masks", 2)):
        (tmp_path / folder).mkdir()
        for name in ("a", "b") if folder == "images" else ("b",):
            array = np.full((3, 4), value, "uint8")
            Image.fromarray(array).save(tmp_path / folder / f"{name}.png")
    ((image, mask),) = data.images_and_masks(tmp_path)
    assert image.shape == (3, 4, 3)
    assert mask.tolist() == [[2] * 4] * 3


def test_made_up_shapes():
    image, mask = segmentation.made_up(np.random.default_rng(0))
    assert image.shape == (64, 64, 3)
    assert mask.shape == (64, 64)
    assert set(np.unique(mask)) <= {0, 1, 2, 3}


def test_augmentation_moves_and_mirrors():
    x = np.arange(8 * 8).reshape(1, 8, 8, 1).astype("float32").repeat(50, 0) + 1
    padded = np.pad(x[0, :, :, 0], 4)
    allowed = {
        window[:, ::turn].tobytes()
        for turn in (1, -1)
        for window in np.lib.stride_tricks.sliding_window_view(padded, (8, 8)).reshape(
            -1, 8, 8
        )
    }
    found = cifar.augmented(x, np.random.default_rng(0))
    assert {image[:, :, 0].tobytes() for image in found} <= allowed
    assert len({image.tobytes() for image in found}) > 20


def test_statistics_by_hand():
    # Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3), t = 3.464; p of Student's
    # t with 2 degrees of freedom is 1 - t / sqrt(t^2 + 2) = 0.0742.
    mean, error, difference, p = study.statistics([2.0, 4, 6], [1.0, 2, 3])
    assert (mean, difference) == (4, 2)
    assert error == pytest.approx(2 / np.sqrt(3))
    assert p == pytest.approx(1 - np.sqrt(12) / np.sqrt(14))
    # Welch: t = 2 / sqrt(4 / 3 + 1 / 3), with (5/3)^2 / (16/18 + 1/18) = 2.94 degrees.
    *_, p = study.statistics([2.0, 4, 6], [1.0, 2, 3], paired=False)
    assert p == pytest.approx(0.220, abs=1e-3)
    *_, p = study.statistics([1.0, 2, 3], [1.0, 2, 3])
    assert np.isnan(p)


def make(seed):
    """A perceptron with a GAL, all of it from one seed."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((3,))
    x = keras.layers.Dense(8, activation="tanh")(inputs)
    x = keras.layers.Dropout(0.1)(keras.layers.BatchNormalization()(x))
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    inner = keras.optimizers.Adam(1e-2)
    gal = GAL(inner, alpha=0.3, seed=seed, output_shapes=[(None, 2)])
    model.compile(gal, gal.loss("mse"))
    return model


def make_data(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(50, 3)).astype("float32")
    return (x, np.sin(x[:, :2])), rng.normal(size=(4, 3)).astype("float32")


def test_together_is_fit():
    if keras.backend.backend() != "jax":
        pytest.skip("elsewhere the seeds are trained by fit")
    arguments = {"steps": 12, "batch_size": 16, "evaluations": 3}
    bar = types.SimpleNamespace(update=lambda n: moved.append(n))
    moved: list = []
    together_models, found = together.train(
        make, range(3), make_data, bar=bar, **arguments
    )
    assert sum(moved) == 3 * 12
    for seed in range(3):
        batches = together._batches(50, 12, 16, seed)
        model = make(seed)
        parts = [make_data(seed)]
        model.optimizer.build(model.trainable_variables)
        (expected,) = together._by_fit([model], parts, [batches], [0, 4, 8, 12], None)
        assert expected.keys() == found[seed].keys()
        for name, values in expected.items():
            np.testing.assert_allclose(
                found[seed][name], values, rtol=2e-3, atol=1e-5, err_msg=name
            )
        pairs = zip(
            [*model.variables, *model.optimizer.variables],
            [
                *together_models[seed].variables,
                *together_models[seed].optimizer.variables,
            ],
            strict=True,
        )
        for a, b in pairs:
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=2e-3, atol=1e-4)


def test_batches_are_epochs():
    batches = together._batches(10, 7, 3, seed=0)
    assert batches.shape == (7, 3)
    for epoch in (batches[:3], batches[3:6]):
        assert len(set(epoch.ravel())) == 9


@pytest.mark.parametrize("name", STUDIES)
def test_readme_shows_the_results(name):
    results = ROOT / "benchmarks" / "results"
    readme = (ROOT / "benchmarks" / "README.md").read_text()
    report = (results / f"{name}.md").read_text()
    tables = [part for part in report.split("\n\n") if part.startswith("|")]
    assert tables
    for table in tables:
        assert table in readme
    assert f"results/{name}.png" in readme
    assert (results / f"{name}.png").exists()
