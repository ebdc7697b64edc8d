"""Made-up images in noise: shapes with masks, boxes, and stripes with labels."""

import numpy as np
from PIL import Image

SHAPES = ("disk", "square", "cross")
SIZE = 64


def made_up(rng):
    """One image, uint8 RGB, and its mask: 0, or 1 + the number of a shape."""
    rows, columns = np.mgrid[:SIZE, :SIZE].astype("float64")
    image = np.ones((SIZE, SIZE, 1)) * rng.uniform(0.3, 0.7, 3)
    mask = np.zeros((SIZE, SIZE), "uint8")
    for _ in range(rng.integers(2, 5)):
        kind = rng.integers(len(SHAPES))
        i, j = rng.uniform(8, SIZE - 8, 2)
        radius, angle = rng.uniform(6, 14), rng.uniform(0, np.pi)
        a = (rows - i) * np.cos(angle) + (columns - j) * np.sin(angle)
        b = (columns - j) * np.cos(angle) - (rows - i) * np.sin(angle)
        a, b = np.abs(a) / radius, np.abs(b) / radius
        inside = (
            a**2 + b**2 < 1,
            np.maximum(a, b) < 0.9,
            (np.minimum(a, b) < 0.3) & (np.maximum(a, b) < 1.1),
        )[kind]
        image = np.where(inside[..., None], textured(rng, rows, columns), image)
        mask[inside] = 1 + kind
    image = image + rng.normal(0, 0.08, image.shape)
    return (255 * np.clip(image, 0, 1)).astype("uint8"), mask


def textured(rng, rows, columns):
    """An RGB image of stripes or checks in two colors."""
    angle, frequency = rng.uniform(0, np.pi), rng.uniform(0.5, 2.5)
    a = np.sin(frequency * (rows * np.cos(angle) + columns * np.sin(angle)))
    b = np.sin(frequency * (columns * np.cos(angle) - rows * np.sin(angle)))
    pattern = (a, a * b)[rng.integers(2)]
    return np.where(pattern[..., None] > 0, *rng.uniform(0, 1, (2, 3)))


def stripes(count, seed):
    """Images whose class is the number of their stripes, and their labels."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 10, count)
    columns = 2 * np.pi * np.arange(32) / 32
    stripes = np.sin(y[:, None, None, None] * columns[:, None])
    x = 128 + 50 * stripes + rng.normal(0, 20, (count, 32, 32, 3))
    return np.clip(x, 0, 255).astype("uint8"), y


def boxes(folder, count=60):
    """Writes a folder as that of the raccoons, of one or two bright boxes in noise."""
    rng = np.random.default_rng(0)
    (folder / "raccoon" / "images").mkdir(parents=True, exist_ok=True)
    lines = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
    for i in range(count):
        image = rng.integers(0, 100, (48, 64, 3)).astype("uint8")
        for _ in range(1 + i % 2):
            width, height = rng.integers(16, 32, 2)
            x, y = rng.integers(0, 64 - width), rng.integers(0, 48 - height)
            image[y : y + height, x : x + width] += 150
            lines.append(f"{i:03}.png,64,48,box,{x},{y},{x + width},{y + height}")
            image = np.minimum(image, 99 + 150 * (image > 99)).astype("uint8")
        Image.fromarray(image).save(folder / "raccoon" / "images" / f"{i:03}.png")
    (folder / "raccoon" / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def folder_of_classes(root, cifar=None, classes=2, count=32):
    """Writes a folder of small images, as `large.folder_of_classes` reads it.

    Args:
        root: The folder.
        cifar: What `data.cifar10` returns, or None for stripes that are their class.
        classes: How many.
        count: Images of each class, for training, and as many for the test.
    """
    rng = np.random.default_rng(0)
    for i, part in enumerate(("train", "val")):
        for label in range(classes):
            folder = root / part / f"class {label}"
            folder.mkdir(parents=True, exist_ok=True)
            if cifar is None:
                images = [_waves(label, rng) for _ in range(count)]
            else:
                x, y = cifar[i]
                images = x[y == label][:count]
            for number, image in enumerate(images):
                Image.fromarray(image).save(folder / f"{number:02}.png")
    return root


def _waves(label, rng):
    waves = np.sin(np.pi * np.arange(8) * (label + 1) / 2)
    image = 128 + 90 * waves[:, None, None] + rng.normal(0, 20, (8, 8, 3))
    return np.clip(image, 0, 255).astype("uint8")
