"""What the studies of the large schedules share: images, weights, and long training.

    paths, labels, names = folder_of_classes(root / "train")
    train = Images(paths, labels, 224, 256, random_window, seed=0)
    model, records = train_in_epochs(make, train, test, epochs=90, folder=out)

The batches depend on the seed, the epoch and their number alone. After each epoch the
model is saved with the optimizer and GAL's networks, and beside it the states of the
random layers, which are not in a `.keras` file. So what was interrupted goes on from
the last whole epoch, to the numbers of a run in one go.

Several devices: with JAX all that there are share each batch (`distribute`). With
TensorFlow and PyTorch a strategy and processes have to be set up around the training:
see `examples/distributed_tensorflow.py` and `examples/distributed_torch.py`.
"""

import json
import math
import os
import pathlib
import time

import keras
import numpy as np
from PIL import Image

from benchmarks import data


def folder_of_classes(root):
    """Paths, labels and names of FOLDER/CLASS/IMAGE, classes in the order of names."""
    root = pathlib.Path(root)
    folders = sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    if not folders:
        raise FileNotFoundError(
            f"There are no classes in {root}. It must have a folder of images for each."
        )
    found = [(path, i) for i, f in enumerate(folders) for path in _images(f)]
    paths, labels = zip(*found, strict=True)
    return list(paths), np.array(labels, "int32"), [f.name for f in folders]


def _images(folder):
    # ImageNet's are .JPEG; `image_paths` compares in lower case.
    paths = data.image_paths(folder)
    if not paths:
        raise FileNotFoundError(f"There are no images in {folder}.")
    return paths


class Images(keras.utils.PyDataset):
    """Batches of square images, float32 RGB in [0, 255], and labels.

    Args:
        sources: Paths, or uint8 arrays.
        labels: Integers.
        size: The side of the images, in pixels.
        batch_size: Where there is a seed, all batches are full.
        window: A function from (width, height) and a random generator to the window
            (left, top, right, bottom) of an image that is taken. It may reach out of
            the image, which is black there.
        seed: Of the order, the windows and the mirroring of each epoch; None for the
            images as they are.
        **kwargs: `workers`, `use_multiprocessing` and `max_queue_size`.

    Attributes:
        epoch: Set it before each epoch.
    """

    def __init__(self, sources, labels, size, batch_size, window, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.sources, self.labels = sources, labels
        self.size, self.batch_size = size, batch_size
        self.window, self.seed, self.epoch = window, seed, 0

    def __len__(self):
        count = len(self.labels) / self.batch_size
        return math.ceil(count) if self.seed is None else int(count)

    def __getitem__(self, index):
        part = slice(index * self.batch_size, (index + 1) * self.batch_size)
        if self.seed is None:
            rng, chosen = None, np.arange(len(self.labels))[part]
        else:
            order = np.random.default_rng([self.seed, self.epoch])
            chosen = order.permutation(len(self.labels))[part]
            rng = np.random.default_rng([self.seed, self.epoch, index])
        images = [self._image(self.sources[i], rng) for i in chosen]
        return np.stack(images), self.labels[chosen]

    def _image(self, source, rng):
        if isinstance(source, np.ndarray):
            image = Image.fromarray(source)
        else:
            with Image.open(source) as file:
                image = file.convert("RGB")
        window = tuple(round(edge) for edge in self.window(image.size, rng))
        image = image.crop(window).resize((self.size, self.size), Image.BILINEAR)
        pixels = np.asarray(image, "float32")
        mirrored = rng is not None and rng.integers(2)
        return pixels[:, ::-1] if mirrored else pixels


def random_window(sides, rng):
    """8 to 100 % of the area, 3:4 to 4:3, as Inception was trained."""
    width, height = sides
    for _ in range(10):
        area = width * height * rng.uniform(0.08, 1)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.integers(width - w + 1), rng.integers(height - h + 1)
            return left, top, left + w, top + h
    return center_window(sides, rng, 1)


def center_window(sides, rng=None, share=0.875):
    """A square in the middle, of 7 / 8 of the shorter side."""
    width, height = sides
    side = share * min(sides)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def moved_window(sides, rng):
    """The whole, moved by up to an eighth of each side."""
    x, y = (rng.integers(-(side // 8), side // 8 + 1) for side in sides)
    return x, y, sides[0] + x, sides[1] + y


def whole_window(sides, rng):
    return 0, 0, *sides


def pretrained(make, name, folder, **kwargs):
    """A model of `keras.applications` with weights of ImageNet, without its top.

    Those are FOLDER/weights/NAME.h5, as Keras publishes them, or are downloaded.
    """
    path = pathlib.Path(folder or ".") / "weights" / f"{name}.h5"
    if path.exists():
        return make(include_top=False, weights=str(path), **kwargs)
    try:
        return make(include_top=False, weights="imagenet", **kwargs)
    except Exception as error:  # `keras.utils.get_file` raises nothing narrower.
        raise FileNotFoundError(
            f"The weights of ImageNet for {name} could not be downloaded. Put the file "
            f"that keras.applications publishes for it, without the top, at {path}."
        ) from error


def miniature(x):
    """The features of a network for tests, with statistics and with a dropout."""
    x = keras.layers.Conv2D(4, 3, activation="relu")(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.layers.Dropout(0.3)(x)


def train_in_epochs(make, train, test, epochs, folder, callbacks=(), after=None):
    """Trains up to a number of epochs, from the last checkpoint if there is one.

    Args:
        make: A function that returns the compiled model.
        train: The `Images` to train with.
        test: Those on which each epoch is evaluated.
        epochs: How many there are to be in the end.
        folder: That of the checkpoint; its last one is kept.
        callbacks: Those of `fit`.
        after: A function that is called after each epoch that was trained.

    Returns:
        The model, and for each epoch a dict of the logs of training, those of the test
        as `val_...`, and `images_per_second`, in which the first step compiles.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model, log = _restored(folder)
    if model is None:
        model = make()

    # The random layers of PyTorch draw from its global generator; so does `fit` itself,
    # when a model is new or loaded, before an epoch begins.
    seeded = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: keras.utils.set_random_seed(
            1000 * train.seed + epoch
        )
    )
    for epoch in range(len(log), epochs):
        train.epoch = epoch
        start = time.perf_counter()
        history = model.fit(
            train,
            initial_epoch=epoch,
            epochs=epoch + 1,
            shuffle=False,
            verbose=0,
            callbacks=[seeded, *callbacks],
        ).history
        seconds = time.perf_counter() - start
        record = {name: float(values[0]) for name, values in history.items()}
        logs = model.evaluate(test, verbose=0, return_dict=True)
        record |= {f"val_{name}": float(value) for name, value in logs.items()}
        record["images_per_second"] = len(train) * train.batch_size / seconds
        seeds = [np.array(v.numpy()).tolist() for v in _seeds(model)]
        log.append({"record": record, "seeds": seeds})
        _save(folder, model, log)
        if after is not None:
            after(record)
    return model, [line["record"] for line in log]


def _seeds(model):
    """The states of random layers: what `variables` has and `weights` has not."""
    weights = {id(v) for v in model.weights}
    return [v for v in model.variables if id(v) not in weights]


def _save(folder, model, log):
    """First the log, then the model, whose name says how many lines of it count."""
    old = list(folder.glob("epoch-*.keras"))
    # Each at once or not at all, whenever it is interrupted.
    lines = (json.dumps(line) + "\n" for line in log)
    (folder / "saving.jsonl").write_text("".join(lines))
    os.replace(folder / "saving.jsonl", folder / "log.jsonl")
    model.save(folder / "saving.keras")
    os.replace(folder / "saving.keras", folder / f"epoch-{len(log):03}.keras")
    for path in old:
        path.unlink(missing_ok=True)


def _restored(folder):
    paths = sorted(folder.glob("epoch-*.keras"))
    if not paths:
        return None, []
    done = int(paths[-1].stem.removeprefix("epoch-"))
    lines = (folder / "log.jsonl").read_text().splitlines()[:done]
    log = [json.loads(line) for line in lines]
    model = keras.models.load_model(paths[-1])
    for variable, value in zip(_seeds(model), log[-1]["seeds"], strict=True):
        variable.assign(value)
    return model, log
