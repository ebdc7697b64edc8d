"""Is GAL more than a mild regularizer, and what does its work better?

With the stable h(z) = z + MLP(z) and a large alpha GAL lowers the errors of a small
perceptron at a fixed learning rate. So do label smoothing and a penalty of the logits,
and a better rate. Here each has its own best rate (`tuned.py`), on half of
scikit-learn's digits with SGD, as they are and with a part of the training labels
drawn anew ("noise"); on scikit-learn's diabetes with outliers among the targets; and a
small convolutional network on CIFAR-10, reduced to 16 x 16:

    label smoothing     the truth is one-hot * (1 - s) + s / 10
    logits penalty      + c |z|^2
    generalized         (1 - p^q) / q, p that of the label (Zhang and Sabuncu, 2018)
    Huber               linear beyond 1, in units of the standard deviation

    KERAS_BACKEND=jax python -m benchmarks.gal_alternatives --budget cpu --data FOLDER
"""

import keras
import numpy as np
from keras import layers, ops

from benchmarks import data, together
from benchmarks.feature_network import body
from benchmarks.gal_ablation import make_model
from benchmarks.study import Study, holm, p_value, pyplot, statistics, table
from benchmarks.tuned import Tuned, grid
from keras_gradres.optimizers import GAL

BASELINE = "SGD alone"
FIXED = 0.05
RATES = grid(0.01, 7)
NOISE, OUTLIERS = 0.3, 0.1
CLASSES = 10


def cross_entropy(smoothing=0.0, penalty=0.0):
    def loss(y, z):
        truth = _one_hot(y) * (1 - smoothing) + smoothing / CLASSES
        return -ops.sum(truth * ops.log_softmax(z), -1) + penalty * ops.sum(z * z, -1)

    return loss


def generalized(q):
    """The generalized cross-entropy; for q near 0 the usual one, for 1 |1 - p|."""

    def loss(y, z):
        log_p = ops.sum(_one_hot(y) * ops.log_softmax(z), -1)
        return (1 - ops.exp(q * log_p)) / q

    return loss


def _one_hot(y):
    return ops.one_hot(ops.cast(ops.reshape(y, (-1,)), "int32"), CLASSES)


# For each problem and method a loss, and the alpha of GAL.
CLASSIFIERS = {
    BASELINE: (cross_entropy(), None),
    "GAL, alpha 0.03": (cross_entropy(), 0.03),
    "GAL, alpha 0.1": (cross_entropy(), 0.1),
    "GAL, alpha 0.3": (cross_entropy(), 0.3),
    "label smoothing, 0.1": (cross_entropy(smoothing=0.1), None),
    "logits penalty, 0.01": (cross_entropy(penalty=0.01), None),
}
NOISY = (BASELINE, "GAL, alpha 0.1", "label smoothing, 0.1")
PROBLEMS = {
    "digits": CLASSIFIERS,
    "digits, noise": {name: CLASSIFIERS[name] for name in NOISY}
    | {f"generalized, q {q}": (generalized(q), None) for q in (0.7,)},
    "diabetes, outliers": {
        BASELINE: (keras.losses.MeanSquaredError(), None),
        "GAL, alpha 0.1": (keras.losses.MeanSquaredError(), 0.1),
        "Huber": (keras.losses.Huber(), None),
    },
    "CIFAR-10": CLASSIFIERS,
}
TRAINING = {"steps": 800, "batch": 32}
LARGER = {"CIFAR-10": {"steps": 300, "batch": 128}}
BUDGETS = {
    "smoke": {"seeds": 1, "rates": 1, "methods": 2}
    | {"problems": ["digits"], **TRAINING, "steps": 60},
    "cpu": {"seeds": 24, "tuning_seeds": 5, "problems": list(PROBLEMS), **TRAINING},
}


def load(study, problem):
    """A function of a seed that returns (x, y), (x_test, y_test)."""
    if problem == "CIFAR-10":
        parts = data.small_cifar10(study.data)
        return lambda seed: parts
    return lambda seed: split(problem, seed)


def split(problem, seed):
    """(x, y), (x_test, y_test); the training half is spoilt where it is to be."""
    rng = np.random.default_rng(seed)
    regression = problem.startswith("diabetes")
    x, y = data.diabetes() if regression else data.digits()
    order = rng.permutation(len(x))
    train, test = np.split(order, [len(x) // 2])
    truth = y[test]
    if regression:
        x = (x - x[train].mean(0)) / x[train].std(0)
        y = (y - y[train].mean()) / y[train].std()
        truth, y = y[test], y[train]
        spoilt = rng.random(y.shape) < OUTLIERS
        y = np.where(spoilt, y + rng.normal(0, 10, y.shape), y).astype("float32")
    else:
        y = y[train]
        if "noise" in problem:
            anew = rng.integers(0, CLASSES, y.shape)
            y = np.where(rng.random(y.shape) < NOISE, anew, y)
    x = x.astype("float32")
    return (x[train], y), (x[test], truth)


def network(problem):
    if problem == "CIFAR-10":
        return keras.Sequential([body("cifar10", (16, 16, 3)), layers.Dense(CLASSES)])
    if problem.startswith("diabetes"):
        hidden = [layers.Dense(units, activation="relu") for units in (64, 32)]
        return keras.Sequential([keras.Input((10,)), *hidden, layers.Dense(1)])
    return make_model("digits")


def compare(study, problem):
    settings = study.settings
    methods = list(PROBLEMS[problem])[: settings.get("methods")]
    regression = problem.startswith("diabetes")
    parts = load(study, problem)

    def make(seed, method):
        loss, alpha = PROBLEMS[problem][method]
        model = network(problem)
        optimizer = keras.optimizers.SGD(FIXED, momentum=0.9)
        if alpha is not None:
            shape = [(None, 1 if regression else CLASSES)]
            optimizer = GAL(optimizer, alpha=alpha, seed=seed, output_shapes=shape)
            loss = optimizer.loss(loss)
        model.compile(optimizer, loss)
        return model

    def fit(run, pairs, bar):
        seeds = [seed for _, seed in pairs]
        splits = {seed: parts(seed) for seed in seeds}
        _, found = together.train(
            lambda seed: make(seed, run["variant"]),
            seeds,
            lambda seed: (splits[seed][0], splits[seed][1][0]),
            steps=run["steps"],
            batch_size=run["batch"],
            evaluations=4,
            rates=[rate for rate, _ in pairs],
            bar=bar,
            keep=False,
        )
        results = []
        for seed, result in zip(seeds, found, strict=True):
            z, truth = result["predictions"], splits[seed][1][1]
            if regression:
                errors = np.abs(z - truth).mean((1, 2))
            else:
                errors = 100 * (z.argmax(-1) != truth).mean(-1)
            # What is not a number has no largest.
            errors = np.where(np.isfinite(z).all((1, 2)), errors, np.inf)
            results.append({"errors": errors})
        return results

    cases = [
        {"variant": method, "problem": problem}
        | {"rates": RATES[2:][: settings["rates"]] if "rates" in settings else RATES}
        | {name: settings[name] for name in TRAINING}
        | LARGER.get(problem, {})
        for method in methods
    ]
    return Tuned(
        study,
        cases,
        fit,
        {"end": lambda method, found: found["errors"][-1]},
        cost=lambda run: run["steps"],
        also=(FIXED,),
    )


def report(study, found):
    texts = []
    for problem, tuned in found.items():
        columns = []
        for rate in (None, FIXED):
            values = {m: tuned.values(m, "end", rate) for m in tuned.best}
            base = values[BASELINE]
            parts = [statistics(values[m], base) for m in values]
            corrected = holm([p for *_, p in parts])
            columns.append(
                [
                    (
                        f"{mean:.3g} ± {error:.2g}",
                        f"{100 * difference / base.mean():+.1f}" if i else "",
                        p_value(p),
                    )
                    for i, ((mean, error, difference, _), p) in enumerate(
                        zip(parts, corrected, strict=True)
                    )
                ]
            )
        rows = [
            [
                m,
                f"{tuned.rate(m, 'end'):g}",
                *best,
                f"{tuned.values(m, 'end').max():.3g}",
                *fixed,
            ]
            for m, best, fixed in zip(tuned.best, *columns, strict=True)
        ]
        error = "MAE" if problem.startswith("diabetes") else "error, %"
        header = ["", "best rate", error, "difference, %", "p", "worst"]
        header += [f"{error}, at {FIXED}", "difference, %", "p"]
        texts.append(f"{problem}\n\n{table(header, rows)}")
    texts.append(
        f"{study.settings['steps']} steps of {study.settings['batch']} (CIFAR-10: 300 "
        f"of 128), {len(study.seeds)} seeds; ± is the standard "
        "error, difference in % of the baseline's, p that of the paired t-test, "
        "corrected by Holm's method for the rows of a table. noise: "
        f"{NOISE:.0%} of the labels are drawn anew; outliers: {OUTLIERS:.0%} of the "
        "targets have noise of 10 standard deviations."
    )
    return "\n\n".join(texts)


def draw(study, found):
    plt = pyplot()
    figure, axes = plt.subplots(
        1, len(found), figsize=(6 * len(found), 4), layout="constrained", squeeze=False
    )
    for axis, (problem, tuned) in zip(axes[0], found.items(), strict=True):
        at = np.arange(len(tuned.best))[::-1]
        for rate, marker in ((None, "o"), (FIXED, "x")):
            values = [tuned.values(method, "end", rate) for method in tuned.best]
            mean = np.array([v.mean() for v in values])
            error = [v.std() / np.sqrt(len(v)) for v in values]
            label = "at its best rate" if rate is None else f"at {rate}"
            axis.errorbar(mean, at, xerr=error, fmt=marker, label=label)
        axis.axvline(tuned.values(BASELINE, "end").mean(), color="grey", linewidth=0.5)
        axis.set(title=problem, xlabel="test error", yticks=at)
        axis.set_yticklabels(list(tuned.best))
    axes[0, 0].legend()
    study.save(figure)


def main():
    study = Study(__doc__, BUDGETS, data=True)
    found = {p: compare(study, p) for p in study.settings["problems"]}
    study.conclude(report(study, found), lambda: draw(study, found), check)


def check(study):
    """That they learn, and that GAL changes something."""
    errors = {
        run["variant"]: np.array(result["errors"]) for run, result in study.results
    }
    assert all((e < 60).any() for e in errors.values()), errors


if __name__ == "__main__":
    main()
