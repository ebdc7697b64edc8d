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

from benchmarks import data
from benchmarks.curves import pyplot
from benchmarks.feature_network import body
from benchmarks.perceptron import ALONE, RATE, perceptron, with_sgd
from benchmarks.tables import Value
from benchmarks.tuned import grid
from benchmarks.tuned_study import Relative, TunedStudy

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
    ALONE: (cross_entropy(), None),
    "GAL, alpha 0.03": (cross_entropy(), 0.03),
    "GAL, alpha 0.1": (cross_entropy(), 0.1),
    "GAL, alpha 0.3": (cross_entropy(), 0.3),
    "label smoothing, 0.1": (cross_entropy(smoothing=0.1), None),
    "logits penalty, 0.01": (cross_entropy(penalty=0.01), None),
}
NOISY = (ALONE, "GAL, alpha 0.1", "label smoothing, 0.1")
PROBLEMS = {
    "digits": CLASSIFIERS,
    "digits, noise": {name: CLASSIFIERS[name] for name in NOISY}
    | {"generalized, q 0.7": (generalized(0.7), None)},
    "diabetes, outliers": {
        ALONE: (keras.losses.MeanSquaredError(), None),
        "GAL, alpha 0.1": (keras.losses.MeanSquaredError(), 0.1),
        "Huber": (keras.losses.Huber(), None),
    },
    "CIFAR-10": CLASSIFIERS,
}
TRAINING = {"steps": 800, "batch": 32}
LARGER = {"CIFAR-10": {"steps": 300, "batch": 128}}


class Alternatives(TunedStudy):
    baseline = against = ALONE
    budgets = {
        "smoke": {"seeds": 1, "rates": 1, "methods": 2}
        | {"problems": ["digits"], **TRAINING, "steps": 60},
        "cpu": {"seeds": 24, "tuning_seeds": 5, "problems": list(PROBLEMS), **TRAINING},
    }
    has_data = True
    also = (RATE,)
    columns = (
        Value("rate", "rate", 6, "g"),
        Relative("error", "end"),
        Value("worst", "end", 3, "g", np.max),
        Relative(f"error at {RATE}", f"end, at {RATE}"),
    )
    note = (
        "Errors in %, those of diabetes the mean absolute error. noise: "
        f"{NOISE:.0%} of the labels are drawn anew; outliers: {OUTLIERS:.0%} of the "
        "targets have noise of 10 standard deviations."
    )

    def groups(self):
        training = {name: self.settings[name] for name in TRAINING}
        return [
            {"problem": problem, **training, **LARGER.get(problem, {})}
            for problem in self.settings["problems"]
        ]

    def variants_of(self, group):
        return list(PROBLEMS[group["problem"]])[: self.settings.get("methods")]

    def rates_of(self, group):
        few = self.settings.get("rates")
        return RATES[2 : 2 + few] if few else RATES

    def evaluations(self, run):
        return 4

    def load(self):
        parts = {"digits": data.digits(), "diabetes": data.diabetes()}
        if "CIFAR-10" in self.settings["problems"]:
            parts["CIFAR-10"] = data.small_cifar10(self.folder)
        return parts

    def split(self, run, seed):
        """The half to train on is spoilt where it is to be."""
        name, _, spoilt = run["problem"].partition(", ")
        if name == "CIFAR-10":
            return self.parts[name]
        x, y = self.parts[name]
        rng = np.random.default_rng(seed)
        (x, y), (x_test, truth) = data.split(
            x, y, rng, len(x) // 2, standardized=name == "diabetes"
        )
        if spoilt == "noise":
            anew = rng.integers(0, CLASSES, y.shape)
            y = np.where(rng.random(y.shape) < NOISE, anew, y)
        elif spoilt == "outliers":
            mean, spread = y.mean(), y.std()
            y, truth = (y - mean) / spread, (truth - mean) / spread
            chosen = rng.random(y.shape) < OUTLIERS
            y = np.where(chosen, y + rng.normal(0, 10, y.shape), y).astype("float32")
        return (x, y), (x_test, truth)

    def make(self, run, seed):
        if run["problem"] == "CIFAR-10":
            shape = (16, 16, 3)
            model = keras.Sequential([body("cifar10", shape), layers.Dense(CLASSES)])
        elif run["problem"].startswith("diabetes"):
            model = perceptron(10, 1)
        else:
            model = perceptron()
        loss, alpha = PROBLEMS[run["problem"]][run["variant"]]
        return with_sgd(model, seed, alpha and {"alpha": alpha}, loss)

    def heading(self, group):
        problem, steps, batch = group.values()
        return f"{problem}, {steps} steps of {batch}, {len(self.seeds)} seeds"

    def draw(self):
        groups = self.groups()
        size = {"figsize": (6 * len(groups), 4), "layout": "constrained"}
        figure, axes = pyplot().subplots(1, len(groups), squeeze=False, **size)
        for axis, group in zip(axes[0], groups, strict=True):
            methods = self.variants_of(group)
            at = np.arange(len(methods))[::-1]
            for label, measure, marker in (
                ("at its best rate", "end", "o"),
                (f"at {RATE}", f"end, at {RATE}", "x"),
            ):
                values = [self.of(measure, variant=m, **group) for m in methods]
                mean, error = np.mean(values, 1), np.std(values, 1)
                error /= len(self.seeds) ** 0.5
                axis.errorbar(mean, at, xerr=error, fmt=marker, label=label)
                if measure == "end":
                    axis.axvline(mean[0], color="grey", linewidth=0.5)
            axis.set(title=group["problem"], xlabel="test error", yticks=at)
            axis.set_yticklabels(methods)
        axes[0, 0].legend()
        self.save(figure)

    def check(self):
        """That they learn, and that GAL changes something."""
        alone, gal = (self.of("errors", variant=v) for v in list(CLASSIFIERS)[:2])
        assert (alone < 60).any(-1).all(), alone
        assert (gal < 60).any(-1).all(), gal
        assert not np.array_equal(alone, gal), alone


if __name__ == "__main__":
    Alternatives.main()
