"""Does GAL help to classify CIFAR-10 and CIFAR-100, in the schedule of its paper?

EfficientNet-B1 at 224 x 224 from the weights of ImageNet, 300 epochs, batch 320, the
rate x 0.1 after 100 and 200. SGD 0.05 with momentum 0.9 and weight decay 1e-5;
Lookahead around it, k 5 and 0.8; AdaBound 1e-3 with weight decay 5e-4; each alone and
inside GAL. The decay is that of Keras, taken from the weights by the side of the
gradient, not added to it.

Not known to us are the paper's network and (alpha, beta) for each optimizer. All rows
have 100-32-16, as the authors' code, and alpha = beta = 0.001, which the paper has
elsewhere. Nor is its augmentation: here it is mirroring, and moving by an eighth.

With the `gpu` budget from FOLDER/cifar-10-batches-py and FOLDER/cifar-100-python, and
from FOLDER/weights/efficientnetb1_notop.h5, which is downloaded if it is not there. It
is in mixed precision (bfloat16), on all devices that JAX has, and goes on from the last
epoch where it was interrupted (see `large.py`). It has not been run. `smoke` is its
miniature: two classes of made-up images, at their own size, and a small network.

    python -m benchmarks.cifar_large --budget gpu --data FOLDER
"""

import keras

from benchmarks import data, large, shapes
from benchmarks.large_study import LOADERS, LargeStudy, errors, with_gal
from benchmarks.tables import Compared
from keras_gradres.optimizers import GAL, AdaBound, Lookahead

GAL_ARGUMENTS = {
    "alpha": 0.001,
    "beta": 0.001,
    "hidden_units": (100, 32, 16),
    "skip": False,
}
READ = {"CIFAR-10": data.cifar10, "CIFAR-100": data.cifar100}


class CifarLarge(LargeStudy):
    variants = with_gal(
        {
            f"{name}, {optimizer}": {"set": name, "optimizer": optimizer}
            for name in ("made up", *READ)
            for optimizer in ("SGD", "Lookahead", "AdaBound")
        }
    )
    budgets = {
        "smoke": {
            "seeds": 1,
            "sets": ["made up"],
            "variants": ["made up, Lookahead", "made up, Lookahead, GAL"],
            "training": {"epochs": 3, "batch": 16, "size": 32, "dtype": "float32"},
            "workers": {},
        },
        "gpu": {
            "seeds": 5,
            "sets": list(READ),
            "training": {"epochs": 300, "batch": 320, "size": 224}
            | {"dtype": "mixed_bfloat16"},
            "workers": LOADERS,
        },
    }
    columns = (
        Compared("error, %", lambda result: errors("val_accuracy")(result)[-1]),
        LargeStudy.speed,
    )
    against = "the same optimizer alone"

    def load(self):
        """For each set the pairs of images and labels to train with, and to test."""
        super().load()
        if self.budget == "smoke":
            return {"made up": made_up()}
        return {name: READ[name](self.folder) for name in self.settings["sets"]}

    def groups(self):
        return [{"set": name} for name in self.settings["sets"]]

    def variants_of(self, group):
        return [
            variant
            for variant in super().variants_of(group)
            if group.items() <= self.variants[variant].items()
        ]

    def images(self, run):
        (x, y), (x_test, y_test) = self.parts[run["set"]]
        sizes = run["training"]["size"], run["training"]["batch"]
        workers = self.settings["workers"]
        return (
            large.Images(x, y, *sizes, large.moved_window, run["seed"], **workers),
            large.Images(x_test, y_test, *sizes, large.whole_window, **workers),
            int(y.max()) + 1,
        )

    def make(self, run, classes, steps):
        return make(run, classes, steps, self.budget == "smoke", self.folder)


def made_up():
    """Images of two classes of stripes."""
    parts = [shapes.stripes(400, seed) for seed in (0, 1)]
    return [(x[y < 2], y[y < 2]) for x, y in parts]


def make_optimizer(name, steps, epochs):
    """`steps` are those of an epoch."""
    drops = [epochs // 3 * steps, 2 * epochs // 3 * steps]

    def schedule(rate):
        rates = [rate, rate / 10, rate / 100]
        return keras.optimizers.schedules.PiecewiseConstantDecay(drops, rates)

    if name == "AdaBound":
        return AdaBound(schedule(1e-3), weight_decay=5e-4, base_learning_rate=1e-3)
    sgd = keras.optimizers.SGD(schedule(0.05), momentum=0.9, weight_decay=1e-5)
    if name == "Lookahead":
        return Lookahead(sgd, sync_period=5, slow_step_size=0.8)
    return sgd


def make(run, classes, steps, miniature, folder=None):
    """A compiled model, from images in [0, 255] to logits in float32."""
    keras.utils.set_random_seed(run["seed"])
    training = run["training"]
    images = keras.Input((training["size"], training["size"], 3))
    if miniature:
        x = large.miniature(keras.layers.Rescaling(1 / 64, -2)(images))
    else:
        make_body, name = keras.applications.EfficientNetB1, "efficientnetb1_notop"
        body = large.pretrained(make_body, name, folder, pooling="avg")
        x = keras.layers.Dropout(0.2)(body(images))
    logits = keras.layers.Dense(classes, dtype="float32")(x)
    model = keras.Model(images, logits)
    optimizer = make_optimizer(run["optimizer"], steps, training["epochs"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if run["gal"]:
        optimizer = GAL(optimizer, seed=run["seed"], **GAL_ARGUMENTS)
        loss = optimizer.loss(loss)
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


if __name__ == "__main__":
    CifarLarge.main()
