"""Does the gradient residual help segmentation?

Trains a small U-Net on the road scenes of CamVid (11 classes; what is unlabelled counts
neither in the loss nor in the table), with identity skips and gradient residuals of
second order, each with a smooth activation in its blocks. "longer" is the control at
the same time: identity, trained for as many more epochs as a step of the gradient
residual takes more time.

With `--data FOLDER`: FOLDER/camvid, or else FOLDER/images and FOLDER/masks, which hold
images and masks of the same names, whose values are the classes; they are cut to the
same size, and the last fifth of them tested. Without, as in the smoke test, the images
are made up: disks, squares and crosses of stripes and checks on a plain background, in
noise, with exact masks. `short` is for a busy machine: images of half the size.

"mean IoU" is the Jaccard index, averaged over the classes, of the test pixels.

    python -m benchmarks.segmentation --budget cpu --data FOLDER
"""

import keras
import numpy as np

from benchmarks import data, shapes
from benchmarks.study import Study, compared, each_learns, pyplot, table
from keras_gradres import models

SECOND = {"second_order": True}
SKIPS = {
    "identity": {"residual": "identity"},
    "convex, alpha -3, second order": {"residual": "convex", "alpha": -3.0, **SECOND},
    "gain, second order": {"residual": "gain", **SECOND},
    "identity, longer": {"residual": "identity"},
}
# Each skip with each activation within the blocks, and what it is compared with.
VARIANTS = {
    f"{skip}, {name}": ({**kwargs, "activation": name.lower()}, f"identity, {name}")
    for name in ("SiLU", "ReLU")
    for skip, kwargs in SKIPS.items()
}
SMOOTH = [variant for variant in VARIANTS if "SiLU" in variant]
# What a step of gain in second order takes, in steps of identity: the median of eight
# interleaved pairs of this U-Net's steps, with TensorFlow, in seconds of the processor.
LONGER = 1.6
BATCH = 8
EVALUATIONS = 5
LEARNING_RATE = 5e-3
BUDGETS = {
    "smoke": {
        "seeds": 1,
        "images": 80,
        "reduced": 1,
        "epochs": 4,
        "filters": 4,
        # Few and small, because it is compiling that takes the time.
        "levels": 2,
        "variants": ["identity, SiLU", "gain, second order, SiLU"],
    },
    "short": {
        "seeds": 3,
        "images": 1000,
        "reduced": 2,
        "epochs": 10,
        "filters": 8,
        "levels": 3,
        "variants": SMOOTH,
    },
    "cpu": {
        "seeds": 5,
        "images": 1000,
        "reduced": 1,
        "epochs": 12,
        "filters": 8,
        "levels": 3,
        "variants": list(VARIANTS),
    },
}
BUDGETS["gpu"] = {**BUDGETS["cpu"], "images": 10_000, "epochs": 200, "filters": 32}


class Scenes:
    """Images in [-1, 1] and masks, to train on and to test.

    Attributes:
        train: x `(n, height, width, 3)` and masks `(n, height, width)`.
        test: Likewise.
        classes: How many there are.
        ignored: The value of the pixels that do not count, or None.
        name: What the images are.
    """

    def __init__(self, study):
        self.ignored = None
        if study.data is None or study.budget == "smoke":
            rng = np.random.default_rng(0)
            pairs = [shapes.made_up(rng) for _ in range(study.settings["images"])]
            parts, self.name = split(pairs), "made-up shapes"
        elif data.has(study.data, "camvid"):
            parts = data.camvid(study.data)
            self.ignored, self.name = data.CAMVID_UNLABELLED, "CamVid"
        else:
            parts, self.name = split(data.images_and_masks(study.data)), "images"
        self.train, self.test = (
            smaller(*map(np.stack, zip(*pairs, strict=True)), study.settings["reduced"])
            for pairs in parts
        )
        masks = np.concatenate([self.train[1], self.test[1]])
        self.classes = 1 + int(masks[masks != self.ignored].max())


def split(pairs):
    """Cut to the same size; the last fifth are for the test."""
    size = min(min(image.shape[:2]) for image, _ in pairs)
    pairs = [tuple(part[:size, :size] for part in pair) for pair in pairs]
    tested = len(pairs) // 5
    return pairs[:-tested], pairs[-tested:]


def smaller(images, masks, factor):
    """The means of squares of pixels, and the classes at their first corners."""
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


def train(run, bar, study, scenes):
    keras.utils.set_random_seed(run["seed"])
    sizes = {name: run[name] for name in ("filters", "levels")}
    kwargs, _ = VARIANTS[run["variant"]]
    model = models.UNet(scenes.classes, **sizes, **kwargs)
    steps = -(-len(scenes.train[0]) // BATCH) * run["epochs"]
    schedule = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, ignore_class=scenes.ignored
    )
    model.compile(keras.optimizers.Adam(schedule), loss)
    x, truth = scenes.test
    result = {"loss": [], "iou": [], "epochs": []}
    for epoch in range(1, run["epochs"] + 1):
        history = model.fit(*scenes.train, batch_size=BATCH, verbose=0).history
        bar.update()
        if epoch * EVALUATIONS // run["epochs"] == len(result["epochs"]):
            continue
        found = model.predict(x, batch_size=BATCH, verbose=0).argmax(-1)
        counts = confusion(truth, found, scenes.classes, scenes.ignored)
        result["loss"].append(history["loss"][0])
        result["iou"].append(mean_iou(counts))
        result["epochs"].append(epoch)
    result["error"] = 100 * (1 - np.trace(counts) / counts.sum())
    if run["seed"] == 0:
        np.save(found_path(study, run["variant"]), found[shown(x)].astype("uint8"))
    return [result]


def shown(x):
    """The numbers of four images."""
    return np.linspace(0, len(x) - 1, 4).astype(int)


def found_path(study, variant):
    return study.out / f"found {variant}.npy"


def report(study, scenes):
    rows = []
    for variant in study.settings["variants"]:
        iou, base, error, base_error = (
            study.of(read, variant=v)
            for read in (lambda r: r["iou"][-1], lambda r: r["error"])
            for v in (variant, VARIANTS[variant][1])
        )
        rows.append([variant, *compared(iou, base, 4), *compared(error, base_error, 2)])
    header = ["", "mean IoU", "difference", "p", "wrong pixels, %", "difference", "p"]
    x = scenes.train[0]
    return (
        f"{scenes.name}, {len(x)} images of {x.shape[2]} x {x.shape[1]}, "
        f'{study.settings["epochs"]} epochs ({longer(study)} in "longer"), '
        f"{len(study.seeds)} seeds\n\n{table(header, rows)}\n\n± is the standard "
        "error, p that of the paired t-test against identity with the same activation, "
        "not corrected for the number of rows."
    )


def longer(study):
    return round(LONGER * study.settings["epochs"])


def draw(study, scenes):
    plt = pyplot()
    x, masks = scenes.test
    variants = study.settings["variants"]
    chosen = shown(x)
    masks = {"truth": masks[chosen]} | {
        variant: np.load(found_path(study, variant)) for variant in variants
    }
    columns = len(masks) + 2
    figure, axes = plt.subplots(
        4, columns, figsize=(2.3 * columns, 8), layout="constrained"
    )
    for row, image in zip(axes, x[chosen], strict=True):
        row[0].imshow((image + 1) / 2)
    axes[0, 0].set_title("image")
    for column, (name, found) in zip(axes.T[1:], masks.items(), strict=False):
        for axis, mask in zip(column, found, strict=True):
            axis.imshow(
                np.ma.masked_array(mask, mask == scenes.ignored),
                vmin=0,
                vmax=scenes.classes - 1,
                cmap="tab20",
                interpolation="nearest",
            )
        column[0].set_title(name.replace(", ", "\n"), fontsize=9)
    for axis in axes.ravel():
        axis.axis("off")
    grid = axes[0, -1].get_gridspec()
    for axis in axes[:, -1]:
        axis.remove()
    for i, (name, title) in enumerate({"loss": "loss", "iou": "mean IoU"}.items()):
        axis = figure.add_subplot(grid[2 * i : 2 * i + 2, -1])
        for variant in variants:
            curves, epochs = (
                study.of(lambda r: r[n], variant=variant).mean(0)  # noqa: B023
                for n in (name, "epochs")
            )
            axis.plot(epochs, curves, label=variant)
        axis.set(title=title, xlabel="epochs")
    axis.legend(fontsize=6)
    study.save(figure)


def make_runs(study):
    names = ("images", "reduced", "epochs", "filters", "levels")
    common = {name: study.settings[name] for name in names}
    return [
        {**common, "variant": variant, "seed": seed}
        | ({"epochs": longer(study)} if "longer" in variant else {})
        for seed in study.seeds
        for variant in study.settings["variants"]
    ]


def main():
    study = Study(__doc__, BUDGETS, data=True)
    scenes = Scenes(study)
    study.run(
        make_runs(study),
        lambda runs, bar: train(runs[0], bar, study, scenes),
        cost=lambda run: run["epochs"],
    )
    study.conclude(report(study, scenes), lambda: draw(study, scenes), each_learns)


if __name__ == "__main__":
    main()
