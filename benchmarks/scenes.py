"""Images with a class for each pixel: reading them, making them up, counting pixels."""

import numpy as np

from benchmarks import data, shapes


class Scenes:
    """Images in [-1, 1] and masks, to train on and to test.

    Args:
        folder: The folder of data: CamVid, or else images and masks. None for shapes.
        count: How many are made up.
        reduced: How many times smaller than they are.

    Attributes:
        train: x `(n, height, width, 3)` and masks `(n, height, width)`.
        test: Likewise.
        classes: How many there are.
        ignored: The value of the pixels that do not count, or None.
        name: What the images are.
    """

    def __init__(self, folder, count, reduced):
        self.ignored = None
        if folder is None:
            rng = np.random.default_rng(0)
            pairs = [shapes.made_up(rng) for _ in range(count)]
            parts, self.name = split(pairs), "made-up shapes"
        elif data.has(folder, "camvid"):
            parts = data.camvid(folder)
            self.ignored, self.name = data.CAMVID_UNLABELLED, "CamVid"
        else:
            parts, self.name = split(data.images_and_masks(folder)), "images"
        self.train, self.test = (smaller(pairs, reduced) for pairs in parts)
        masks = np.concatenate([self.train[1], self.test[1]])
        self.classes = 1 + int(masks[masks != self.ignored].max())


def split(pairs):
    """Cut to the same size; the last fifth are for the test."""
    size = min(min(image.shape[:2]) for image, _ in pairs)
    pairs = [tuple(part[:size, :size] for part in pair) for pair in pairs]
    tested = len(pairs) // 5
    return pairs[:-tested], pairs[-tested:]


def small_camvid(folder):
    """CamVid at 80 x 60: images and masks to train on, and to test."""
    return tuple(smaller(pairs, 2) for pairs in data.camvid(folder))


def smaller(pairs, factor):
    """The means of squares of pixels, and the classes at their first corners."""
    images, masks = map(np.stack, zip(*pairs, strict=True))
    n, height, width = masks.shape
    rows, columns = height // factor, width // factor
    cut = images[:, : rows * factor, : columns * factor]
    x = cut.reshape(n, rows, factor, columns, factor, 3).mean((2, 4))
    masks = masks[:, : rows * factor : factor, : columns * factor : factor]
    return x.astype("float32") / 127.5 - 1, masks.astype("int32")


def confusion(truth, found, classes, ignored=None):
    """How many pixels of each class (row) were taken for each class (column)."""
    counts = np.bincount(
        (truth * classes + found)[truth != ignored], minlength=classes**2
    )
    return counts.reshape(classes, classes)


def mean_iou(counts):
    """Intersection over union, averaged over the classes that are there."""
    both = np.diag(counts)
    union = counts.sum(0) + counts.sum(1) - both
    return np.mean(both[union > 0] / union[union > 0])
