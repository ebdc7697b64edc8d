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

import functools

import keras
import numpy as np
from keras import layers

from benchmarks import data
from benchmarks.curves import Panel, curve, pyplot
from benchmarks.perceptron import ALONE, Digits
from benchmarks.tables import Compared, Value, last, mean_of
from keras_gradres import models

# At a small alpha nothing can be told apart, at a large one it can.
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


UNIFORM, NORMAL = (functools.partial(Noise, name) for name in ("uniform", "normal"))
# For each factor the arguments of GAL that it changes; a network is that of a seed.
FACTORS = {
    "policy": {
        "line 7 with <=": {},
        "line 7 with <": {"policy": "less"},
        "line 8, always": {"policy": "always"},
        "line 10, never": {"policy": "never"},
        "improve": {"policy": "improve"},
    },
    "noise": {
        "uniform": {"network": UNIFORM},
        "normal": {"network": NORMAL},
        "uniform, raw": {"network": UNIFORM, "normalize": False},
        "normal, raw": {"network": NORMAL, "normalize": False},
    },
    "network": {
        "z + 100-32-16": {"skip": True},
        "without biases": {"use_bias": False},
        "linear": {"hidden_units": ()},
        "16": {"hidden_units": (16,)},
        "100-100-32-32-16": {"hidden_units": (100, 100, 32, 32, 16)},
        "100-32-16, ReLU": {"activation": "relu"},
        "CNN": {"network": convolutional},
    },
    "alpha": {str(a): {"alpha": a} for a in (0.0001, 0.01, 0.03, 0.3)},
    "beta": {str(b): {"beta": b} for b in (0.01, 0.1, 10.0)},
}
FEW = ("policy: line 7 with <=", "policy: line 10, never", "noise: normal")
SMOKE = [ALONE, *(f"{name}, alpha {LARGE}" for name in (*FEW, "network: CNN"))]


class Ablation(Digits):
    variants = {ALONE: None} | {
        f"{factor}: {name}" + f", alpha {alpha}" * (factor != "alpha"): {
            "alpha": alpha,
            **change,
        }
        for factor, changes in FACTORS.items()
        for name, change in changes.items()
        for alpha in (SMALL, LARGE)
    }
    budgets = {
        "smoke": {"seeds": 1, "task": "digits", "steps": 60, "evaluations": 3}
        | {"variants": SMOKE},
        "cpu": {"seeds": 30, "task": "digits", "steps": 800, "evaluations": 20},
        "gpu": {"seeds": 5, "task": "cifar10", "steps": 78_000, "evaluations": 40},
    }
    recorded = ("task",)
    has_data = True
    columns = (
        Compared("error, %", last("errors")),
        Value("worst", last("errors"), reduce=np.max),
        *(Value(name, mean_of(name)) for name in ("accepted", "cosine", "drift")),
        Value("remainder", mean_of("remainder"), 1, "e"),
    )
    against = ALONE
    note = (
        "accepted, cosine, drift and remainder: see `GAL.diagnostics`, means over the "
        "evaluations. What is not named is the default: policy <=, the paper's h of "
        f"100-32-16, beta 1, and alpha {SMALL} where none is given."
    )
    panels = (
        Panel("test error, %", "errors", log=True),
        Panel("training loss", "loss", log=True),
        Panel("mean |remainder|", "remainder", log=True),
        Panel("fraction accepted", "accepted"),
        Panel("cosine between dl/dz and the adjustment", "cosine"),
    )

    def load(self):
        if self.settings["task"] == "digits":
            return super().load()
        self.rate, self.batch = 0.1, 128
        parts = data.cifar10(self.folder)
        x = np.concatenate([x for x, _ in parts])
        mean, spread = x.mean((0, 1, 2)), x.std((0, 1, 2))
        return [(((x - mean) / spread).astype("float32"), y) for x, y in parts]

    def split(self, run, seed):
        return super().split(run, seed) if run["task"] == "digits" else self.parts

    def network(self):
        if self.settings["task"] == "digits":
            return super().network()
        return models.ResNet(20, residual="identity")

    def arguments_of(self, variant, seed):
        arguments = self.variants[variant]
        if "network" in arguments:
            return {**arguments, "network": arguments["network"](seed)}
        # The paper's network, MLP(z), where it is not another.
        return {"skip": False, **arguments}

    def draw(self):
        plt = pyplot()
        large = [v for v in self.variants_of({}) if f"alpha {LARGE}" in v]
        drawn = [v for v in large if not v.startswith("beta")]
        drawn += [v for v in self.variants_of({}) if v.startswith("alpha")]
        styles = {ALONE: {"color": "black"}} | {
            v: {"color": plt.cm.tab20(i % 20), "linestyle": "-" if i < 20 else "--"}
            for i, v in enumerate(drawn)
        }
        figure, axes = plt.subplots(2, 3, figsize=(18, 10), layout="constrained")
        for axis, panel in zip(axes.flat, self.panels, strict=False):
            for variant, style in styles.items():
                curve(axis, self, panel, variant, {}, **style)
            axis.set(title=panel.title, xlabel=self.cost)
            axis.set_yscale("log" if panel.log else "linear")
        axes[-1, -1].axis("off")
        named = axes[0, 0].get_legend_handles_labels()
        axes[-1, -1].legend(*named, loc="center", fontsize=9)
        self.save(figure)

    def check(self):
        """That "never" is SGD alone, and that nothing else is."""
        alone = self.of("loss", variant=ALONE)
        for run, result in self.results:
            if run["variant"] != ALONE:
                same = np.allclose(result["loss"], alone[run["seed"]], rtol=1e-4)
                assert same == ("never" in run["variant"]), (run, result, alone)


if __name__ == "__main__":
    Ablation.main()
