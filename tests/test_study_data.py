"""The data of the studies, their images, and what is measured of them."""

import os
import pickle

import numpy as np
import pytest
from helpers import require_studies
from keras import ops

require_studies("PIL", "matplotlib", "scipy", "skimage", "sklearn", "tqdm")

from PIL import Image  # noqa: E402

from benchmarks import data, images, scenes, shapes, study  # noqa: E402

DATA = os.environ.get(study.DATA)


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
    pairs = [(image[:, :, None].repeat(3, -1), mask)]
    x, masks = scenes.smaller(pairs, 2)
    np.testing.assert_allclose(x, np.array([[[[0] * 3, [1] * 3]]]), atol=1e-6)
    assert masks.tolist() == [[[1, 3]]]


def test_mean_iou_by_hand():
    # Class 0: 2 of the 3 pixels that are it or were taken for it; class 1: 1 of 2;
    # class 2 is not there; the last two pixels are unlabelled.
    truth, found = np.array([0, 0, 1, 1, 3, 3]), np.array([0, 0, 0, 1, 1, 2])
    counts = scenes.confusion(truth, found, classes=3, ignored=3)
    assert counts.tolist() == [[2, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert scenes.mean_iou(counts) == pytest.approx((2 / 3 + 1 / 2) / 2)


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
    found = images.augmented(x, np.random.default_rng(0))
    assert {image[:, :, 0].tobytes() for image in found} <= allowed
    assert len({image.tobytes() for image in found}) > 20
