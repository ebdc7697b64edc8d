"""Networks that learn a function of one variable: what `sine` and `sine_relu` share.

They learn from random points of [-1, 1]; the error is the mean square on a grid.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from benchmarks.curves import Panel, curve, pyplot
from benchmarks.seeds import ManySeeds
from benchmarks.significance import corrected, statistics
from benchmarks.tables import Value, p_value

BASELINE = "identity"
POINTS = 1024
GRID = np.linspace(-1, 1, 401, dtype="float32")[:, None]


def points(function, seed):
    """`(x, y)` to train on."""
    x = np.random.default_rng(seed).uniform(-1, 1, (POINTS, 1)).astype("float32")
    return x, function(x).astype("float32")


def with_second_order(skips):
    """Each of the skips, and each in second order."""
    orders = {"": {}, ", second order": {"second_order": True}}
    return {
        name + suffix: arguments | order
        for name, arguments in skips.items()
        for suffix, order in orders.items()
    }


def log_errors(result):
    return np.log10(result["errors"])


def final(result):
    return log_errors(result)[-1]


LOG_ERROR = Value("log10 error", final, error=True)


@dataclasses.dataclass(frozen=True)
class Factor:
    """The geometric mean in units of the baseline's, and p of the paired t-test.

    Attributes:
        name: The header.
        measure: The log10 of what is compared.
        form: How it is written.
        corrected: Whether p is corrected for the rows by Holm's method.
        baseline: A function of the study and of `where` that names it; by default that
            of the study.
    """

    name: str
    measure: Callable
    form: str = ".2f"
    corrected: bool = False
    baseline: Callable = lambda study, where: study.baseline

    def header(self):
        return [self.name, "p"]

    def cells(self, study, variants, where):
        baseline = self.baseline(study, where)
        base = study.of(self.measure, variant=baseline, **where)
        pairs = {
            v: (study.of(self.measure, variant=v, **where), base) for v in variants
        }
        if self.corrected:
            found = corrected(pairs)
        else:
            found = {variant: statistics(*pair) for variant, pair in pairs.items()}
        return [
            ["", ""] if v == baseline else [f"{10**change:{self.form}}", p_value(p)]
            for v, (*_, change, p) in found.items()
        ]


class Functions(ManySeeds):
    """A `ManySeeds` that says which function a run learns.

    Class attributes:
        drawn: For each variant whose errors are drawn its color.
        learned: The variants of which is drawn, too, what seed 0 learned.
    """

    baseline = BASELINE
    drawn: dict = {}
    learned: tuple = ()
    panel = Panel("log10 error, mean and standard error", log_errors, band="error")
    falls = "errors"

    def function(self, run):
        raise NotImplementedError

    def data(self, run, seed):
        return points(self.function(run), seed), GRID

    def measure(self, run, found, model):
        wrong = found["predictions"] - self.function(run)(GRID)
        result = {"errors": np.mean(wrong**2, axis=(1, 2))}
        if run["seed"] == 0:
            result["function"] = found["predictions"][-1, :, 0]
        return result

    def draw(self):
        """A column for each group: what seed 0 learned, and the errors by steps."""
        plt, groups = pyplot(), self.groups()
        known = {v for group in groups for v in self.variants_of(group)}
        learned = [v for v in self.learned if v in known]
        figure, axes = plt.subplots(
            len(learned) + 1,
            len(groups),
            figsize=(5.5 * len(groups), 1.7 * len(learned) + 5),
            height_ratios=[1] * len(learned) + [2.8],
            layout="constrained",
            squeeze=False,
        )
        for (*column, bottom), group in zip(axes.T, groups, strict=True):
            for axis, variant in zip(column, learned, strict=True):
                axis.plot(GRID, self.function(group)(GRID), "black", linewidth=0.7)
                for y in self.of("function", variant=variant, seed=0, **group):
                    axis.plot(GRID, y, self.drawn[variant])
                axis.set(ylim=(-1.6, 1.6), title=f"{variant}, seed 0")
            for variant, color in self.drawn.items():
                curve(bottom, self, self.panel, variant, group, color=color)
            title = f"{self.heading(group)}\n{self.panel.title}"
            bottom.set(title=title, xlabel=self.cost)
        axes[-1, 0].legend(fontsize=8)
        self.save(figure)
