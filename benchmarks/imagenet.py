"""Does GAL help to classify ImageNet?

ResNet-50 and EfficientNet-B2 from random weights, with RMSprop alone and inside GAL, 90
epochs. GAL's networks are (512-128) and (512-256), alpha = beta = 0.001, as in the
paper. Its learning rate and its batch are not known to us. The rate here is that of
EfficientNet (arXiv 1905.11946): 0.016 for each 256 images of a batch, risen to in 5
epochs, x 0.97 every 2.4 epochs, with decay and momentum of 0.9 and an epsilon of 0.001.

With the `gpu` budget from FOLDER/imagenet/train and FOLDER/imagenet/val, each with a
folder of images for each class; TFRecords are not read. It is in mixed precision
(bfloat16), on all devices that JAX has, and goes on from the last epoch where it was
interrupted (see `large.py`). It has not been run. `smoke` is its miniature: two classes
of small images that are written as such a folder, and a small network. The images are
CIFAR-10's where FOLDER has them, and made up elsewhere.

    python -m benchmarks.imagenet --budget gpu --data FOLDER
"""

import pathlib

import keras
import numpy as np
from PIL import Image

from benchmarks import data, large
from benchmarks.study import Study, compared, pyplot, table
from keras_gradres.callbacks import Diagnostics
from keras_gradres.optimizers import GAL

ALPHA = BETA = 0.001
# Name: GAL's hidden layers, and the side of the images.
NETWORKS = {
    "ResNet-50": ((512, 128), 224),
    "EfficientNet-B2": ((512, 256), 260),
    "miniature": ((16, 8), 8),
}
EPOCHS_UP, EPOCHS_DOWN, DOWN = 5, 2.4, 0.97
BUDGETS = {
    "smoke": {
        "seeds": 1,
        "networks": ["miniature"],
        "training": {"epochs": 6, "batch": 16, "dtype": "float32"},
        "workers": {},
    },
    "gpu": {
        "seeds": 1,
        "networks": ["ResNet-50", "EfficientNet-B2"],
        "training": {"epochs": 90, "batch": 1024, "dtype": "mixed_bfloat16"},
        "workers": {"workers": 16, "use_multiprocessing": True, "max_queue_size": 32},
    },
}


@keras.saving.register_keras_serializable("benchmarks")
class WarmUpAndDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Rises in a line to `rate` until `warmup_steps`, and falls by steps from there."""

    def __init__(self, rate, warmup_steps, decay_steps, decay=DOWN):
        self.rate, self.warmup_steps = rate, warmup_steps
        self.decay_steps, self.decay = decay_steps, decay

    def __call__(self, step):
        step = keras.ops.cast(step, "float32")
        rising = keras.ops.minimum(1.0, (step + 1) / self.warmup_steps)
        falls = keras.ops.floor(step / self.decay_steps)
        return self.rate * rising * self.decay**falls

    def get_config(self):
        return {
            "rate": self.rate,
            "warmup_steps": self.warmup_steps,
            "decay_steps": self.decay_steps,
            "decay": self.decay,
        }


def small(root, cifar=None, classes=2, count=32):
    """Writes a folder of small images.

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
                images = [stripes(label, rng) for _ in range(count)]
            else:
                x, y = cifar[i]
                images = x[y == label][:count]
            for number, image in enumerate(images):
                Image.fromarray(image).save(folder / f"{number:02}.png")
    return root


def stripes(label, rng):
    waves = np.sin(np.pi * np.arange(8) * (label + 1) / 2)
    image = 128 + 90 * waves[:, None, None] + rng.normal(0, 20, (8, 8, 3))
    return np.clip(image, 0, 255).astype("uint8")


def make_network(name, classes, side):
    """From images in [0, 255] to logits in float32."""
    images = keras.Input((side, side, 3))
    scaled = keras.layers.Rescaling(1 / 64, -2)
    arguments = {"include_top": False, "weights": None, "pooling": "avg"}
    if name == "ResNet-50":
        x = keras.applications.ResNet50(**arguments)(scaled(images))
    elif name == "EfficientNet-B2":  # It scales by itself.
        x = keras.applications.EfficientNetB2(**arguments)(images)
        x = keras.layers.Dropout(0.3)(x)
    else:
        x = large.miniature(scaled(images))
    logits = keras.layers.Dense(classes, dtype="float32")(x)
    return keras.Model(images, logits)


def make(run, classes, steps):
    """A compiled model; `steps` are those of an epoch."""
    keras.utils.set_random_seed(run["seed"])
    hidden_units, side = NETWORKS[run["network"]]
    model = make_network(run["network"], classes, side)
    schedule = WarmUpAndDecay(
        0.016 * run["training"]["batch"] / 256, EPOCHS_UP * steps, EPOCHS_DOWN * steps
    )
    optimizer = keras.optimizers.RMSprop(schedule, rho=0.9, momentum=0.9, epsilon=1e-3)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if run["gal"]:
        optimizer = GAL(
            optimizer, ALPHA, BETA, hidden_units, skip=False, seed=run["seed"]
        )
        loss = optimizer.loss(loss)
    top = keras.metrics.SparseTopKCategoricalAccuracy(min(5, classes), name="top5")
    model.compile(optimizer, loss, metrics=["accuracy", top])
    return model


def load(study, run):
    """The images to train with and to test, and the number of classes."""
    root = pathlib.Path(study.data or "") / "imagenet"
    if study.budget == "smoke":
        found = data.cifar10(study.data) if data.has(study.data, "cifar10") else None
        root = small(study.out / "imagenet", found)
    _, side = NETWORKS[run["network"]]
    workers, batch = study.settings["workers"], run["training"]["batch"]
    train, labels, names = large.folder_of_classes(root / "train")
    test, test_labels, _ = large.folder_of_classes(root / "val")
    return (
        large.Images(
            train, labels, side, batch, large.random_window, run["seed"], **workers
        ),
        large.Images(test, test_labels, side, batch, large.center_window, **workers),
        len(names),
    )


def train(run, bar, study):
    keras.config.set_dtype_policy(run["training"]["dtype"])
    images, test, classes = load(study, run)
    _, records = large.train_in_epochs(
        lambda: make(run, classes, len(images)),
        images,
        test,
        run["training"]["epochs"],
        study.out / "checkpoints" / f"{run['variant']} {run['seed']}",
        [Diagnostics()] if run["gal"] else [],
        lambda record: bar.update(),
    )
    return [{name: [r[name] for r in records] for name in records[0]}]


def errors(study, measure, network, gal):
    """In percent, after the last epoch."""
    return 100 - 100 * study.of(lambda r: r[measure][-1], network=network, gal=gal)


def report(study):
    rows = []
    for network in study.settings["networks"]:
        for gal in (False, True):
            cells = []
            for measure in ("val_accuracy", "val_top5"):
                values, base = (
                    errors(study, measure, network, g) for g in (gal, False)
                )
                mean, difference, p = compared(values, base, 2)
                cells += [mean, difference, p] if gal else [mean, "", ""]
            speed = study.of(
                lambda r: r["images_per_second"][-1], network=network, gal=gal
            )
            rows.append([network + ", GAL" * gal, *cells, f"{speed.mean():.0f}"])
    header = ["RMSprop", "error, %", "difference", "p", "top 5", "difference", "p"]
    return (
        f"{study.settings['training']['epochs']} epochs, {len(study.seeds)} seeds\n\n"
        f"{table([*header, 'images a second'], rows)}\n\n± is the standard error; p "
        "that of the paired t-test against RMSprop alone."
    )


def draw(study):
    plt = pyplot()
    figure, axes = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
    for i, network in enumerate(study.settings["networks"]):
        for gal in (False, True):
            style = {"color": f"C{i}", "linestyle": "--" if gal else "-"}
            for axis, name in zip(axes, ("loss", "val_accuracy"), strict=True):
                curves = study.of(lambda r: r[name], network=network, gal=gal)  # noqa: B023
                values = (
                    curves.mean(0) if name == "loss" else 100 - 100 * curves.mean(0)
                )
                epochs = 1 + np.arange(len(values))
                axis.plot(epochs, values, label=network + ", GAL" * gal, **style)
                axis.set_xlabel("epoch")
    axes[0].set_title("training loss, mean over seeds")
    axes[1].set_title("error, %")
    axes[1].legend()
    study.save(figure)


def main():
    study = Study(__doc__, BUDGETS, data=True)
    large.distribute()
    study.run(
        [
            {
                "variant": network + ", GAL" * gal,
                "network": network,
                "gal": gal,
                "seed": seed,
                "training": study.settings["training"],
            }
            for seed in study.seeds
            for network in study.settings["networks"]
            for gal in (False, True)
        ],
        lambda runs, bar: train(runs[0], bar, study),
        cost=lambda run: run["training"]["epochs"],
    )
    study.conclude(report(study), lambda: draw(study), large.check)


if __name__ == "__main__":
    main()
