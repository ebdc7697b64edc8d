"""Does the gradient residual help segmentation?

Trains a small U-Net to find the shapes in an image, with identity skips, none, and
gradient residuals. Without `--data`, the images are made up: disks, squares and crosses
of stripes and checks on a plain background, in noise, with exact masks. With it,
FOLDER/images and FOLDER/masks hold images and masks of the same names, whose values are
the classes; they are cut to the same size, and the last fifth of them tested.

"mean IoU" is the Jaccard index, averaged over the classes, of the test pixels.

    python -m benchmarks.segmentation --budget cpu [--data FOLDER]
"""

import keras
import numpy as np
from sklearn.metrics import jaccard_score

from benchmarks import data
from benchmarks.study import Study, compared, pyplot, table
from keras_gradres import models

BASELINE = "identity"
VARIANTS = {
    BASELINE: {"residual": "identity"},
    "none": {"residual": "none"},
    "convex, alpha -3": {"residual": "convex", "alpha": -3.0},
    "convex, alpha 0": {"residual": "convex", "alpha": 0.0},
}
SHAPES = ("disk", "square", "cross")
SIZE = 64
BATCH = 16
LEARNING_RATE = 5e-3
BUDGETS = {
    "smoke": {
        "seeds": 1,
        "images": 80,
        "epochs": 4,
        "filters": 4,
        "levels": 2,
        # Few, because it is compiling that takes the time.
        "variants": [BASELINE, "convex, alpha -3"],
    },
    "cpu": {
        "seeds": 5,
        "images": 1000,
        "epochs": 12,
        "filters": 8,
        "levels": 3,
        "variants": list(VARIANTS),
    },
    "gpu": {
        "seeds": 5,
        "images": 10_000,
        "epochs": 50,
        "filters": 32,
        "levels": 3,
        "variants": list(VARIANTS),
    },
}


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


def load(study):
    """x, mask of all images, of one size."""
    if study.data is None or study.budget == "smoke":
        rng = np.random.default_rng(0)
        pairs = [made_up(rng) for _ in range(study.settings["images"])]
    else:
        pairs = data.images_and_masks(study.data)
        size = min(min(image.shape[:2]) for image, _ in pairs)
        pairs = [tuple(part[:size, :size] for part in pair) for pair in pairs]
    x, masks = (np.stack(parts) for parts in zip(*pairs, strict=True))
    return x.astype("float32") / 127.5 - 1, masks.astype("int32")


def train(run, bar, study, x, masks):
    keras.utils.set_random_seed(run["seed"])
    classes, tested = int(masks.max()) + 1, len(x) // 5
    sizes = {name: run[name] for name in ("filters", "levels")}
    model = models.UNet(classes, **sizes, **VARIANTS[run["variant"]])
    steps = -(-(len(x) - tested) // BATCH) * run["epochs"]
    schedule = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(schedule), loss)
    result = {"loss": [], "iou": []}
    for _ in range(run["epochs"]):
        history = model.fit(
            x[:-tested], masks[:-tested], batch_size=BATCH, verbose=0
        ).history
        found = model.predict(x[-tested:], batch_size=BATCH, verbose=0).argmax(-1)
        result["loss"].append(history["loss"][0])
        result["iou"].append(
            jaccard_score(
                masks[-tested:].ravel(),
                found.ravel(),
                labels=range(classes),
                average="macro",
            )
        )
        bar.update()
    result["error"] = 100 * np.mean(found != masks[-tested:])
    if run["seed"] == 0:
        np.save(found_path(study, run["variant"]), found[:4].astype("uint8"))
    return [result]


def found_path(study, variant):
    return study.out / f"found {variant}.npy"


def report(study, x):
    rows = []
    for variant in study.settings["variants"]:
        iou, base, error, base_error = (
            study.of(read, variant=v)
            for read in (lambda r: r["iou"][-1], lambda r: r["error"])
            for v in (variant, BASELINE)
        )
        rows.append([variant, *compared(iou, base, 4), *compared(error, base_error, 2)])
    header = ["", "mean IoU", "difference", "p", "wrong pixels, %", "difference", "p"]
    return (
        f"{len(x) - len(x) // 5} images, {study.settings['epochs']} epochs, "
        f"{len(study.seeds)} seeds\n\n{table(header, rows)}\n\n± is the standard "
        "error, p that of the paired t-test against identity."
    )


def draw(study, x, masks):
    plt = pyplot()
    tested = slice(len(x) - len(x) // 5, None)
    shown = {"truth": masks[tested][:4]} | {
        variant: np.load(found_path(study, variant))
        for variant in study.settings["variants"]
    }
    figure, axes = plt.subplots(
        4, len(shown) + 2, figsize=(15, 8), layout="constrained"
    )
    for row, image in zip(axes, x[tested], strict=False):
        row[0].imshow((image + 1) / 2)
    axes[0, 0].set_title("image")
    for column, (name, found) in zip(axes.T[1:], shown.items(), strict=False):
        for axis, mask in zip(column, found, strict=True):
            axis.imshow(mask, vmax=masks.max(), interpolation="nearest")
        column[0].set_title(name)
    for axis in axes.ravel():
        axis.axis("off")
    grid = axes[0, -1].get_gridspec()
    for axis in axes[:, -1]:
        axis.remove()
    for i, (name, title) in enumerate({"loss": "loss", "iou": "mean IoU"}.items()):
        axis = figure.add_subplot(grid[2 * i : 2 * i + 2, -1])
        for variant in study.settings["variants"]:
            curves = study.of(lambda r: r[name], variant=variant)  # noqa: B023
            epochs = 1 + np.arange(curves.shape[1])
            axis.plot(epochs, curves.mean(0), label=variant)
        axis.set_title(title)
    axis.legend(fontsize=7)
    study.save(figure)


def main():
    study = Study(__doc__, BUDGETS, data=True)
    x, masks = load(study)
    study.run(
        [
            {"variant": variant, "seed": seed, "size": SIZE}
            | {
                name: study.settings[name]
                for name in ("images", "epochs", "filters", "levels")
            }
            for seed in study.seeds
            for variant in study.settings["variants"]
        ],
        lambda runs, bar: train(runs[0], bar, study, x, masks),
        cost=lambda run: run["epochs"],
    )
    study.conclude(report(study, x), lambda: draw(study, x, masks), check)


def check(study):
    """That the networks learn, each in its own way."""
    losses = [result["loss"] for _, result in study.results]
    assert all(loss[-1] < loss[0] for loss in losses), losses
    assert len({loss[-1] for loss in losses}) == len(losses), losses


if __name__ == "__main__":
    main()
