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
from helpers import require_extra
from keras import ops

ROOT = pathlib.Path(__file__).parents[1]
# At the end: an installed package goes before the folder of that name there.
sys.path.append(str(ROOT))

require_extra("bench", "PIL", "matplotlib", "scipy", "skimage", "sklearn", "tqdm")

from PIL import Image  # noqa: E402

from benchmarks import (  # noqa: E402
    cifar,
    coordinates,
    data,
    feature_adjustment,
    feature_network,
    fields,
    gal_optimum,
    images,
    neural_field,
    segmentation,
    shapes,
    sine_report,
    sine_tasks,
    study,
    theorems,
    together,
    tuned,
)
from keras_gradres.layers import GradientResidual  # noqa: E402
from keras_gradres.optimizers import GAL  # noqa: E402

QUICK = [
    "cifar",
    "convergence",
    "gal_ablation",
    "gal_mechanism",
    "regression",
    "segmentation",
    "sine",
    "super_resolution",
    "theory",
]
# The smokes of these take longer, or repeat the machinery of others.
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
DATA = os.environ.get(study.DATA)


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
    [
        *QUICK,
        *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
    ],
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
    for pairs, count in zip(data.camvid(DATA), (367, 233), strict=True):
        assert len(pairs) == count
        assert {(image.shape, mask.shape) for image, mask in pairs} == {
            ((120, 160, 3), (120, 160))
        }
        assert {c for _, mask in pairs for c in np.unique(mask)} == set(range(12))


def test_images_and_masks(tmp_path):
    for folder, value in (("images", 9), ("masks", 2)):
        (tmp_path / folder).mkdir()
        for name in ("a", "b") if folder == "images" else ("b",):
            array = np.full((3, 4), value, "uint8")
            Image.fromarray(array).save(tmp_path / folder / f"{name}.png")
    ((image, mask),) = data.images_and_masks(tmp_path)
    assert image.shape == (3, 4, 3)
    assert mask.tolist() == [[2] * 4] * 3


def test_camvid(tmp_path):
    for part, value, names in (("train", 3, "ab"), ("test", 11, "c"), ("val", 5, "d")):
        for folder, array in (
            (part, np.full((4, 6, 3), value, "uint8")),
            (f"{part}annot", np.full((4, 6), value, "uint8")),
        ):
            (tmp_path / "CamVid" / folder).mkdir(parents=True)
            for name in names:
                path = tmp_path / "CamVid" / folder / f"{name}.png"
                Image.fromarray(array).save(path)
    train, test = data.camvid(tmp_path)
    assert [len(pairs) for pairs in (train, test)] == [2, 1]
    assert train[0][0].shape == (4, 6, 3)
    assert train[0][1].tolist() == [[3] * 6] * 4
    assert test[0][1].tolist() == [[data.CAMVID_UNLABELLED] * 6] * 4
    (tmp_path / "CamVid" / "testannot").rename(tmp_path / "CamVid" / "other")
    with pytest.raises(FileNotFoundError, match=r"There is no 'testannot' in .*CamVid"):
        data.camvid(tmp_path)


def test_smaller_images_and_masks():
    # Squares of 2 x 2 of 0 and 255: the means 0.5 and 1 are 0 and 1 in [-1, 1]. The
    # fifth column has no square.
    image = np.array([[0, 255, 255, 255, 9], [255, 0, 255, 255, 9]], "uint8")
    mask = np.array([[1, 2, 3, 4, 5], [6, 7, 8, 9, 5]], "uint8")
    x, masks = segmentation.smaller(
        image[None, :, :, None].repeat(3, -1), mask[None], 2
    )
    np.testing.assert_allclose(x, np.array([[[[0] * 3, [1] * 3]]]), atol=1e-6)
    assert masks.tolist() == [[[1, 3]]]


def test_mean_iou_by_hand():
    # Class 0: 2 of the 3 pixels that are it or were taken for it; class 1: 1 of 2;
    # class 2 is not there; the last two pixels are unlabelled.
    truth, found = np.array([0, 0, 1, 1, 3, 3]), np.array([0, 0, 0, 1, 1, 2])
    counts = segmentation.confusion(truth, found, classes=3, ignored=3)
    assert counts.tolist() == [[2, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert segmentation.mean_iou(counts) == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_made_up_shapes():
    image, mask = shapes.made_up(np.random.default_rng(0))
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


@pytest.mark.parametrize("finer", [False, True])
def test_sine_layers(finer):
    # u = 0.5: sin(2 * 0.5), and sin(2 * 1.5 * 0.5) with FINER; the slopes are
    # 2 cos(1), and 2 (2 * 0.5 + 1) cos(1.5).
    phase, slope = (1.5, 4) if finer else (1, 2)
    layer = coordinates.Sine(2.0, finer)
    skip = GradientResidual([layer], residual="additive", normalize=False)
    found = skip(np.full((1, 1), 0.5, "float32"))
    expected = np.sin(phase) + 0.5 + slope * np.cos(phase)
    assert float(found[0, 0]) == pytest.approx(expected, rel=1e-5)
    again = coordinates.Sine.from_config(layer.get_config())
    assert (again.omega, again.finer) == (2.0, finer)


@pytest.mark.parametrize("finer", [False, True])
def test_siren_keeps_its_spread(finer):
    """Section 3.2 of SIREN: the phases of hidden layers have variance 1 about."""
    keras.utils.set_random_seed(0)
    make = coordinates.finer if finer else coordinates.siren
    assert make(1, 1, 16, 4).count_params() == 1137
    x = np.linspace(-1, 1, 512, dtype="float32")[:, None]
    for i, layer in enumerate(make(1, 1, 256, 3).layers[1:-1]):
        x = keras.ops.convert_to_numpy(layer(x))
        if i in (2, 4, 6):
            assert 0.7 < np.std(30 * x) < (2.5 if finer else 1.5)


def test_fourier_features_by_hand():
    layer = coordinates.FourierFeatures(2)
    layer.build((None, 1))
    layer.set_weights([np.array([[0.5, 1.0]])])
    found = layer(np.array([[0.25]], "float32"))
    # 2 pi B x is pi / 4 and pi / 2.
    half = np.sqrt(0.5)
    found = keras.ops.convert_to_numpy(found)
    np.testing.assert_allclose(found, [[half, 0, half, 1]], atol=1e-6)


def test_holm_by_hand():
    # 3 * 0.01, 2 * 0.04, and 0.045, which may not be below the one before.
    found = study.holm([0.04, np.nan, 0.045, 0.01])
    np.testing.assert_allclose(found, [0.08, np.nan, 0.08, 0.03])
    np.testing.assert_allclose(study.holm([0.6, 0.7]), [1, 1])


def test_front_of_pareto():
    # (2, 5) is beaten by (1, 5), and (3, 4) by all.
    assert neural_field.front([3, 2, 1, 4], [4, 5, 5, 6]) == [2, 3]


def test_half_of_the_pixels_is_held_out():
    learned, hidden = fields.halves(6, seed=0)
    assert len(learned) == len(hidden) == 18
    assert {*learned, *hidden} == set(range(36))
    # Row by row, as the colors of an image are.
    grid = fields.coordinates(3)
    assert grid[[0, 1, 3]].tolist() == [[-1, -1], [-1, 0], [0, -1]]


@pytest.mark.parametrize("name", fields.VARIANTS)
def test_networks_of_images_have_as_many_parameters(name):
    # A first layer of 2 x 8 + 8, none after Fourier features; blocks of 8 x 8 + 8; a
    # last one of 8 x 3 + 3; and alpha or gamma for each block.
    group, skip, more = fields.VARIANTS[name]
    expected = 24 * (group != "Fourier features") + (2 + more) * 72 + 27
    expected += {"convex": 2, "gain": 2 * 8}.get(skip, 0)
    model = fields.network(name, units=8, blocks=2, seed=0)
    assert sum(np.prod(v.shape) for v in model.trainable_variables) == expected


@pytest.mark.parametrize("name", theorems.LOSSES)
def test_derivatives_and_smoothness_of_losses(name):
    loss, keras_loss, smoothness, _ = theorems.LOSSES[name]
    rng = np.random.default_rng(0)
    z, y = 3 * rng.normal(size=(50, 10)), np.eye(10)[rng.integers(0, 10, 50)]
    logits = {"from_logits": True} if name == "cross-entropy" else {}
    values, gradient, hessian = loss(z, y)
    expected = keras_loss(reduction=None, **logits)(
        y.astype("float32"), z.astype("float32")
    )
    np.testing.assert_allclose(values, ops.convert_to_numpy(expected), rtol=1e-4)
    v, step = rng.normal(size=z.shape), 1e-5
    above, below = loss(z + step * v, y), loss(z - step * v, y)
    np.testing.assert_allclose(
        (above[0] - below[0]) / (2 * step), np.sum(gradient * v, -1), atol=1e-8
    )
    bent = (above[1] - below[1]) / (2 * step)
    np.testing.assert_allclose(bent, hessian(v), atol=1e-8)
    # No two points have gradients that differ by more than L times their distance, and
    # at two classes of the same probability that much is reached.
    ends = 5 * rng.normal(size=z.shape)
    difference = np.linalg.norm(loss(ends, y)[1] - gradient, axis=-1)
    bound = smoothness * np.linalg.norm(ends - z, axis=-1)
    assert (difference <= bound * (1 + 1e-12)).all()
    two = np.array([[30.0, 30, *[0] * 8]])
    apart = np.array([[1e-4, -1e-4, *[0] * 8]])
    difference = loss(two + apart, y[:1])[1] - loss(two, y[:1])[1]
    reached = np.linalg.norm(difference) / np.linalg.norm(apart)
    assert reached == pytest.approx(smoothness, rel=1e-6)


def test_remainders_by_hand():
    # Two logits of 0, the first right: dl/dz = (-1/2, 1/2), and a step of length 1
    # along it gives (1/2, -1/2), with the loss log(1 + 1/e): r = 0.31326 - 0.69315 +
    # 1/2 = 0.12011, and |g|^2 = 1/2. H g is along g.
    z, y = np.zeros((1, 2)), np.array([[1.0, 0]])
    _, gradient, _ = theorems.cross_entropy(z, y)
    ratio, cosine = theorems.remainders(theorems.cross_entropy, z, y, gradient)
    assert ratio[0] == pytest.approx(0.24023, abs=1e-5)
    assert cosine[0] == pytest.approx(1)


def test_bound_of_finite_sets_by_hand():
    # log(200 / 0.05) = 8.294, and the square root of 8.294 / 100 is 0.288.
    assert theorems.bound(200, 50) == pytest.approx(0.288, abs=1e-4)


def test_directions_of_a_sine():
    # Half a period of frequency 4 is 1/8; at half of that every other pair is opposite.
    found = theorems.cosine_of_sine(np.array([0, 1 / 16, 1 / 8, 1 / 4]), 4)
    np.testing.assert_allclose(found, [1, 0, -1, 1], atol=1e-12)


def test_sine_table_by_hand():
    """Errors of three seeds; the time of `twice the steps` is twice that of a step."""
    task = sine_tasks.FIRST
    final = {
        "identity": [1.0, 0.1, 0.1],
        "identity, twice the steps": [0.1, 0.01, 0.1],
        "gain, second order": [0.01, 0.001, 0.1],
    }
    made = study.Study.__new__(study.Study)
    made.seeds = range(3)
    made.results = [
        (
            {"task": task, "variant": name, "seed": seed, **sine_tasks.SIZES},
            {"errors": np.array([1.0, error]), "rate": 0.01},
        )
        for name, errors in final.items()
        for seed, error in enumerate(errors)
    ]
    timing = {"task": task, "variant": sine_tasks.SECONDS, "seed": 0}
    ratios = {"identity": 1.0, "gain, second order": 1.5}
    made.results.append(
        (timing | sine_tasks.SIZES, {"seconds": 3e-5, "ratios": ratios})
    )
    _, title, table = sine_report.report(made).split("\n\n")
    assert title.endswith(
        "(same size: identity, 30 µs a step; same time: identity, twice the steps)"
    )
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    # Means of log10: -2/3, -4/3, -2. Differences to identity -1, -1, 0, and -2, -2, 0:
    # t = -2, p = 0.184 with 2 degrees of freedom, twice that after Holm.
    assert [row[:6] for row in rows] == [
        ["identity", "0.01", "-0.67 ± 0.33", "-0.33", "0%", "1.00"],
        ["gain, second order", "0.01", "-2.00 ± 0.58", "-1.00", "67%", "1.50"],
        ["identity, twice the steps", "0.01", "-1.33 ± 0.33", "-0.67", "33%", "2.00"],
    ]
    assert rows[1][6:] == ["0.0464", "0.367", "0.215", "0.367"]


def test_detectable_difference_is_the_tabulated_one():
    # Sample sizes of the paired t-test, two-sided 5 %, power 80 %, as tables and
    # G*Power have them: 34 for half a standard deviation, 15 for 0.8, 10 for one.
    for seeds, size in ((34, 0.5), (15, 0.8), (10, 1.0)):
        assert study.detectable(1.0, seeds) <= size < study.detectable(1.0, seeds - 1)
    assert study.detectable(3.0, 10) == pytest.approx(3 * study.detectable(1.0, 10))
    assert np.isinf(study.detectable(1.0, 1))


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
        (expected,) = together._by_fit(
            [model], parts, [batches], [0, 4, 8, 12], None, None
        )
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


def test_rates_and_schedule_are_each_models_own():
    """One step of SGD on y = w x moves w by the rate; here, by hand."""

    def make(seed):
        dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
        model = keras.Sequential([keras.Input((1,)), dense])
        # d/dw of (w - 1/2)^2 at 0 is -1, and shrinks as w grows.
        model.compile(keras.optimizers.SGD(9.0), "mse")
        return model

    data = lambda seed: ((np.ones((2, 1)), np.full((2, 1), 0.5)), np.ones((1, 1)))  # noqa: E731
    models, found = together.train(
        make,
        [0, 0],
        data,
        steps=2,
        batch_size=1,
        evaluations=2,
        rates=[0.1, 0.2],
        schedule=lambda share: 1 - share,
    )
    for rate, model, result in zip((0.1, 0.2), models, found, strict=True):
        first = rate
        second = first + rate / 2 * (1 - 2 * first)
        np.testing.assert_allclose(
            result["predictions"].ravel(), [first, second], rtol=1e-5
        )
        assert float(model.optimizer.learning_rate) == pytest.approx(rate)


def test_batches_are_epochs():
    batches = together._batches(10, 7, 3, seed=0)
    assert batches.shape == (7, 3)
    for epoch in (batches[:3], batches[3:6]):
        assert len(set(epoch.ravel())) == 9


def test_feature_adjustment_by_its_formula():
    rng = np.random.default_rng(0)
    d = rng.normal(size=(5, 3)).astype("float32")
    features = rng.normal(size=(5, 7)).astype("float32")
    k = features.astype("float64") @ features.T
    mu = 0.05 * np.trace(k)
    expected = np.linalg.inv(np.eye(5) + k / mu) @ d
    arguments = map(ops.convert_to_tensor, (d, features))
    found = feature_network.adjusted(*arguments, damping=0.05)
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, atol=1e-5)


def test_kfac_by_its_formula():
    """As a vector, the gradient is multiplied by the inverse of a Kronecker product."""
    rng = np.random.default_rng(0)
    a, g = (x.T @ x for x in (rng.normal(size=(9, n)) for n in (4, 3)))
    gradient = rng.normal(size=(4, 3))
    mus = [0.1 * np.trace(factor) for factor in (a, g)]
    damped = [np.eye(len(f)) + f / mu for f, mu in zip((a, g), mus, strict=True)]
    expected = np.linalg.solve(np.kron(*damped), gradient.ravel()).reshape(4, 3)
    arguments = [ops.convert_to_tensor(x, "float32") for x in (gradient, a, g)]
    found = feature_network.preconditioned(*arguments, damping=0.1)
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, rtol=1e-3)


@pytest.mark.parametrize("method", ["plain", "adjusted", "adjusted, below only"])
def test_network_moves_by_the_methods_gradients(method):
    """One step of SGD at rate 1, against NumPy."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 4)).astype("float32")
    y = rng.integers(0, 10, 6)
    inputs = keras.Input((4,))
    body = keras.Model(inputs, keras.layers.Dense(5)(inputs))
    network = feature_network.Network(body, 10, **feature_adjustment.METHODS[method])
    network.compile(keras.optimizers.SGD(1.0))
    below, bias, kernel, _ = before = [v.numpy() for v in network.trainable_variables]
    network.train_on_batch(x, y)
    features = np.hstack([x @ below + bias, np.ones((6, 1))])
    z = features[:, :-1] @ kernel
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    d = (p - np.eye(10)[y]) / 6
    k = features @ features.T
    g = np.linalg.solve(np.eye(6) + k / (0.01 * np.trace(k)), d)
    at_last = g if method == "adjusted" else d
    at_body = (d if method == "plain" else g) @ kernel.T
    expected = [x.T @ at_body, at_body.sum(0), *np.split(features.T @ at_last, [5])]
    for v, old, change in zip(
        network.trainable_variables, before, expected, strict=True
    ):
        change = change.reshape(old.shape)
        np.testing.assert_allclose(v.numpy(), old - change, atol=1e-5, err_msg=v.path)


def test_tuned_goes_on_where_the_best_is_at_an_end(tmp_path, monkeypatch):
    """The error is least at rate 10, and lower on the tuning seeds."""
    module = types.SimpleNamespace(__spec__=types.SimpleNamespace(name="b.parabola"))
    monkeypatch.setitem(sys.modules, "__main__", module)
    monkeypatch.setattr(sys, "argv", ["", "--out", str(tmp_path)])
    settings = {"smoke": {"seeds": 2, "tuning_seeds": 3}}

    def fit(run, pairs, bar):
        trained.append({seed for _, seed in pairs})
        return [
            {"error": np.inf if rate > 30 else np.log(rate / 10) ** 2 + seed}
            for rate, seed in pairs
        ]

    trained: list = []
    cases = [
        {"variant": "a", "rates": tuned.grid(1.0, 2)},
        {"variant": "b", "rates": [3.0]},
    ]
    found = tuned.Tuned(
        study.Study("", settings), cases, fit, {"end": lambda _, f: f["error"]}
    )
    # 1, 1.75; then 3.06 and 5.36; 9.38 and 16.4; 28.7 is not better than 9.38.
    assert found.rate("a", "end") == 9.38
    assert found.rate("b", "end") == 3.0
    expected = np.log(9.38 / 10) ** 2 + np.arange(2)
    np.testing.assert_allclose(found.values("a", "end"), expected, rtol=1e-4)
    assert trained[0] == {1000, 1001, 1002}
    assert trained[-1] == {0, 1}


def test_optimum_of_the_remainder():
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(8, 5)), rng.integers(0, 5, 8)
    d, h = gal_optimum.derivatives(z, y)

    def loss(z):
        return np.log(np.exp(z).sum(-1)) - z[np.arange(8), y]

    for i in range(5):
        step = 1e-4 * np.eye(5)[i]
        slope = (loss(z + step) - loss(z - step)) / 2e-4
        np.testing.assert_allclose(d[:, i], slope, atol=1e-7)
        slopes = [gal_optimum.derivatives(z + s, y)[0] for s in (step, -step)]
        np.testing.assert_allclose(h[:, i], (slopes[0] - slopes[1]) / 2e-4, atol=1e-7)
    v = gal_optimum.optimum(d, h, 0.3)
    lengths = 0.3 * np.linalg.norm(d, axis=-1)
    np.testing.assert_allclose(np.linalg.norm(v, axis=-1), lengths)
    least = np.einsum("ni,nij,nj->n", d + v, h, d + v)
    for _ in range(200):
        other = rng.normal(size=v.shape)
        other *= (lengths / np.linalg.norm(other, axis=-1))[:, None]
        assert (np.einsum("ni,nij,nj->n", d + other, h, d + other) >= least).all()
    # Of the squared error: back along d.
    identity = np.broadcast_to(np.eye(5), h.shape)
    np.testing.assert_allclose(gal_optimum.optimum(d, identity, 0.3), -0.3 * d)
