"""A study of small networks, of which all seeds of a variant train at once."""

import functools

from benchmarks import together
from benchmarks.study import Study
from keras_gradres.optimizers import GAL


class ManySeeds(Study):
    """A `Study` that says how a network is made, what it is fed, and what is measured.

    Class attributes:
        keep: Whether `measure` needs the trained models and GAL's diagnostics.
        schedule: That of the learning rates: see `together.train`.
    """

    keep = True
    schedule = None

    @property
    def seeds_together(self):
        return together.at_once()

    def make(self, run, seed):
        """A compiled model. A `GAL` in it needs `output_shapes`."""
        raise NotImplementedError

    def split(self, run, seed):
        """`(x, y), (x_test, y_test)`; not asked where a study has its own `data`."""
        raise NotImplementedError

    def data(self, run, seed):
        """`(x, y), x_test`."""
        train, (x_test, _) = self.split(run, seed)
        return train, x_test

    def measure(self, run, found, model):
        """The result of a run: of what `together.train` returns for it."""
        raise NotImplementedError

    def batch_size(self, run):
        return run["batch"]

    def evaluations(self, run):
        """How many times, evenly over the steps, the networks are looked at."""
        return self.settings["evaluations"]

    def train_seeds(self, runs, bar):
        models, found = self.fit(runs[0], [run["seed"] for run in runs], bar)
        models = models or [None] * len(runs)
        return [self.measure(*each) for each in zip(runs, found, models, strict=True)]

    def fit(self, run, seeds, bar=None, **options):
        """Trains a network from each seed; `options` are those of `together.train`."""
        made = {
            "data": functools.partial(self.data, run),
            "steps": run["steps"],
            "batch_size": self.batch_size(run),
            "evaluations": self.evaluations(run),
            "schedule": self.schedule,
            "keep": self.keep,
        }
        make = functools.partial(self.make, run)
        return together.train(make, seeds, bar=bar, **made | options)

    def seconds(self, run, variants, seeds, steps):
        """For each variant the seconds of a step, in `run["rounds"]` rounds."""
        return together.seconds(
            {v: functools.partial(self.make, {**run, "variant": v}) for v in variants},
            seeds,
            functools.partial(self.data, run),
            steps=steps,
            batch_size=self.batch_size(run),
            rounds=run["rounds"],
        )


def compiled(model, optimizer, loss, seed, arguments=None):
    """The model, compiled; inside GAL where the `arguments` of GAL are given."""
    if arguments is not None:
        shapes = [model.output_shape]
        optimizer = GAL(optimizer, seed=seed, output_shapes=shapes, **arguments)
        loss = optimizer.loss(loss)
    model.compile(optimizer, loss)
    return model
