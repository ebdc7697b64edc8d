"""A study of small networks, of which all seeds of a variant train at once."""

from benchmarks import together
from benchmarks.study import Study


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
        run = runs[0]
        models, found = together.train(
            lambda seed: self.make(run, seed),
            [run["seed"] for run in runs],
            lambda seed: self.data(run, seed),
            steps=run["steps"],
            batch_size=self.batch_size(run),
            evaluations=self.evaluations(run),
            bar=bar,
            keep=self.keep,
        )
        models = models or [None] * len(runs)
        return [self.measure(*each) for each in zip(runs, found, models, strict=True)]
