"""Do gradient residuals and GAL help to classify CIFAR-10?

Trains ResNet-20 with identity skips and with gradient residuals, with SGD alone and
inside GAL, and the identity network with Lookahead, AdaBound and RMSprop, alone and
inside GAL as well. The error is that of the whole test set after the last epoch.

With the `cpu` budget on the first 10,000 training images and for few epochs, which is
what two cores can do; with `gpu` on what the folder has, for 200 epochs. `smoke` makes
up its images.

    python -m benchmarks.cifar --budget cpu --data FOLDER
"""

import keras
import numpy as np

from benchmarks import data, images, shapes
from benchmarks.curves import Panel
from benchmarks.study import Study
from benchmarks.tables import Compared, Value, mean_of
from keras_gradres import models
from keras_gradres.callbacks import Diagnostics
from keras_gradres.optimizers import GAL, AdaBound, Lookahead

IDENTITY = {"residual": "identity"}
CONVEX = {"residual": "convex", "alpha": -3.0}
RATES = {"SGD": 0.05, "Lookahead": 0.05, "AdaBound": 1e-3, "RMSprop": 1e-3}
BATCH = 64
TESTED = 250  # Images of a batch of the test.
WATCHED = 1000  # Test images that the curve of each epoch is made of.


class Cifar(Study):
    # The skip, the optimizer, and whether it is inside GAL.
    variants = {
        f"{name}, {optimizer}" + ", GAL" * gal: (skip, optimizer, gal)
        for name, skip, optimizer in (
            ("identity", IDENTITY, "SGD"),
            ("convex", CONVEX, "SGD"),
            *(("identity", IDENTITY, o) for o in ("Lookahead", "AdaBound", "RMSprop")),
        )
        for gal in (False, True)
    }
    budgets = {
        # Small and in whole batches, because it is compiling that takes the time.
        "smoke": {"seeds": 1, "depth": 8, "epochs": 2, "train": 256}
        | {"variants": ["identity, SGD", "convex, SGD, GAL"]},
        "cpu": {"seeds": 2, "depth": 20, "epochs": 4, "train": 10_000},
        "gpu": {"seeds": 5, "depth": 20, "epochs": 200, "train": 50_000},
    }
    cost, recorded = "epochs", ("depth", "train")
    has_data = True
    columns = (Compared("error, %", "error"), Value("accepted", mean_of("accepted")))
    against = "the same optimizer alone with identity skips"
    panels = (
        Panel("training loss, mean over seeds", "loss", log=True),
        Panel(f"error of the first {WATCHED} test images, %", "errors"),
    )

    def load(self):
        if self.budget == "smoke":
            parts = [
                shapes.stripes(self.settings["train"], 0),
                shapes.stripes(TESTED, 1),
            ]
        else:
            parts = data.cifar10(self.folder)
        (x, y), (x_test, y_test) = parts
        x, y = x[: self.settings["train"]], y[: self.settings["train"]]
        mean, spread = x.mean((0, 1, 2)), x.std((0, 1, 2))

        def normalized(images):
            return ((images - mean) / spread).astype("float32")

        return (normalized(x), y), (normalized(x_test), y_test)

    def baseline_of(self, variant):
        return f"identity, {self.variants[variant][1]}"

    def train(self, run, bar):
        return train(run, bar, self.parts, *self.variants[run["variant"]])

    def heading(self, group):
        depth, train = self.settings["depth"], self.settings["train"]
        return (
            f"ResNet-{depth}, {train} training images, {self.lengths()}, "
            f"{len(self.seeds)} seeds"
        )

    def style(self, variant, i):
        dashes = "--" if self.variants[variant][2] else "-"
        return {"linestyle": dashes, "color": f"C{i // 2}"}

    def check(self):
        super().check()
        for run, result in self.results:
            assert ("GAL" in run["variant"]) == bool(result["accepted"]), (run, result)


def make_optimizer(name, steps):
    schedule = keras.optimizers.schedules.CosineDecay(RATES[name], steps)
    if name == "AdaBound":
        return AdaBound(schedule, base_learning_rate=RATES[name])
    if name == "RMSprop":
        return keras.optimizers.RMSprop(schedule)
    sgd = keras.optimizers.SGD(schedule, momentum=0.9)
    return Lookahead(sgd) if name == "Lookahead" else sgd


def train(run, bar, parts, skip, name="SGD", gal=False):
    """The curves of a run, of a network with the arguments `skip`."""
    (x, y), (x_test, y_test) = parts
    keras.utils.set_random_seed(run["seed"])
    model = models.ResNet(run["depth"], **skip)
    x_epoch = len(x) // BATCH * BATCH
    optimizer = make_optimizer(name, run["epochs"] * x_epoch // BATCH)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    callbacks = []
    if gal:
        optimizer = GAL(optimizer, seed=run["seed"], skip=False)
        loss = optimizer.loss(loss)
        callbacks = [Diagnostics()]
    model.compile(optimizer, loss, metrics=["accuracy"])
    rng = np.random.default_rng(run["seed"])
    result = {"loss": [], "errors": [], "accepted": []}
    for _ in range(run["epochs"]):
        order = rng.permutation(len(x))[:x_epoch]
        history = model.fit(
            images.augmented(x[order], rng),
            y[order],
            batch_size=BATCH,
            shuffle=False,
            verbose=0,
            callbacks=callbacks,
        ).history
        watched = error(model, x_test[:WATCHED], y_test[:WATCHED])
        result["loss"].append(history["loss"][0])
        result["errors"].append(watched)
        result["accepted"] += history.get("gal_accepted", [])
        bar.update()
    return {**result, "error": error(model, x_test, y_test)}


def error(model, x, y):
    """In percent."""
    logits = model.predict(x, batch_size=TESTED, verbose=0)
    return 100 * np.mean(logits.argmax(-1) != y)


if __name__ == "__main__":
    Cifar.main()
