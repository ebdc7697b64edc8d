"""The columns of a study's table.

    columns = [Compared("error, %", "error", 2), Value("accepted", mean_of("accepted"))]
    print(table_of(study, columns, where={"task": "digits"}))

A measure is the name of an entry of a result, or a function of the result.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from benchmarks.significance import detectable, holm, statistics


def last(name):
    """The last value of a curve."""
    return lambda result: result[name][-1]


def mean_of(name):
    """The mean of a list, or a number; NaN where it is empty, or not there."""

    def measure(result):
        values = result.get(name, ())
        return np.mean(values) if np.size(values) else math.nan

    return measure


@dataclasses.dataclass(frozen=True)
class Compared:
    """Mean ± standard error, the difference from the baseline, and p of the t-test.

    Attributes:
        name: The header of the first cell.
        measure: See above.
        digits: Behind the point; a number, or a function of the values.
        paired: Whether the test is the paired one, not Welch's.
        corrected: Whether p after Holm's correction for the rows is shown, too.
        power: Whether the smallest difference is shown that the test can be expected to
            see.
        seeds: How many of the seeds count, the first ones; by default all.
        difference: Whether the difference is shown.
    """

    name: str
    measure: str | Callable
    digits: int | Callable = 2
    paired: bool = True
    corrected: bool = False
    power: bool = False
    seeds: int | None = None
    difference: bool = True

    def header(self):
        names = [self.name, *["difference"] * self.difference, "p"]
        names += ["p, corrected"] * self.corrected
        return names + ["detectable"] * self.power

    def cells(self, study, variants, where):
        """The cells of each row. A baseline's own have a mean only."""
        found = {v: self._pair(study, v, where) for v in variants}
        p_values = [statistics(*pair, self.paired)[-1] for pair in found.values()]
        rows = []
        for p, (variant, pair) in zip(holm(p_values), found.items(), strict=True):
            values, baseline = pair
            digits = self.digits(values) if callable(self.digits) else self.digits
            mean, *others = compared(values, baseline, digits, self.paired)
            others = others if self.difference else others[1:]
            others += [p_value(p)] * self.corrected
            if self.power:
                seeds = len(values)
                spread = np.std(values - baseline, ddof=1) if seeds > 1 else math.nan
                others.append(f"{detectable(spread, seeds):.{digits}f}")
            if study.baseline_of(variant) == variant:
                others = [""] * len(others)
            rows.append([mean, *others])
        return rows

    def _pair(self, study, variant, where):
        return [
            study.of(self.measure, variant=v, **where)[: self.seeds]
            for v in (variant, study.baseline_of(variant))
        ]


@dataclasses.dataclass(frozen=True)
class Value:
    """One number of all seeds; nothing where it is NaN.

    Attributes:
        name: The header.
        measure: See above.
        digits: Behind the point; a number, or a function of the values.
        kind: "f"; "e" for powers of ten, "g" for either, "%" for percent.
        reduce: What is made of the values of the seeds.
        error: Whether the standard error follows.
    """

    name: str
    measure: str | Callable
    digits: int | Callable = 2
    kind: str = "f"
    reduce: Callable = np.mean
    error: bool = False

    def header(self):
        return [self.name]

    def cells(self, study, variants, where):
        return [[self._cell(study, v, where)] for v in variants]

    def _cell(self, study, variant, where):
        values = study.of(self.measure, variant=variant, **where)
        digits = self.digits(values) if callable(self.digits) else self.digits
        shown = f".{digits}{self.kind}"
        number = self.reduce(values)
        if np.isnan(number):
            return ""
        if self.error:
            return f"{number:{shown}} ± {statistics(values, values)[1]:{shown}}"
        return f"{number:{shown}}"


@dataclasses.dataclass(frozen=True)
class Text:
    """What a function of the study, the variant and `where` returns."""

    name: str
    write: Callable

    def header(self):
        return [self.name]

    def cells(self, study, variants, where):
        return [[self.write(study, v, where)] for v in variants]


def table_of(study, columns, where):
    """A row for each variant, of the runs with the settings `where`."""
    header = ["", *(name for column in columns for name in column.header())]
    return table(header, rows_of(study, columns, where))


def rows_of(study, columns, where):
    variants = study.variants_of(where)
    rows = [[variant] for variant in variants]
    for column in columns:
        for row, cells in zip(rows, column.cells(study, variants, where), strict=True):
            row += cells
    return rows


def compared(values, baseline, digits, paired=True):
    """Three cells of a table: `mean ± error`, difference, p; none is NaN."""
    mean, error, difference, p = statistics(values, baseline, paired)
    return (
        f"{mean:.{digits}f}" + ("" if math.isnan(error) else f" ± {error:.{digits}f}"),
        f"{difference:+.{digits}f}",
        p_value(p),
    )


def p_value(p):
    if math.isnan(p):
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def table(header, rows):
    """A Markdown table; the first column is text, the others numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
