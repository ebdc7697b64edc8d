"""A small perceptron on half of the digits, with SGD, alone or inside GAL."""

import keras
from keras import layers

from benchmarks import data
from benchmarks.seeds import ManySeeds, compiled

ALONE = "SGD alone"
RATE = 0.05
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def perceptron(inputs=64, outputs=10):
    hidden = [layers.Dense(units, activation="relu") for units in (64, 32)]
    return keras.Sequential([keras.Input((inputs,)), *hidden, layers.Dense(outputs)])


def with_sgd(model, seed, arguments, loss=CROSS_ENTROPY, rate=RATE):
    """The model, compiled; inside GAL where the `arguments` of GAL are given."""
    sgd = keras.optimizers.SGD(rate, momentum=0.9)
    return compiled(model, sgd, loss, seed, arguments)


class Digits(ManySeeds):
    """What GAL does to the errors in percent of the half that is tested.

    A study says in `arguments_of` what GAL has.
    """

    baseline = ALONE
    rate, batch = RATE, 32

    def arguments_of(self, variant, seed):
        """The arguments of GAL; not asked for SGD alone."""
        raise NotImplementedError

    def load(self):
        return data.digits()

    def split(self, run, seed):
        x, y = self.parts
        return data.split(x, y, seed, len(x) // 2)

    def network(self):
        return perceptron()

    def make(self, run, seed):
        model, variant = self.network(), run["variant"]
        arguments = None if variant == ALONE else self.arguments_of(variant, seed)
        return with_sgd(model, seed, arguments, rate=self.rate)

    def batch_size(self, run):
        return self.batch

    def measure(self, run, found, model):
        _, (_, truth) = self.split(run, run["seed"])
        wrong = found.pop("predictions").argmax(-1) != truth
        return {"errors": 100 * wrong.mean(-1), **found}

    def heading(self, group):
        task = self.settings.get("task", "digits")
        return f"{task}, {self.lengths()}, {len(self.seeds)} seeds"
