"""What of GAL matters: the policy, the network, alpha and beta, or any noise?

Trains a small perceptron on half of scikit-learn's digits (with `--budget gpu`
ResNet-20 on CIFAR-10) with SGD, alone and inside GAL with one thing changed at a time:

    policy      what line 7 of Algorithm 1 asks for, l(z - eta~ g) <= l(z) or <; always
                adjusted (line 8) or never (10); "improve" is ours
    noise       uniform or normal noise in the place of h(z), with unit norm or raw
    network     its depth, an activation, a convolutional network over the classes
    alpha       the length of the adjustment
    beta        the length of the tentative step

The error is that of the other half after the last step. (Tables VI and VIII, Figures 6,
7 and 8 of the GAL paper.)

    KERAS_BACKEND=jax python -m benchmarks.gal_ablation --budget cpu
"""

import keras
import numpy as np
from keras import layers

from benchmarks import data, together
from benchmarks.study import Study, compared, pyplot, table
from keras_gradres import models
from keras_gradres.optimizers import GAL

BASELINE = "SGD alone"
SMALL, LARGE = 0.001, 0.1


class Noise(keras.Layer):
    """Noise of the shape of the input, from a distribution of `keras.random`."""

    def __init__(self, distribution, seed):
        super().__init__()
        self.draw = getattr(keras.random, distribution)
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, z):
        noise = self.draw(keras.ops.shape(z), seed=self.generator)
        return noise - 0.5 if self.draw is keras.random.uniform else noise

    def compute_output_shape(self, input_shape):
        return input_shape


def convolutional(seed):
    """Convolutions over the classes, as an image of one row."""
    return keras.Sequential(
        [
            layers.Reshape((-1, 1)),
            layers.Conv1D(16, 3, padding="same", activation="relu"),
            layers.Conv1D(1, 3, padding="same"),
            layers.Flatten(),
        ]
    )


def noise(distribution, normalize):
    def arguments(seed):
        return {"network": Noise(distribution, seed), "normalize": normalize}

    return arguments


# For each factor, the name of a variant and what it changes, for a seed where needed.
FACTORS = {
    "policy": {
        "line 7 with <=": {},
        "line 7 with <": {"policy": "less"},
        "line 8, always": {"policy": "always"},
        "line 10, never": {"policy": "never"},
        "improve": {"policy": "improve"},
    },
    "noise": {
        "uniform": noise("uniform", True),
        "normal": noise("normal", True),
        "uniform, raw": noise("uniform", False),
        "normal, raw": noise("normal", False),
    },
    "network": {
        "z + 100-32-16": {"skip": True},
        "without biases": {"use_bias": False},
        "linear": {"hidden_units": ()},
        "16": {"hidden_units": (16,)},
        "100-100-32-32-16": {"hidden_units": (100, 100, 32, 32, 16)},
        "100-32-16, ReLU": {"activation": "relu"},
        "CNN": lambda seed: {"network": convolutional(seed)},
    },
    "alpha": {str(a): {"alpha": a} for a in (0.0001, 0.01, 0.03, 0.3)},
    "beta": {str(b): {"beta": b} for b in (0.01, 0.1, 10.0)},
}
TASKS = {
    # Batch size, learning rate.
    "digits": (32, 0.05),
    "cifar10": (128, 0.1),
}
BUDGETS = {
    "smoke": {"seeds": 1, "task": "digits", "steps": 60, "evaluations": 3},
    "cpu": {"seeds": 30, "task": "digits", "steps": 800, "evaluations": 20},
    "gpu": {"seeds": 5, "task": "cifar10", "steps": 78_000, "evaluations": 40},
}


def variants(budget):
    """Name: the arguments of GAL as a function of the seed, or None."""
    found = {BASELINE: None}
    for factor, changes in FACTORS.items():
        for name, change in changes.items():
            # At a small alpha nothing can be told apart, at a large one it can.
            for alpha in (SMALL, LARGE) if factor != "alpha" else (SMALL,):
                label = f"{factor}: {name}"
                if factor != "alpha":
                    label += f", alpha {alpha}"
                found[label] = _arguments(alpha, change)
    if budget == "smoke":
        names = (
            BASELINE,
            f"policy: line 7 with <=, alpha {LARGE}",
            f"policy: line 10, never, alpha {LARGE}",
            f"noise: normal, alpha {LARGE}",
            f"network: CNN, alpha {LARGE}",
        )
        found = {name: found[name] for name in names}
    return found


def _arguments(alpha, change):
    def arguments(seed):
        changed = change(seed) if callable(change) else change
        # The paper's network, MLP(z), where it is not another.
        default = {} if "network" in changed else {"skip": False}
        return {"alpha": alpha, **default, **changed}

    return arguments


def load(study):
    """X, y of all samples; the first half of an order of each seed is trained on."""
    if study.settings["task"] == "digits":
        x, y = data.digits()
    else:
        (x, y), (x_test, y_test) = data.cifar10(study.data)
        x, y = np.concatenate([x, x_test]), np.concatenate([y, y_test])
        x = (x - x.mean((0, 1, 2))) / x.std((0, 1, 2))
    return x.astype("float32"), y.astype("int32")


def make_model(task):
    if task == "cifar10":
        return models.ResNet(20, residual="identity")
    hidden = [layers.Dense(units, activation="relu") for units in (64, 32)]
    return keras.Sequential([keras.Input((64,)), *hidden, layers.Dense(10)])


def train(runs, bar, study, x, y, arguments):
    """All seeds of a variant at once."""
    run = runs[0]
    task, evaluations = run["task"], study.settings["evaluations"]
    batch, rate = TASKS[task]
    half = len(x) // 2 if task == "digits" else len(x) - 10_000

    def split(seed):
        if task == "digits":
            order = np.random.default_rng(seed).permutation(len(x))
        else:
            order = np.arange(len(x))  # Its test set is fixed.
        return order[:half], order[half:]

    def make(seed):
        model = make_model(task)
        optimizer = keras.optimizers.SGD(rate, momentum=0.9)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        if arguments is not None:
            optimizer = GAL(
                optimizer, seed=seed, output_shapes=[(None, 10)], **arguments(seed)
            )
            loss = optimizer.loss(loss)
        model.compile(optimizer, loss)
        return model

    def parts(seed):
        trained, tested = split(seed)
        return (x[trained], y[trained]), x[tested]

    _, found = together.train(
        make,
        [run["seed"] for run in runs],
        parts,
        steps=run["steps"],
        batch_size=batch,
        evaluations=evaluations,
        bar=bar,
    )
    results = []
    for run, result in zip(runs, found, strict=True):
        truth = y[split(run["seed"])[1]]
        wrong = result.pop("predictions").argmax(-1) != truth
        results.append({"errors": 100 * wrong.mean(-1), **result})
    return results


def report(study, names):
    rows = []
    baseline = study.of(lambda r: r["errors"][-1], variant=BASELINE)
    for name in names:
        errors = study.of(lambda r: r["errors"][-1], variant=name)
        cells = [*compared(errors, baseline, 2), f"{errors.max():.2f}"]
        for measure in ("accepted", "cosine", "drift", "remainder"):
            if name == BASELINE:
                cells.append("")
                continue
            values = study.of(lambda r: np.mean(r[measure]), variant=name)  # noqa: B023
            digits = ".1e" if measure == "remainder" else ".2f"
            cells.append(f"{values.mean():{digits}}")
        rows.append([name, *cells])
    header = ["", "error, %", "difference", "p", "worst"]
    header += ["accepted", "cosine", "drift", "remainder"]
    return (
        f"{study.settings['task']}, {study.settings['steps']} steps, "
        f"{len(study.seeds)} seeds\n\n{table(header, rows)}\n\n± is the standard "
        "error, p that of the paired t-test against SGD alone, not corrected for the "
        "number of rows; accepted, cosine, drift and remainder: see `GAL.diagnostics`, "
        "means over the evaluations. What is not named is the default: policy <=, "
        f"the paper's h of 100-32-16, beta 1, and alpha {SMALL} where none is given."
    )


def draw(study, names):
    plt = pyplot()
    drawn = [n for n in names if f"alpha {LARGE}" in n and n.split(":")[0] != "beta"]
    drawn += [n for n in names if n.startswith("alpha")]
    figure, axes = plt.subplots(2, 3, figsize=(18, 10), layout="constrained")
    measures = {
        "errors": "test error, %",
        "loss": "training loss",
        "remainder": "mean |remainder|",
        "accepted": "fraction accepted",
        "cosine": "cosine between dl/dz and the adjustment",
    }
    for axis, (measure, title) in zip(axes.ravel(), measures.items(), strict=False):
        for i, name in enumerate([BASELINE, *drawn]):
            if name == BASELINE and measure in ("remainder", "accepted", "cosine"):
                continue
            curves = study.of(lambda r: r[measure], variant=name).mean(0)  # noqa: B023
            steps = study.settings["steps"] * np.linspace(0, 1, len(curves) + 1)[1:]
            color = "black" if name == BASELINE else plt.cm.tab20((i - 1) % 20)
            style = "-" if i <= 20 else "--"
            axis.plot(steps, curves, style, label=name, color=color)
        axis.set(title=title, xlabel="steps")
        if measure in ("errors", "loss", "remainder"):
            axis.set_yscale("log")
    axes[-1, -1].axis("off")
    axes[-1, -1].legend(
        *axes[0, 0].get_legend_handles_labels(), loc="center", fontsize=9
    )
    study.save(figure)


def main():
    study = Study(__doc__, BUDGETS, data=True)
    chosen = variants(study.budget)
    x, y = load(study)
    study.run(
        [
            {"variant": variant, "seed": seed}
            | {name: study.settings[name] for name in ("task", "steps")}
            for variant in chosen
            for seed in study.seeds
        ],
        lambda runs, bar: train(runs, bar, study, x, y, chosen[runs[0]["variant"]]),
        cost=lambda run: run["steps"],
        together=True,
    )
    study.conclude(
        report(study, list(chosen)), lambda: draw(study, list(chosen)), check
    )


def check(study):
    """That "never" is SGD alone, and that nothing else is."""
    alone = study.of(lambda r: r["loss"], variant=BASELINE)
    for run, result in study.results:
        if run["variant"] != BASELINE:
            same = np.allclose(result["loss"], alone[run["seed"]], rtol=1e-4)
            assert same == ("never" in run["variant"]), (run, result, alone)


if __name__ == "__main__":
    main()
