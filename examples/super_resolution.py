"""Super-resolution of a photograph, with identity and with gradient residual blocks.

Two small networks that differ in their skip connections only learn to double the
resolution of patches of one photograph, and then double that of another. Prints the
PSNR of both and of bicubic interpolation, and draws the crops and the learning curves.
Takes about two minutes on two CPU cores:

    KERAS_BACKEND=jax python examples/super_resolution.py
"""

import argparse
import time

import keras
import matplotlib
import numpy as np
from keras import layers
from PIL import Image
from sklearn.datasets import load_sample_images

from keras_gradres.layers import GradientResidualConv

SCALE = 2
PATCH = 24
BATCH = 16
BLOCKS = 4
FILTERS = 32
LEARNING_RATE = 1e-3
CROP = (slice(165, 255), slice(240, 375))


def luminance(rgb):
    """The Y of ITU-R BT.601 in [16, 235], on which the field reports PSNR."""
    return 16 + rgb @ np.array([65.481, 128.553, 24.966]) / 255


def resize(image, size):
    """Bicubic interpolation, antialiased when it reduces; `size` is (height, width)."""
    resized = Image.fromarray(image.astype("float32")).resize(size[::-1], Image.BICUBIC)
    return np.asarray(resized)


def psnr(image, truth):
    """Peak signal-to-noise ratio in decibels, but for `SCALE` pixels at the edge."""
    inner = slice(SCALE, -SCALE)
    error = (np.clip(image, 16, 235) - truth)[inner, inner]
    return 10 * np.log10(255**2 / np.mean(error**2))


class Photograph:
    """A photograph's luminance, half its size, and its interpolation back."""

    def __init__(self, rgb):
        height, width = (SCALE * (size // SCALE) for size in rgb.shape[:2])
        self.truth = luminance(rgb[:height, :width].astype("float64"))
        self.small = resize(self.truth, (height // SCALE, width // SCALE))
        self.bicubic = resize(self.small, (height, width))

    def patches(self, count, rng):
        """Random pairs of a small patch and what bicubic interpolation misses there."""
        missing = self.truth - self.bicubic
        inputs, targets = [], []
        for _ in range(count):
            i, j = (rng.integers(0, size - PATCH) for size in self.small.shape)
            small = self.small[i : i + PATCH, j : j + PATCH]
            i, j, side = SCALE * i, SCALE * j, SCALE * PATCH
            large = missing[i : i + side, j : j + side]
            turns, flip = rng.integers(4), rng.integers(2)
            for patch, batch in ((small, inputs), (large, targets)):
                patch = np.rot90(patch, turns)
                batch.append(patch[:, ::-1] if flip else patch)
        return to_network(np.stack(inputs), 128), to_network(np.stack(targets), 0)

    def upscaled(self, network):
        missing = network.predict(to_network(self.small, 128)[None], verbose=0)
        return self.bicubic + 128 * missing[0, ..., 0]


def to_network(image, center):
    return ((image - center) / 128)[..., None].astype("float32")


def make_network(residual, steps):
    inputs = keras.Input((None, None, 1))
    x = layers.Conv2D(FILTERS, 3, padding="same")(inputs)
    for _ in range(BLOCKS):
        x = GradientResidualConv(residual=residual)(x)
    outputs = layers.Conv2DTranspose(1, 4, strides=SCALE, padding="same")(x)
    network = keras.Model(inputs, outputs)
    schedule = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    network.compile(keras.optimizers.Adam(schedule), "mae")
    return network


class StepTimes(keras.callbacks.Callback):
    """The seconds of each training step."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_train_batch_begin(self, batch, logs=None):
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.seconds.append(time.perf_counter() - self.start)


def draw(path, test, results, curves, steps):
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(13, 7), layout="constrained")
    images = {"truth": test.truth, "bicubic": test.bicubic, **results}
    for axis, (name, image) in zip(axes.flat, images.items(), strict=False):
        axis.imshow(image[CROP], cmap="gray", vmin=16, vmax=235)
        title = name if name == "truth" else f"{name}: {psnr(image, test.truth):.2f} dB"
        axis.set_title(title)
        axis.set_axis_off()
    difference = axes[1, 1]
    a, b = results.values()
    difference.imshow((b - a)[CROP], cmap="RdBu", vmin=-10, vmax=10)
    difference.set_title("gradient residual - identity: red -10 to blue +10")
    difference.set_axis_off()
    for name, curve in curves.items():
        axes[1, 2].plot(steps, curve, label=name)
    axes[1, 2].axhline(
        psnr(test.bicubic, test.truth), color="grey", linestyle=":", label="bicubic"
    )
    axes[1, 2].set(xlabel="training steps", ylabel="PSNR of the other photograph, dB")
    axes[1, 2].legend(loc="lower right")
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--steps", type=int, default=50, help="training steps an epoch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="super_resolution.png")
    options = parser.parse_args()

    train, test = (Photograph(image) for image in load_sample_images().images)
    bicubic = psnr(test.bicubic, test.truth)
    print(f"Keras {keras.__version__} on {keras.backend.backend()}")
    print(f"bicubic interpolation: {bicubic:.2f} dB on the other photograph\n")

    networks, times = {}, {}
    for name, residual in (("identity", "identity"), ("gradient residual", "convex")):
        keras.utils.set_random_seed(options.seed)  # The same initial convolutions.
        networks[name] = make_network(residual, options.epochs * options.steps)
        times[name] = StepTimes()

    rng = np.random.default_rng(options.seed)
    curves = {name: [] for name in networks}
    for epoch in range(options.epochs):
        inputs, targets = train.patches(options.steps * BATCH, rng)
        for name, network in networks.items():
            network.fit(
                inputs,
                targets,
                batch_size=BATCH,
                shuffle=False,
                verbose=0,
                callbacks=[times[name]],
            )
            curves[name].append(psnr(test.upscaled(network), test.truth))
        scores = ", ".join(
            f"{name} {curve[-1]:.2f} dB" for name, curve in curves.items()
        )
        print(f"epoch {epoch + 1:2d}/{options.epochs}: {scores}", flush=True)

    results = {name: test.upscaled(network) for name, network in networks.items()}
    scores = {name: psnr(image, test.truth) for name, image in results.items()}
    print(f"\n{'':20s}PSNR, dB   step, ms")
    print(f"{'bicubic':20s}{bicubic:8.2f}")
    for name, score in scores.items():
        # The first steps compile.
        step = 1000 * np.median(times[name].seconds[options.steps :] or np.nan)
        print(f"{name:20s}{score:8.2f}{step:11.1f}")
    blocks = [
        layer.mix
        for layer in networks["gradient residual"].layers
        if isinstance(layer, GradientResidualConv)
    ]
    mixes = ", ".join(f"{mix:.3f}" for mix in blocks)
    print(f"\nshare of the gradient in each block, sigmoid(alpha): {mixes}")
    gain = scores["gradient residual"] - scores["identity"]
    if abs(gain) < 0.05:
        verdict = "no difference to speak of"
    else:
        verdict = f"{'gradient residual' if gain > 0 else 'identity'} is ahead"
    print(f"gradient residual - identity: {gain:+.2f} dB with this seed: {verdict}")

    steps = options.steps * np.arange(1, options.epochs + 1)
    draw(options.out, test, results, curves, steps)
    print(f"pictures and learning curves: {options.out}")


if __name__ == "__main__":
    main()
