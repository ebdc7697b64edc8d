"""A study of small networks, of which all seeds of a variant train at once."""

from benchmarks import together
from benchmarks.study import Study
from keras_gradres.optimizers import GAL


class ManySeeds(Study):
    """A `Study` that says how a network is made, what it is fed, and what is measured.

    Class attributes:
        keep: Whether `measure` needs the trained models and GAL's diagnostics.
    """

    seeds_together = True
    keep = True

    def make(self, run, seed):
        """A compiled model. A `GAL` in it needs `output_shapes`."""
        raise NotImplementedError

    def data(self, run, seed):
        """`(x, y), x_test`."""
        raise NotImplementedError

    def measure(self, run, found, model):
        """The result of a run: of what `together.train` returns for it."""
        raise NotImplementedError

    def batch_size(self, run):
        return run["batch"]

    def evaluations(self, run):
        """How many times, evenly over the steps, the networks are looked at."""
        return self.settings["evaluations"]

    def train_seeds(self, runs, bar):
        return self.fit(runs[0], [run["seed"] for run in runs], bar)

    def fit(self, run, seeds, bar, rates=None):
        """The results of a run from each of these seeds, at its own rate if given."""
        models, found = together.train(
            lambda seed: self.make(run, seed),
            seeds,
            lambda seed: self.data(run, seed),
            steps=run["steps"],
            batch_size=self.batch_size(run),
            evaluations=self.evaluations(run),
            bar=bar,
            rates=rates,
            keep=self.keep,
        )
        models = models or [None] * len(seeds)
        return [
            self.measure({**run, "seed": seed}, *each)
            for seed, *each in zip(seeds, found, models, strict=True)
        ]


def compiled(model, optimizer, loss, seed, arguments=None):
    """The model, compiled; inside GAL where the `arguments` of GAL are given."""
    if arguments is not None:
        shapes = [model.output_shape]
        optimizer = GAL(optimizer, seed=seed, output_shapes=shapes, **arguments)
        loss = optimizer.loss(loss)
    model.compile(optimizer, loss)
    return model
