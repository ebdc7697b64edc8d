"""A study of a large schedule, each network alone and inside GAL."""

import keras

from benchmarks import large
from benchmarks.curves import Panel
from benchmarks.study import Study
from benchmarks.tables import Value
from keras_gradres.callbacks import Diagnostics

LOADERS = {"workers": 16, "use_multiprocessing": True, "max_queue_size": 32}


def with_gal(names):
    """Of each of the settings a variant alone, and one inside GAL."""
    return {
        name + ", GAL" * gal: {**settings, "gal": gal}
        for name, settings in names.items()
        for gal in (False, True)
    }


def errors(name):
    """In percent, by epoch, from an accuracy of the log."""
    return lambda result: [100 - 100 * value for value in result[name]]


class LargeStudy(Study):
    """A `Study` that says what it trains with, and how a model is made."""

    cost = "epochs"
    has_data = True
    speed = Value("images a second", lambda r: r["images_per_second"][-1], 0)
    panels = (
        Panel("training loss, mean over seeds", "loss", log=True),
        Panel("error of the test images, %", errors("val_accuracy")),
    )

    def images(self, run):
        """The `large.Images` to train with, those to test, and the classes."""
        raise NotImplementedError

    def make(self, run, classes, steps):
        """A compiled model; `steps` are those of an epoch."""
        raise NotImplementedError

    def load(self):
        """Where JAX has several devices, has each batch shared among them."""
        jax = keras.backend.backend() == "jax"
        if jax and len(keras.distribution.list_devices()) > 1:
            keras.distribution.set_distribution(keras.distribution.DataParallel())

    def settings_of(self, variant):
        return {**self.variants[variant], "training": self.settings["training"]}

    def length(self, run):
        return run["training"]["epochs"]

    def baseline_of(self, variant):
        return variant.removesuffix(", GAL")

    def train(self, run, bar):
        keras.config.set_dtype_policy(run["training"]["dtype"])
        images, test, classes = self.images(run)
        _, log = large.train_in_epochs(
            lambda: self.make(run, classes, len(images)),
            images,
            test,
            run["training"]["epochs"],
            self.out / "checkpoints" / f"{run['variant']} {run['seed']}",
            [Diagnostics()] if run["gal"] else [],
            lambda record: bar.update(),
        )
        return {name: [record[name] for record in log] for name in log[0]}

    def heading(self, group):
        epochs = self.settings["training"]["epochs"]
        return ", ".join([*group.values(), f"{epochs} epochs, {len(self.seeds)} seeds"])

    def style(self, variant, i):
        return {"color": f"C{i // 2}", "linestyle": "--" if i % 2 else "-"}

    def check(self):
        """That the networks learn, and that GAL acts."""
        super().check()
        for run, result in self.results:
            assert run["gal"] == ("gal_accepted" in result), (run, result)
