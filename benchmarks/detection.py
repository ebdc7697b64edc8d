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
from PIL import Image

from benchmarks.study import Study, compared, pyplot, table
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

BASELINE = "AdamW"
PAPER = {"alpha": 0.01, "beta": 1.0, "hidden_units": (64, 16), "skip": False}
VARIANTS = {BASELINE: None, "GAL": PAPER}
MEASURES = ("AP", "AP50", "AP75")
SMALL = {"size": 48, "width": 48, "decoders": 1, "filters": (16, 32, 48)}
DETR = {
    "size": 512,
    "queries": 100,
    "width": 256,
    "heads": 8,
    "encoders": 6,
    "decoders": 6,
    "dropout": 0.1,
}
BUDGETS = {
    "smoke": {
        "seeds": 1,
        "training": {"epochs": 12, "batch": 8, "rate": 3e-3, "clip": 1.0},
        "evaluations": 2,
        "network": {
            "size": 32,
            "width": 16,
            "encoders": 0,
            "decoders": 1,
            "filters": (8, 16),
        },
    },
    "cpu": {
        "seeds": 5,
        "training": {"epochs": 40, "batch": 16, "rate": 1e-3, "clip": 1.0},
        "evaluations": 4,
        "network": SMALL,
    },
    "gpu": {
        "seeds": 1,
        "training": {"epochs": 300, "batch": 64, "rate": 1e-4, "clip": 0.1},
        "evaluations": 30,
        "network": DETR,
    },
}
SHOWN = 4


def load(study):
    """Photographs to train with, those to test, names; whether memory holds them."""
    if study.budget == "gpu":
        root = pathlib.Path(study.data or "") / "coco"
        train, names = coco(root, "train2017")
        return train, coco(root, "val2017")[0], names, False
    folder = made_up(study.out) if study.budget == "smoke" else study.data
    if folder is None:
        raise FileNotFoundError(
            "The raccoons are needed. Give the folder that holds `raccoon` as --data "
            "or in the environment variable KERAS_GRADRES_DATA."
        )
    photographs, names = raccoon(folder)
    order = np.random.default_rng(0).permutation(len(photographs))
    photographs = [photographs[i] for i in order]
    tested = len(photographs) // 5
    return photographs[tested:], photographs[:tested], names, True


def made_up(folder, count=60):
    """A folder as that of the raccoons, of one or two bright boxes in noise."""
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


def resnet(images):
    """The features of a ResNet-50 of ImageNet, its statistics as they are."""
    model = keras.applications.ResNet50(include_top=False)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    pixels = 127.5 * (images + 1)
    return model(keras.applications.resnet50.preprocess_input(pixels))


def make(study, run, classes, steps):
    """A compiled detector."""
    network, training = study.settings["network"], run["training"]
    backbone = resnet if study.budget == "gpu" else None
    model = make_detector(classes=classes, backbone=backbone, **network)
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [2 * steps // 3], [training["rate"], training["rate"] / 10]
    )
    optimizer = keras.optimizers.AdamW(
        schedule, weight_decay=1e-4, global_clipnorm=training["clip"]
    )
    losses = {"boxes": BoxLoss(), "classes": ClassLoss()}
    arguments = VARIANTS[run["variant"]]
    if arguments is not None:
        optimizer = GAL(optimizer, seed=run["seed"], **arguments)
        losses["boxes"] = optimizer.loss(losses["boxes"])
    model.compile(optimizer, losses)
    return model


def train(run, bar, study, parts):
    trained, tested, names, keep = parts
    training, size = run["training"], study.settings["network"]["size"]
    keras.utils.set_random_seed(run["seed"])
    batches = Batches(trained, size, training["batch"], run["seed"], keep)
    model = make(study, run, len(names), training["epochs"] * len(batches))
    callbacks = [Diagnostics()] if VARIANTS[run["variant"]] else []
    result = {"epochs": [], "loss": [], "boxes": [], "accepted": [], "AP": []}
    every = training["epochs"] // study.settings["evaluations"]
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
    return [result]


def report(study, parts):
    trained, tested, *_ = parts
    rows = []
    for variant in VARIANTS:
        cells = []
        for measure in MEASURES:
            values, base = (
                study.of(lambda r: r["AP"][-1][measure], variant=v)  # noqa: B023
                for v in (variant, BASELINE)
            )
            mean, difference, p = compared(values, base, 1)
            cells += [mean, difference, p] if variant != BASELINE else [mean, "", ""]
        accepted = study.of(lambda r: np.mean(r["accepted"] or np.nan), variant=variant)
        cells.append("" if np.isnan(accepted).all() else f"{accepted.mean():.2f}")
        rows.append([variant, *cells])
    header = ["", "AP", "difference", "p", "AP50", "difference", "p"]
    header += ["AP75", "difference", "p", "accepted"]
    return (
        f"{len(trained)} photographs, {study.settings['training']['epochs']} epochs, "
        f"{len(tested)} photographs tested, {len(study.seeds)} seeds\n\n"
        f"{table(header, rows)}\n\n± is the standard error; p that of the paired t-test"
        " against AdamW alone, not corrected for the number of columns."
    )


def draw(study, parts):
    plt = pyplot()
    figure, axes = plt.subplots(2, SHOWN, figsize=(15, 8), layout="constrained")
    colors = {variant: f"C{i}" for i, variant in enumerate(VARIANTS)}
    for i, (axis, photograph) in enumerate(zip(axes[0], parts[1], strict=False)):
        axis.imshow(opened(photograph))
        for box in photograph.boxes:
            outline(plt, axis, box, "white", 3)
        for variant, color in colors.items():
            *box, _ = study.of(lambda r: r["found"], variant=variant)[0][i]
            outline(plt, axis, box, color, 2)
        axis.axis("off")
    axes[0, 0].set_title("white: the truth; the best box of each, seed 0", loc="left")
    for axis, measure in zip(axes[1], ("boxes", *MEASURES), strict=True):
        for variant, color in colors.items():
            if measure == "boxes":
                curves = study.of(lambda r: r["boxes"], variant=variant)
                epochs = 1 + np.arange(curves.shape[1])
            else:
                curves = study.of(
                    lambda r: [ap[measure] for ap in r["AP"]],  # noqa: B023
                    variant=variant,
                )
                epochs = study.of(lambda r: r["epochs"], variant=variant)[0]
            axis.plot(epochs, curves.mean(0), label=variant, color=color)
        axis.set(xlabel="epoch", title=f"{measure}, mean over seeds")
    axes[1, 0].set_title("loss of the boxes in training, mean over seeds")
    axes[1, 0].legend()
    study.save(figure)


def outline(plt, axis, box, color, width):
    left, top, w, h = box
    axis.add_patch(
        plt.Rectangle((left, top), w, h, fill=False, edgecolor=color, linewidth=width)
    )


def main():
    study = Study(__doc__, BUDGETS, data=True)
    parts = load(study)
    study.run(
        [
            {"variant": variant, "seed": seed, "training": study.settings["training"]}
            for seed in study.seeds
            for variant in VARIANTS
        ],
        lambda runs, bar: train(runs[0], bar, study, parts),
        cost=lambda run: run["training"]["epochs"],
    )
    study.conclude(report(study, parts), lambda: draw(study, parts), check)


def check(study):
    """That the detectors learn, and that GAL acts."""
    for run, result in study.results:
        assert result["boxes"][-1] < 0.8 * result["boxes"][0], (run, result)
        assert bool(VARIANTS[run["variant"]]) == bool(result["accepted"]), (run, result)
    boxes = {tuple(result["boxes"]) for _, result in study.results}
    assert len(boxes) == len(VARIANTS), boxes


if __name__ == "__main__":
    main()
