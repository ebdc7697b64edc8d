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

from benchmarks import data, large, shapes
from benchmarks.large_study import LOADERS, LargeStudy, errors, with_gal
from benchmarks.tables import Compared
from keras_gradres.optimizers import GAL

ALPHA = BETA = 0.001
# Name: GAL's hidden layers, and the side of the images.
NETWORKS = {
    "ResNet-50": ((512, 128), 224),
    "EfficientNet-B2": ((512, 256), 260),
    "miniature": ((16, 8), 8),
}
EPOCHS_UP, EPOCHS_DOWN, DOWN = 5, 2.4, 0.97


class ImageNet(LargeStudy):
    variants = with_gal({name: {"network": name} for name in NETWORKS})
    budgets = {
        "smoke": {
            "seeds": 1,
            "variants": ["miniature", "miniature, GAL"],
            "training": {"epochs": 6, "batch": 16, "dtype": "float32"},
            "workers": {},
        },
        "gpu": {
            "seeds": 1,
            "variants": list(with_gal({"ResNet-50": {}, "EfficientNet-B2": {}})),
            "training": {"epochs": 90, "batch": 1024, "dtype": "mixed_bfloat16"},
            "workers": LOADERS,
        },
    }
    columns = (
        Compared("error, %", lambda result: errors("val_accuracy")(result)[-1]),
        Compared("top 5", lambda result: errors("val_top5")(result)[-1]),
        LargeStudy.speed,
    )
    against = "RMSprop alone"

    def images(self, run):
        root = pathlib.Path(self.folder or "") / "imagenet"
        if self.budget == "smoke":
            small = data.has(self.folder, "cifar10") and data.cifar10(self.folder)
            root = shapes.folder_of_classes(self.out / "imagenet", small or None)
        _, side = NETWORKS[run["network"]]
        sizes = side, run["training"]["batch"]
        train, labels, names = large.folder_of_classes(root / "train")
        test, test_labels, _ = large.folder_of_classes(root / "val")
        seed, workers = run["seed"], self.settings["workers"]
        return (
            large.Images(train, labels, *sizes, large.random_window, seed, **workers),
            large.Images(test, test_labels, *sizes, large.center_window, **workers),
            len(names),
        )

    def make(self, run, classes, steps):
        return make(run, classes, steps)


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


if __name__ == "__main__":
    ImageNet.main()
