"""The large schedules in miniature: their images, and training that is interrupted."""

import json
import pickle
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from helpers import ROOT, require_studies

require_studies("PIL", "scipy", "tqdm")

from PIL import Image  # noqa: E402

from benchmarks import cifar_large, data, imagenet, large, shapes  # noqa: E402


def test_folder_of_classes(tmp_path):
    for name, value in (("b/x.JPEG", 200), ("a/y.png", 100), ("a/z.png", 0)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((6, 8), value, "uint8")).save(path)
    paths, labels, names = large.folder_of_classes(tmp_path)
    assert [p.name for p in paths] == ["y.png", "z.png", "x.JPEG"]
    assert labels.tolist() == [0, 0, 1]
    assert names == ["a", "b"]
    images = large.Images(paths, labels, 4, 2, large.center_window)
    assert len(images) == 2
    (x, y), (last, _) = images[0], images[1]
    assert (x.shape, x.dtype, last.shape) == ((2, 4, 4, 3), "float32", (1, 4, 4, 3))
    assert x[0].tolist() == np.full((4, 4, 3), 100).tolist()
    assert y.tolist() == [0, 0]
    with pytest.raises(FileNotFoundError, match="no classes in"):
        large.folder_of_classes(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no images in"):
        large.folder_of_classes(tmp_path)


def test_batches_of_an_epoch_are_all_images_once():
    sources = [np.full((8, 8, 3), i, "uint8") for i in range(10)]
    labels = np.arange(10)
    images = large.Images(sources, labels, 8, 3, large.whole_window, seed=0)
    assert len(images) == 3
    orders = []
    for images.epoch in (0, 1, 0):
        batches = [images[i] for i in range(3)]
        x, y = (np.concatenate(part) for part in zip(*batches, strict=True))
        np.testing.assert_array_equal(x[:, 0, 0, 0], y)
        assert len(set(y)) == 9
        orders.append(y.tolist())
    assert orders[0] == orders[2] != orders[1]


def test_windows():
    assert large.center_window((80, 40)) == (22.5, 2.5, 57.5, 37.5)
    rng = np.random.default_rng(0)
    areas = []
    for _ in range(200):
        left, top, right, bottom = large.random_window((80, 40), rng)
        assert 0 <= left < right <= 80
        assert 0 <= top < bottom <= 40
        assert 0.7 < (right - left) / (bottom - top) < 1.43
        areas.append((right - left) * (bottom - top) / 3200)
    assert min(areas) < 0.15
    assert max(areas) > 0.5
    moved = {large.moved_window((32, 32), rng)[:2] for _ in range(500)}
    assert {x for x, _ in moved} == set(range(-4, 5))


def test_schedule_by_hand():
    # Up in 10 steps; x 0.5 every 20 of all steps.
    schedule = imagenet.WarmUpAndDecay(2.0, warmup_steps=10, decay_steps=20, decay=0.5)
    found = [float(schedule(step)) for step in (0, 4, 9, 19, 20, 45)]
    np.testing.assert_allclose(found, [0.2, 1, 2, 2, 1, 0.5], rtol=1e-6)


def test_optimizers_are_those_of_the_paper():
    sgd = cifar_large.make_optimizer("SGD", 10, 300)
    rates = [float(sgd.learning_rate)]
    for step in (1000, 1001, 2001):
        sgd.iterations.assign(step)
        rates.append(float(keras.ops.convert_to_numpy(sgd.learning_rate)))
    np.testing.assert_allclose(rates, [0.05, 0.05, 0.005, 0.0005], rtol=1e-5)
    assert (sgd.momentum, sgd.weight_decay) == (0.9, 1e-5)
    lookahead = cifar_large.make_optimizer("Lookahead", 10, 300)
    assert (lookahead.sync_period, lookahead.slow_step_size) == (5, 0.8)
    assert cifar_large.make_optimizer("AdaBound", 10, 300).weight_decay == 5e-4


def interrupted(make, train, test, folder):
    """The same training in one go, and stopped in the third of four epochs."""
    expected, records = large.train_in_epochs(make, train, test, 4, folder / "whole")

    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if train.epoch == 2 and batch == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        large.train_in_epochs(make, train, test, 4, folder / "cut", [Interrupt()])
    assert [p.name for p in (folder / "cut").glob("*.keras")] == ["epoch-002.keras"]
    trained: list = []
    found, resumed = large.train_in_epochs(
        make, train, test, 4, folder / "cut", after=trained.append
    )
    assert len(trained) == 2
    assert len(resumed) == 4
    for a, b in zip(records, resumed, strict=True):
        assert a.pop("images_per_second") > 0
        assert b.pop("images_per_second") > 0
        assert a == pytest.approx(b, rel=1e-5, abs=1e-6)
    pairs = zip(
        [*expected.variables, *expected.optimizer.variables],
        [*found.variables, *found.optimizer.variables],
        strict=True,
    )
    for a, b in pairs:
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-6)
    return records


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_imagenet_goes_on_to_the_same_numbers(tmp_path, policy, dtype_policy):
    root = shapes.folder_of_classes(tmp_path)
    sources, labels, names = large.folder_of_classes(root / "train")
    train = large.Images(sources, labels, 8, 16, large.random_window, seed=0)
    test_sources, test_labels, _ = large.folder_of_classes(root / "val")
    test = large.Images(test_sources, test_labels, 8, 16, large.center_window)
    run = {"network": "miniature", "gal": True, "seed": 0, "training": {"batch": 16}}
    with dtype_policy(policy):
        records = interrupted(
            lambda: imagenet.make(run, len(names), len(train)), train, test, tmp_path
        )
    assert records[-1]["loss"] != records[-2]["loss"]


def test_small_folder_of_cifar(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3)).astype("uint8")
    y = np.array([1, 0, 2, 1, 1, 0])
    root = shapes.folder_of_classes(tmp_path, [(x, y), (x[::-1], y[::-1])], count=2)
    for part, chosen in (("train", [1, 5, 0, 3]), ("val", [5, 1, 4, 3])):
        paths, labels, names = large.folder_of_classes(root / part)
        assert labels.tolist() == [0, 0, 1, 1]
        assert names == ["class 0", "class 1"]
        found = [np.asarray(Image.open(path)) for path in paths]
        np.testing.assert_array_equal(found, x[chosen])


@pytest.mark.separate
def test_imagenet_that_is_killed_goes_on_in_a_new_process(tmp_path):
    """A run of the command that is killed after an epoch, and run again."""
    command = [sys.executable, "-m", "benchmarks.imagenet", "--out"]
    subprocess.run([*command, tmp_path / "whole"], cwd=ROOT, check=True)
    cut = tmp_path / "cut"
    with subprocess.Popen([*command, cut], cwd=ROOT) as process:
        # Whatever it is at then: an epoch, an evaluation, a checkpoint.
        while not list(cut.glob("checkpoints/miniature 0/epoch-*.keras")):
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
    assert len(_results(cut)) < 2
    subprocess.run([*command, cut], cwd=ROOT, check=True)
    whole, resumed = _results(tmp_path / "whole"), _results(cut)
    assert len(whole) == len(resumed) == 2
    for a, b in zip(whole, resumed, strict=True):
        for name in ("loss", "val_loss"):
            np.testing.assert_allclose(a[name], b[name], rtol=1e-5)


def _results(folder):
    lines = (folder / "imagenet.jsonl").read_text().splitlines()
    return [r["result"] for r in map(json.loads, lines) if "result" in r]


@pytest.mark.slow
def test_cifar_goes_on_to_the_same_numbers(tmp_path):
    (x, y), (x_test, y_test) = cifar_large.made_up()
    train = large.Images(x, y, 32, 16, large.moved_window, seed=0)
    test = large.Images(x_test, y_test, 32, 16, large.whole_window)
    training = {"size": 32, "epochs": 4}
    run = {"optimizer": "Lookahead", "gal": True, "seed": 0, "training": training}
    records = interrupted(
        lambda: cifar_large.make(run, 2, len(train), True), train, test, tmp_path
    )
    assert records[-1]["loss"] < records[0]["loss"]


def test_weights_are_of_a_file_or_what_is_missing_is_named(tmp_path):
    def make(include_top, weights):
        if weights == "imagenet":
            raise Exception("URL fetch failure")
        return include_top, weights

    with pytest.raises(FileNotFoundError, match="Put the file that"):
        large.pretrained(make, "some_notop", tmp_path)
    (tmp_path / "weights").mkdir()
    path = tmp_path / "weights" / "some_notop.h5"
    path.touch()
    assert large.pretrained(make, "some_notop", tmp_path) == (False, str(path))


def test_cifar100_as_its_authors_pack_it(tmp_path):
    root = tmp_path / "cifar-100-python"
    root.mkdir()
    x = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype("uint8")
    rows = x.transpose(0, 3, 1, 2).reshape(3, -1)
    content = {b"data": rows, b"fine_labels": [99, 0, 5], b"coarse_labels": [1, 2, 3]}
    for part in ("train", "test"):
        (root / part).write_bytes(pickle.dumps(content))
    for images, labels in data.cifar100(tmp_path):
        np.testing.assert_array_equal(images, x)
        assert labels.tolist() == [99, 0, 5]
