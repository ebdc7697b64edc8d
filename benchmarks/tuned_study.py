"""A study of methods, each at the learning rates that are best for it."""

import dataclasses

import numpy as np

from benchmarks.seeds import ManySeeds
from benchmarks.significance import corrected
from benchmarks.tables import p_value
from benchmarks.tuned import Tuned


class TunedStudy(ManySeeds):
    """A `Study` that says how a network is made and what it is fed; see `Tuned`.

    A group has all that decides a run besides its variant, its seed and its rates. The
    first of its settings is the data. A result has "errors" by evaluation, and the last
    one as "end".

    Class attributes:
        also: Rates with which the networks are trained as well.
    """

    keep = False
    also: tuple = ()

    def rates_of(self, group):
        """Those that the search begins with."""
        raise NotImplementedError

    def measures_of(self, group):
        """What has a best rate, each its own; see `Tuned`."""
        return {"end": lambda variant, found: found["errors"][-1]}

    def of_same_data(self, group):
        """The groups for whose rows p is corrected."""
        first = next(iter(group))
        return [each for each in self.groups() if each[first] == group[first]]

    def train_all(self):
        found = []
        for group in self.groups():
            rates = self.rates_of(group)
            cases = [
                {**group, "variant": variant, "rates": rates}
                for variant in self.variants_of(group)
            ]
            measures = self.measures_of(group)
            found += Tuned(
                self, cases, self.fit_at, measures, self.length, self.also
            ).results
        self.results = found

    def fit_at(self, run, seeds, bar, rates):
        _, found = self.fit(run, seeds, bar, rates=rates)
        return [
            self.measure({**run, "seed": seed}, each, None)
            for seed, each in zip(seeds, found, strict=True)
        ]

    def measure(self, run, found, model):
        _, (_, truth) = self.split(run, run["seed"])
        return {"errors": errors(found["predictions"], truth)}

    def footnote(self):
        return (
            f"± is the standard error; %: the difference from {self.against}, below "
            "zero is better; p: that of the paired t-test, after Holm's correction for "
            f"the rows of a data set; rate: the best at the end. {self.note}"
        )


def errors(predictions, truth):
    """By evaluation: in percent, or of one output the mean absolute error.

    Infinite where any output is not finite: what is not a number has no largest.
    """
    if predictions.shape[-1] == 1:
        found = np.abs(predictions - truth).mean((1, 2))
    else:
        found = 100 * (predictions.argmax(-1) != truth).mean(-1)
    return np.where(np.isfinite(predictions).all((1, 2)), found, np.inf)


@dataclasses.dataclass(frozen=True)
class Relative:
    """Mean ± standard error, the difference in % of the baseline's mean, and p.

    Attributes:
        name: The header of the first cell.
        measure: See `tables.py`.
        mean: Whether the first cell is shown.
    """

    name: str
    measure: str
    mean: bool = True

    def header(self):
        return [self.name, "%", "p"] if self.mean else [f"%, {self.name}", "p"]

    def cells(self, study, variants, where):
        groups = study.of_same_data(where)
        pairs = {
            (i, variant): [
                study.of(self.measure, variant=v, **group)
                for v in (variant, study.baseline_of(variant))
            ]
            for i, group in enumerate(groups)
            for variant in study.variants_of(group)
        }
        found, rows = corrected(pairs), []
        for variant in variants:
            at = groups.index(where), variant
            mean, error, difference, p = found[at]
            cells = [f"{100 * difference / pairs[at][1].mean():+.1f}", p_value(p)]
            if variant == study.baseline_of(variant):
                cells = ["", ""]
            rows.append([f"{mean:.3g} ± {error:.2g}"] * self.mean + cells)
        return rows
