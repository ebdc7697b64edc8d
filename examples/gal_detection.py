"""GAL on a detection: boxes around the raccoons of 200 photographs.

Trains a small detector in the manner of DETR (`detector.py`) with AdamW, alone or
inside GAL, which adjusts the gradient at the four numbers of each box. Prints the
average precision of COCO on the photographs that were kept back, and draws what was
found on some. Takes some minutes on two CPU cores:

    KERAS_BACKEND=jax python examples/gal_detection.py FOLDER
    KERAS_BACKEND=jax python examples/gal_detection.py FOLDER --plain

FOLDER holds https://github.com/datitran/raccoon_dataset as `raccoon`, that is, its
`images` and the table of boxes as `labels.csv`; or it is in the format of COCO, with
--split naming two of its parts, as in `--split train2017 val2017`.

What one has to write for GAL is the two lines in `main` that mention it.
"""

import argparse

import keras
import matplotlib
import numpy as np
from detector import BoxLoss, ClassLoss, make_detector
from photographs import Batches, average_precision, coco, detect, opened, raccoon

from keras_gradres.optimizers import GAL

SIZE = 64
BATCH = 16


def load(folder, splits):
    """Photographs to train with, photographs to test, and the names of the classes."""
    if splits:
        train, names = coco(folder, splits[0])
        return train, coco(folder, splits[1])[0], names
    photographs, names = raccoon(folder)
    order = np.random.default_rng(0).permutation(len(photographs))
    photographs = [photographs[i] for i in order]
    tested = len(photographs) // 5
    return photographs[tested:], photographs[:tested], names


def draw(path, photographs, found, names):
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 4, figsize=(14, 7), layout="constrained")
    for axis, photograph, parts in zip(axes.flat, photographs, found, strict=False):
        axis.imshow(opened(photograph))
        axis.axis("off")
        truth = [(box, "white", None) for box in photograph.boxes]
        boxes, classes, scores = parts
        kept = np.union1d(np.flatnonzero(scores > 0.5), scores.argmax())
        marked = [
            (boxes[i], "red", f"{names[classes[i]]} {scores[i]:.2f}") for i in kept
        ]
        for (left, top, width, height), color, text in truth + marked:
            axis.add_patch(
                plt.Rectangle(
                    (left, top), width, height, fill=False, edgecolor=color, linewidth=2
                )
            )
            axis.text(left, top, text or "", color="white", backgroundcolor=color)
    figure.suptitle("white: the truth; red: found, with the score")
    figure.savefig(path, dpi=80)
    print(f"Drawn: {path}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder")
    parser.add_argument("--split", nargs=2, help="of COCO: to train with, and to test")
    parser.add_argument("--plain", action="store_true", help="without GAL")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="gal_detection.png")
    options = parser.parse_args()

    train, test, names = load(options.folder, options.split)
    keras.utils.set_random_seed(options.seed)
    model = make_detector(SIZE, len(names), filters=(16, 32, 64))
    batches = Batches(train, SIZE, BATCH, options.seed, keep=not options.split)
    steps = options.epochs * len(batches)
    schedule = keras.optimizers.schedules.CosineDecay(1e-3, steps)
    optimizer = keras.optimizers.AdamW(schedule, 1e-4, global_clipnorm=1.0)
    losses = {"boxes": BoxLoss(), "classes": ClassLoss()}
    if not options.plain:
        optimizer = GAL(optimizer, 0.01, 1.0, (64, 16), skip=False, seed=options.seed)
        losses["boxes"] = optimizer.loss(losses["boxes"])
    model.compile(optimizer, losses)
    model.fit(batches, epochs=options.epochs, shuffle=False, verbose=2)
    found = detect(model, test, SIZE)
    for name, value in average_precision(test, found, names).items():
        print(f"{name}: {value:.1f} %")
    if not options.plain:
        print({name: round(value, 4) for name, value in optimizer.diagnostics.items()})
    draw(options.output, test, found, names)


if __name__ == "__main__":
    main()
