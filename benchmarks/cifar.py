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

from benchmarks import data
from benchmarks.study import Study, compared, pyplot, table
from keras_gradres import models
from keras_gradres.callbacks import Diagnostics
from keras_gradres.optimizers import GAL, AdaBound, Lookahead

IDENTITY = {"residual": "identity"}
CONVEX = {"residual": "convex", "alpha": -3.0}
# Name: the skip, the optimizer, whether inside GAL, and what it is compared with.
VARIANTS = {
    "identity, SGD": (IDENTITY, "sgd", False, None),
    "identity, SGD, GAL": (IDENTITY, "sgd", True, "identity, SGD"),
    "convex, SGD": (CONVEX, "sgd", False, "identity, SGD"),
    "convex, SGD, GAL": (CONVEX, "sgd", True, "identity, SGD"),
    "identity, Lookahead": (IDENTITY, "lookahead", False, None),
    "identity, Lookahead, GAL": (IDENTITY, "lookahead", True, "identity, Lookahead"),
    "identity, AdaBound": (IDENTITY, "adabound", False, None),
    "identity, AdaBound, GAL": (IDENTITY, "adabound", True, "identity, AdaBound"),
    "identity, RMSprop": (IDENTITY, "rmsprop", False, None),
    "identity, RMSprop, GAL": (IDENTITY, "rmsprop", True, "identity, RMSprop"),
}
RATES = {"sgd": 0.05, "lookahead": 0.05, "adabound": 1e-3, "rmsprop": 1e-3}
BATCH = 64
TESTED = 250  # Images of a batch of the test.
WATCHED = 1000  # Test images that the curve of each epoch is made of.
BUDGETS = {
    "smoke": {
        "seeds": 1,
        # Small and in whole batches, because it is compiling that takes the time.
        "depth": 8,
        "epochs": 2,
        "train": 256,
        "variants": ["identity, SGD", "convex, SGD, GAL"],
    },
    "cpu": {
        "seeds": 2,
        "depth": 20,
        "epochs": 4,
        "train": 10_000,
        "variants": list(VARIANTS),
    },
    "gpu": {
        "seeds": 5,
        "depth": 20,
        "epochs": 200,
        "train": 50_000,
        "variants": list(VARIANTS),
    },
}


def load(study):
    if study.budget == "smoke":
        parts = [made_up(study.settings["train"], 0), made_up(TESTED, 1)]
    else:
        parts = data.cifar10(study.data)
    (x, y), (x_test, y_test) = parts
    x, y = x[: study.settings["train"]], y[: study.settings["train"]]
    mean, spread = x.mean((0, 1, 2)), x.std((0, 1, 2))

    def normalized(images):
        return ((images - mean) / spread).astype("float32")

    return (normalized(x), y), (normalized(x_test), y_test)


def made_up(count, seed):
    """Stripes whose number is the class, in noise."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 10, count)
    columns = 2 * np.pi * np.arange(32) / 32
    stripes = np.sin(y[:, None, None, None] * columns[:, None])
    x = 128 + 50 * stripes + rng.normal(0, 20, (count, 32, 32, 3))
    return np.clip(x, 0, 255).astype("uint8"), y


def augmented(x, rng):
    """Mirrored and moved by up to 4 pixels, each image in its own way."""
    padded = np.pad(x, ((0, 0), (4, 4), (4, 4), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, x.shape[1:3], (1, 2))
    moved = windows[np.arange(len(x)), *rng.integers(0, 9, (2, len(x)))]
    moved = moved.transpose(0, 2, 3, 1)
    mirrored = rng.integers(0, 2, len(x)).astype(bool)[:, None, None, None]
    return np.where(mirrored, moved[:, :, ::-1], moved)


def make_optimizer(name, steps):
    schedule = keras.optimizers.schedules.CosineDecay(RATES[name], steps)
    if name == "adabound":
        return AdaBound(schedule, base_learning_rate=RATES[name])
    if name == "rmsprop":
        return keras.optimizers.RMSprop(schedule)
    sgd = keras.optimizers.SGD(schedule, momentum=0.9)
    return Lookahead(sgd) if name == "lookahead" else sgd


def train(run, bar, parts, skip, name="sgd", gal=False):
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
            augmented(x[order], rng),
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
    result["error"] = error(model, x_test, y_test)
    return [result]


def error(model, x, y):
    """In percent."""
    logits = model.predict(x, batch_size=TESTED, verbose=0)
    return 100 * np.mean(logits.argmax(-1) != y)


def last_error(result):
    return result["error"]


def report(study):
    rows = []
    for variant in study.settings["variants"]:
        values = study.of(last_error, variant=variant)
        baseline = VARIANTS[variant][-1]
        cells = compared(values, study.of(last_error, variant=baseline or variant), 2)
        accepted = study.of(lambda r: np.mean(r["accepted"] or np.nan), variant=variant)
        cells = [*cells, "" if np.isnan(accepted).all() else f"{accepted.mean():.2f}"]
        if baseline is None:
            cells[1:3] = ["", ""]
        rows.append([variant, *cells])
    header = [
        f"ResNet-{study.settings['depth']}",
        "error, %",
        "difference",
        "p",
        "accepted",
    ]
    return (
        f"{study.settings['train']} training images, {study.settings['epochs']} "
        f"epochs, {len(study.seeds)} seeds\n\n{table(header, rows)}\n\n± is the "
        "standard error; p that of the paired t-test against the same optimizer alone "
        "with identity skips, not corrected for the number of rows."
    )


def draw(study, look):
    """The curves of each variant; `look(name, i)` is how one is drawn."""
    plt = pyplot()
    figure, axes = plt.subplots(1, 2, figsize=(14, 5), layout="constrained")
    for axis, name in zip(axes, ("loss", "errors"), strict=True):
        for i, variant in enumerate(study.settings["variants"]):
            curves = study.of(lambda r: r[name], variant=variant)  # noqa: B023
            epochs = 1 + np.arange(curves.shape[1])
            axis.plot(epochs, curves.mean(0), label=variant, **look(variant, i))
        axis.set(xlabel="epoch")
    axes[0].set(title="training loss, mean over seeds", yscale="log")
    axes[1].set(title=f"error of the first {WATCHED} test images, %")
    axes[1].legend(fontsize=8)
    study.save(figure)


def look(variant, i):
    return {"linestyle": "--" if VARIANTS[variant][2] else "-", "color": f"C{i // 2}"}


def main():
    study = Study(__doc__, BUDGETS, data=True)
    parts = load(study)
    study.run(
        [
            {"variant": variant, "seed": seed}
            | {name: study.settings[name] for name in ("depth", "epochs", "train")}
            for seed in study.seeds
            for variant in study.settings["variants"]
        ],
        lambda runs, bar: train(runs[0], bar, parts, *VARIANTS[runs[0]["variant"]][:3]),
        cost=lambda run: run["epochs"],
    )
    study.conclude(report(study), lambda: draw(study, look), check)


def check(study):
    """That the networks learn, and that GAL acts."""
    for run, result in study.results:
        assert result["loss"][-1] < result["loss"][0], (run, result)
        assert ("GAL" in run["variant"]) == bool(result["accepted"]), (run, result)


if __name__ == "__main__":
    main()
