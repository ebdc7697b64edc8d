"""Does GAL help a detector to place its boxes?

Trains the small detector of `examples/detector.py`, in the manner of DETR, with AdamW
alone and inside GAL, which adjusts the gradient at the four numbers of each box (64-16,
alpha 0.01, beta 1, as in the GAL paper's Table IV). AP, AP50 and AP75 are those of
COCO's own evaluation, in percent, after the last epoch.

With the `cpu` budget on the raccoons of the folder of data: 160 photographs, the other
40 tested. With `gpu` on FOLDER/coco, in the schedule of DETR: 300 epochs of
`train2017`, batch 64, AdamW 1e-4 with weight decay 1e-4, the rate x 0.1 after 200,
gradients clipped at 0.1, 100 queries, 6 and 6 layers of width 256, dropout 0.1, a
ResNet-50 of ImageNet with its BatchNormalization frozen. What DETR has besides: a rate
of its own, 1e-5, for the backbone, losses at each layer of the decoder, and photographs
of many sizes. What the GAL paper changed of it is not known. It has not been run.
`smoke` makes up its photographs.

    python -m benchmarks.detection --budget cpu --data FOLDER
"""

import pathlib
import sys

import keras
import numpy as np

from benchmarks import shapes
from benchmarks.curves import Panel, panel_of, pyplot
from benchmarks.study import Study
from benchmarks.tables import Compared, Value, mean_of
from keras_gradres.callbacks import Diagnostics
from keras_gradres.optimizers import GAL

# The detector is that of the example, where those find it who want to copy it.
sys.path.append(str(pathlib.Path(__file__).parents[1] / "examples"))

from detector import BoxLoss, ClassLoss, make_detector
from photographs import (
    Batches,
    average_precision,
    coco,
    detect,
    opened,
    raccoon,
)

PAPER = {"alpha": 0.01, "beta": 1.0, "hidden_units": (64, 16), "skip": False}
MEASURES = ("AP", "AP50", "AP75")
SMALL = {"size": 48, "width": 48, "decoders": 1, "filters": (16, 32, 48)}
SMALLEST = {"size": 32, "width": 16, "encoders": 0, "decoders": 1, "filters": (8, 16)}
DETR = {"size": 512, "queries": 100, "width": 256, "heads": 8, "encoders": 6}
DETR |= {"decoders": 6, "dropout": 0.1}
SHOWN = 4


class Detection(Study):
    variants = {"AdamW": None, "GAL": PAPER}
    baseline = "AdamW"
    budgets = {
        "smoke": {"seeds": 1, "evaluations": 2, "network": SMALLEST}
        | {"training": {"epochs": 12, "batch": 8, "rate": 3e-3, "clip": 1.0}},
        "cpu": {"seeds": 5, "evaluations": 4, "network": SMALL}
        | {"training": {"epochs": 40, "batch": 16, "rate": 1e-3, "clip": 1.0}},
        "gpu": {"seeds": 1, "evaluations": 30, "network": DETR}
        | {"training": {"epochs": 300, "batch": 64, "rate": 1e-4, "clip": 0.1}},
    }
    cost = "epochs"
    has_data = True
    columns = (
        *(Compared(m, lambda r, m=m: r["AP"][-1][m], 1) for m in MEASURES),
        Value("accepted", mean_of("accepted")),
    )
    against = "AdamW alone"
    panels = (
        Panel("loss of the boxes in training", "boxes"),
        *(Panel(m, lambda r, m=m: [ap[m] for ap in r["AP"]]) for m in MEASURES),
    )
    falls = "boxes"

    def settings_of(self, variant):
        return {"training": self.settings["training"]}

    def length(self, run):
        return run["training"]["epochs"]

    def load(self):
        """Photographs to train with, to test, names; whether memory holds them."""
        if self.budget == "gpu":
            root = pathlib.Path(self.folder or "") / "coco"
            train, names = coco(root, "train2017")
            return train, coco(root, "val2017")[0], names, False
        folder = shapes.boxes(self.out) if self.budget == "smoke" else self.folder
        if folder is None:
            raise FileNotFoundError(
                "The raccoons are needed. Give the folder that holds `raccoon` as "
                "--data or in the environment variable KERAS_GRADRES_DATA."
            )
        photographs, names = raccoon(folder)
        order = np.random.default_rng(0).permutation(len(photographs))
        tested, trained = np.split(order, [len(photographs) // 5])
        trained, tested = ([photographs[i] for i in part] for part in (trained, tested))
        return trained, tested, names, True

    def make(self, run, classes, steps):
        """A compiled detector."""
        training = run["training"]
        backbone = resnet if self.budget == "gpu" else None
        network = self.settings["network"]
        model = make_detector(classes=classes, backbone=backbone, **network)
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
            [2 * steps // 3], [training["rate"], training["rate"] / 10]
        )
        optimizer = keras.optimizers.AdamW(
            schedule, weight_decay=1e-4, global_clipnorm=training["clip"]
        )
        losses = {"boxes": BoxLoss(), "classes": ClassLoss()}
        arguments = self.variants[run["variant"]]
        if arguments is not None:
            optimizer = GAL(optimizer, seed=run["seed"], **arguments)
            losses["boxes"] = optimizer.loss(losses["boxes"])
        model.compile(optimizer, losses)
        return model

    def train(self, run, bar):
        trained, tested, names, keep = self.parts
        training, size = run["training"], self.settings["network"]["size"]
        keras.utils.set_random_seed(run["seed"])
        batches = Batches(trained, size, training["batch"], run["seed"], keep)
        model = self.make(run, len(names), training["epochs"] * len(batches))
        callbacks = [Diagnostics()] if self.variants[run["variant"]] else []
        result = {"epochs": [], "loss": [], "boxes": [], "accepted": [], "AP": []}
        every = training["epochs"] // self.settings["evaluations"]
        for epoch in range(every, training["epochs"] + 1, every):
            history = model.fit(
                batches, epochs=every, verbose=0, shuffle=False, callbacks=callbacks
            ).history
            found = detect(model, tested, size)
            result["epochs"].append(epoch)
            result["loss"] += history["loss"]
            result["boxes"] += history["boxes_loss"]
            result["accepted"] += history.get("gal_accepted", [])
            result["AP"].append(average_precision(tested, found, names))
            bar.update(every)
        best = [
            (boxes[scores.argmax()], scores.max()) for boxes, _, scores in found[:SHOWN]
        ]
        result["found"] = [[*map(float, box), float(score)] for box, score in best]
        return result

    def heading(self, group):
        trained, tested, *_ = self.parts
        epochs = self.settings["training"]["epochs"]
        return (
            f"{len(trained)} photographs, {epochs} epochs, "
            f"{len(tested)} photographs tested, {len(self.seeds)} seeds"
        )

    def draw(self):
        plt = pyplot()
        figure, axes = plt.subplots(2, SHOWN, figsize=(15, 8), layout="constrained")

        def outline(axis, box, color, width):
            left, top, *size = box
            style = {"edgecolor": color, "linewidth": width}
            axis.add_patch(plt.Rectangle((left, top), *size, fill=False, **style))

        photographs = self.parts[1][:SHOWN]
        for i, (axis, photograph) in enumerate(zip(axes[0], photographs, strict=True)):
            axis.imshow(opened(photograph))
            for box in photograph.boxes:
                outline(axis, box, "white", 3)
            for j, variant in enumerate(self.variants):
                *box, _ = self.of("found", variant=variant)[0][i]
                outline(axis, box, f"C{j}", 2)
            axis.axis("off")
        axes[0, 0].set_title("white: the truth; the best of each, seed 0", loc="left")
        for axis, panel in zip(axes[1], self.panels, strict=True):
            panel_of(axis, self, panel, {})
        axes[1, 0].legend()
        self.save(figure)

    def check(self):
        """That the detectors learn, and that GAL acts."""
        super().check()
        for run, result in self.results:
            assert result["boxes"][-1] < 0.8 * result["boxes"][0], (run, result)
            acts = bool(result["accepted"])
            assert acts == bool(self.variants[run["variant"]]), (run, result)


def resnet(images):
    """The features of a ResNet-50 of ImageNet, its statistics as they are."""
    model = keras.applications.ResNet50(include_top=False)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    pixels = 127.5 * (images + 1)
    return model(keras.applications.resnet50.preprocess_input(pixels))


if __name__ == "__main__":
    Detection.main()
