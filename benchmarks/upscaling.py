"""Doubling the resolution of pictures: what is trained on, and how good it is.

    x, y = Patches(pictures, 24).draw(16, rng)
    psnr, ssim = evaluate(functools.partial(upscaled, model), test["set5 (5)"])

Pictures are uint8 RGB.
"""

import keras
import numpy as np
from PIL import Image

from benchmarks import data, images

SCALE = 2
CROP = 64


class Patches:
    """Random pairs of small and large patches, turned and flipped."""

    def __init__(self, pictures, patch):
        self.patch = patch
        self.pairs = [
            (images.reduced(large, SCALE), large)
            for large in (images.cropped(picture, SCALE) for picture in pictures)
            if min(large.shape[:2]) >= SCALE * patch
        ]

    def draw(self, count, rng):
        small, large = [], []
        for _ in range(count):
            pair = self.pairs[rng.integers(len(self.pairs))]
            i, j = (rng.integers(n - self.patch + 1) for n in pair[0].shape[:2])
            turns, flip = rng.integers(4), rng.integers(2)
            for image, scale, batch in zip(
                pair, (1, SCALE), (small, large), strict=True
            ):
                side = scale * self.patch
                i_, j_ = scale * i, scale * j
                patch = np.rot90(image[i_ : i_ + side, j_ : j_ + side], turns)
                batch.append(patch[:, ::-1] if flip else patch)
        return tuple(
            np.stack(batch).astype("float32") / 255 for batch in (small, large)
        )


def photograph():
    """Of one picture: a list to train on, and the test pictures of each set."""
    train, test = data.photographs()
    return [train], {"photograph": [test[160:260, 240:380]]}


def load(folder, sets, large):
    """The same of the folder; `sets` says how many pictures of each are wanted."""
    large = large and data.has(folder, "div2k")
    train = data.images(folder, "div2k" if large else "t91")
    test = {
        name: data.images(folder, name)[:count]
        for name, count in sets.items()
        # Its pictures are not to be had everywhere.
        if name != "urban100" or data.has(folder, name)
    }
    return train, {
        f"{name} ({len(pictures)})": [images.cropped(p, SCALE) for p in pictures]
        for name, pictures in test.items()
    }


def upscaled(model, small):
    """The uint8 image that a model makes of one."""
    x = small[None].astype("float32") / 255
    y = keras.ops.convert_to_numpy(model(x, training=False))[0]
    return np.round(255 * np.clip(y, 0, 1)).astype("uint8")


def bicubic(small):
    return images.enlarged(small, SCALE)


def evaluate(upscale, pictures):
    """Mean PSNR and SSIM."""
    pairs = [(upscale(images.reduced(p, SCALE)), p) for p in pictures]
    return [
        np.mean([measure(image, truth, SCALE) for image, truth in pairs])
        for measure in (images.psnr, images.ssim)
    ]


def save_crop(image, path):
    """The middle."""
    path.parent.mkdir(exist_ok=True)
    i, j = ((size - CROP) // 2 for size in image.shape[:2])
    Image.fromarray(image[i : i + CROP, j : j + CROP]).save(path)
