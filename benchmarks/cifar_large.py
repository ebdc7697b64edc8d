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
import numpy as np

from benchmarks import cifar, data, large
from benchmarks.study import Study, compared, pyplot, table
from keras_gradres.callbacks import Diagnostics
from keras_gradres.optimizers import GAL, AdaBound, Lookahead

OPTIMIZERS = ("SGD", "Lookahead", "AdaBound")
GAL_ARGUMENTS = {
    "alpha": 0.001,
    "beta": 0.001,
    "hidden_units": (100, 32, 16),
    "skip": False,
}
BUDGETS = {
    "smoke": {
        "seeds": 1,
        "sets": ["made up"],
        "optimizers": ["Lookahead"],
        "training": {"epochs": 3, "batch": 16, "size": 32, "dtype": "float32"},
        "workers": {},
    },
    "gpu": {
        "seeds": 5,
        "sets": ["CIFAR-10", "CIFAR-100"],
        "optimizers": list(OPTIMIZERS),
        "training": {
            "epochs": 300,
            "batch": 320,
            "size": 224,
            "dtype": "mixed_bfloat16",
        },
        "workers": {"workers": 16, "use_multiprocessing": True, "max_queue_size": 32},
    },
}
READ = {"CIFAR-10": data.cifar10, "CIFAR-100": data.cifar100}


def load(study):
    """For each set the pairs of images and labels to train with, and to test."""
    if study.budget == "smoke":
        return {"made up": [_of_two(cifar.made_up(400, seed)) for seed in (0, 1)]}
    return {name: READ[name](study.data) for name in study.settings["sets"]}


def _of_two(part):
    x, y = part
    return x[y < 2], y[y < 2]


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


def make(study, run, classes, steps):
    """A compiled model, from images in [0, 255] to logits in float32."""
    keras.utils.set_random_seed(run["seed"])
    training = run["training"]
    images = keras.Input((training["size"], training["size"], 3))
    if study.budget == "smoke":
        x = large.miniature(keras.layers.Rescaling(1 / 64, -2)(images))
    else:
        make_body, name = keras.applications.EfficientNetB1, "efficientnetb1_notop"
        body = large.pretrained(make_body, name, study.data, pooling="avg")
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


def train(run, bar, study, sets):
    training = run["training"]
    keras.config.set_dtype_policy(training["dtype"])
    (x, y), (x_test, y_test) = sets[run["set"]]
    arguments = (training["size"], training["batch"])
    images = large.Images(
        x, y, *arguments, large.moved_window, run["seed"], **study.settings["workers"]
    )
    test = large.Images(
        x_test, y_test, *arguments, large.whole_window, **study.settings["workers"]
    )
    _, records = large.train_in_epochs(
        lambda: make(study, run, int(y.max()) + 1, len(images)),
        images,
        test,
        training["epochs"],
        study.out / "checkpoints" / f"{run['variant']} {run['seed']}",
        [Diagnostics()] if run["gal"] else [],
        lambda record: bar.update(),
    )
    return [{name: [r[name] for r in records] for name in records[0]}]


def of(study, name, **wanted):
    """The curves of a log, one for each seed."""
    return study.of(lambda r: r[name], **wanted)


def report(study):
    rows = []
    for name in study.settings["sets"]:
        for optimizer in study.settings["optimizers"]:
            wanted = {"set": name, "optimizer": optimizer}
            base = 100 - 100 * of(study, "val_accuracy", gal=False, **wanted)[:, -1]
            for gal in (False, True):
                errors = 100 - 100 * of(study, "val_accuracy", gal=gal, **wanted)[:, -1]
                mean, *others = compared(errors, base, 2)
                speed = of(study, "images_per_second", gal=gal, **wanted)[:, -1].mean()
                cells = [mean, *(others if gal else ["", ""]), f"{speed:.0f}"]
                rows.append([f"{name}, {optimizer}" + ", GAL" * gal, *cells])
    header = ["", "error, %", "difference", "p", "images a second"]
    return (
        f"{study.settings['training']['epochs']} epochs, {len(study.seeds)} seeds\n\n"
        f"{table(header, rows)}\n\n± is the standard error; p that of the paired t-test"
        " against the same optimizer alone, not corrected for the number of rows."
    )


def draw(study):
    plt = pyplot()
    sets = study.settings["sets"]
    figure, axes = plt.subplots(
        2, len(sets), figsize=(7 * len(sets), 9), layout="constrained", squeeze=False
    )
    for name, (above, below) in zip(sets, axes.T, strict=True):
        for i, optimizer in enumerate(study.settings["optimizers"]):
            for gal in (False, True):
                wanted = {"set": name, "optimizer": optimizer, "gal": gal}
                loss = of(study, "loss", **wanted).mean(0)
                error = 100 - 100 * of(study, "val_accuracy", **wanted).mean(0)
                style = {"color": f"C{i}", "linestyle": "--" if gal else "-"}
                epochs = 1 + np.arange(len(loss))
                above.plot(epochs, loss, label=optimizer + ", GAL" * gal, **style)
                below.plot(epochs, error, **style)
        above.set(title=f"{name}: training loss, mean over seeds", yscale="log")
        below.set(title=f"{name}: error of the test images, %", xlabel="epoch")
        above.legend()
    study.save(figure)


def main():
    study = Study(__doc__, BUDGETS, data=True)
    large.distribute()
    sets = load(study)
    study.run(
        [
            {
                "variant": f"{name}, {optimizer}" + ", GAL" * gal,
                "set": name,
                "optimizer": optimizer,
                "gal": gal,
                "seed": seed,
                "training": study.settings["training"],
            }
            for seed in study.seeds
            for name in sets
            for optimizer in study.settings["optimizers"]
            for gal in (False, True)
        ],
        lambda runs, bar: train(runs[0], bar, study, sets),
        cost=lambda run: run["training"]["epochs"],
    )
    study.conclude(report(study), lambda: draw(study), large.check)


if __name__ == "__main__":
    main()
