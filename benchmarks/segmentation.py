"""Does the gradient residual help segmentation?

Trains a small U-Net on the road scenes of CamVid (11 classes; what is unlabelled counts
neither in the loss nor in the table), with identity skips and gradient residuals of
second order, with a smooth activation in the blocks; `gpu` has ReLU beside it. "longer"
is the control at the same time: identity, trained for as many more epochs as a step of
the gradient residual takes more time.

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

from benchmarks.activations import EachActivation, with_each_activation
from benchmarks.curves import Panel, panel_of, pyplot
from benchmarks.scenes import Scenes, confusion, mean_iou
from benchmarks.study import Study
from benchmarks.tables import Compared, last
from keras_gradres import models

SECOND = {"second_order": True}
SKIPS = {
    "identity": {"residual": "identity"},
    "convex, alpha -3, second order": {"residual": "convex", "alpha": -3.0, **SECOND},
    "gain, second order": {"residual": "gain", **SECOND},
    "identity, longer": {"residual": "identity"},
}
BATCH, EVALUATIONS, LEARNING_RATE = 8, 5, 5e-3
CPU = {
    "seeds": 5,
    "images": 1000,
    "reduced": 1,
    "epochs": 12,
    "filters": 8,
    "levels": 3,
}
SILU = [f"{skip}, SiLU" for skip in SKIPS]


class Segmentation(EachActivation, Study):
    # Each skip with each activation within the blocks.
    variants = with_each_activation(SKIPS)
    budgets = {
        # Few and small, because it is compiling that takes the time.
        "smoke": {**CPU, "seeds": 1, "images": 80, "epochs": 4, "filters": 4}
        | {"levels": 2, "variants": ["identity, SiLU", "gain, second order, SiLU"]},
        "short": {**CPU, "seeds": 3, "reduced": 2, "epochs": 10, "variants": SILU},
        # With ReLU, too, it would take three hours of a core.
        "cpu": {**CPU, "variants": SILU},
        "gpu": {**CPU, "images": 10_000, "epochs": 200, "filters": 32},
    }
    cost, recorded = "epochs", ("images", "reduced", "filters", "levels")
    # What a step in second order takes, in steps of identity: the medians of eight
    # interleaved triples of three steps of this U-Net with PyTorch, in seconds of the
    # processor, are 1.56 (convex) and 1.51 (gain).
    longer = 1.55
    has_data = True
    columns = (
        Compared("mean IoU", last("iou"), 4),
        Compared("wrong pixels, %", "error", 2),
    )
    panels = (Panel("loss", "loss"), Panel("mean IoU", "iou"))

    def load(self):
        folder = None if self.budget == "smoke" else self.folder
        return Scenes(folder, self.settings["images"], self.settings["reduced"])

    def train(self, run, bar):
        scenes = self.parts
        keras.utils.set_random_seed(run["seed"])
        sizes = {name: run[name] for name in ("filters", "levels")}
        skip = self.variants[run["variant"]]
        model = models.UNet(scenes.classes, **sizes, **skip)
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
            np.save(self.found_path(run["variant"]), found[shown(x)].astype("uint8"))
        return result

    def found_path(self, variant):
        return self.out / f"found {variant}.npy"

    def heading(self, group):
        count, height, width, _ = self.parts.train[0].shape
        images = f"{self.parts.name}, {count} images of {width} x {height}"
        return f"{images}, {self.lengths()}, {len(self.seeds)} seeds"

    def draw(self):
        """Four images with the masks that seed 0 found, and the curves."""
        scenes, variants = self.parts, self.variants_of({})
        x, masks = scenes.test
        chosen = shown(x)
        columns = {"image": (x[chosen] + 1) / 2, "truth": masks[chosen]}
        columns |= {v: np.load(self.found_path(v)) for v in variants}
        figure, axes = pyplot().subplots(
            len(chosen),
            len(columns) + 1,
            figsize=(2.3 * (len(columns) + 1), 8),
            layout="constrained",
        )
        look = {"vmin": 0, "vmax": scenes.classes - 1, "cmap": "tab20"}
        for column, (name, images) in zip(axes.T, columns.items(), strict=False):
            for axis, image in zip(column, images, strict=True):
                if name != "image":
                    image = np.ma.masked_equal(image, scenes.ignored)
                axis.imshow(image, interpolation="nearest", **look)
                axis.axis("off")
            column[0].set_title(name.replace(", ", "\n"), fontsize=9)
        grid = axes[0, -1].get_gridspec()
        for axis in axes[:, -1]:
            axis.remove()
        for rows, panel in zip((slice(0, 2), slice(2, 4)), self.panels, strict=True):
            axis = figure.add_subplot(grid[rows, -1])
            panel_of(axis, self, panel, {})
        axis.legend(fontsize=6)
        self.save(figure)


def shown(x):
    """The numbers of four images."""
    return np.linspace(0, len(x) - 1, 4).astype(int)


if __name__ == "__main__":
    Segmentation.main()
