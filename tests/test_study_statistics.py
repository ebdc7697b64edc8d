"""The statistics and tables of the studies, and their choice of rates."""

import typing

import numpy as np
import pytest
from helpers import require_studies

require_studies("PIL", "matplotlib", "scipy", "skimage", "sklearn", "tqdm")

from benchmarks import (  # noqa: E402
    neural_field,
    records,
    significance,
    sine,
    sine_tasks,
    study,
    tables,
    tuned,
)


def test_statistics_by_hand():
    # Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3), t = 3.464; p of Student's
    # t with 2 degrees of freedom is 1 - t / sqrt(t^2 + 2) = 0.0742.
    mean, error, difference, p = significance.statistics([2.0, 4, 6], [1.0, 2, 3])
    assert (mean, difference) == (4, 2)
    assert error == pytest.approx(2 / np.sqrt(3))
    assert p == pytest.approx(1 - np.sqrt(12) / np.sqrt(14))
    # Welch: t = 2 / sqrt(4 / 3 + 1 / 3), with (5/3)^2 / (16/18 + 1/18) = 2.94 degrees.
    *_, p = significance.statistics([2.0, 4, 6], [1.0, 2, 3], paired=False)
    assert p == pytest.approx(0.220, abs=1e-3)
    *_, p = significance.statistics([1.0, 2, 3], [1.0, 2, 3])
    assert np.isnan(p)


def test_holm_by_hand():
    # 3 * 0.01, 2 * 0.04, and 0.045, which may not be below the one before.
    found = significance.holm([0.04, np.nan, 0.045, 0.01])
    np.testing.assert_allclose(found, [0.08, np.nan, 0.08, 0.03])
    np.testing.assert_allclose(significance.holm([0.6, 0.7]), [1, 1])


class _Made(records.Runs):
    """Two methods and three seeds, whose results are given."""

    seeds = range(3)

    def __init__(self, values):
        self.results = [
            ({"variant": variant, "seed": seed, "task": "a"}, {"error": error, **curve})
            for variant, errors in values.items()
            for seed, error in enumerate(errors)
            for curve in [{"accepted": [error, 0.0]} if variant == "b" else {}]
        ]

    def variants_of(self, group):
        return ["base", "b"]

    def baseline_of(self, variant):
        return "base"


def test_table_by_hand():
    """The numbers of `test_statistics_by_hand`; p of one row stays after Holm."""
    made = _Made({"base": [1.0, 2, 3], "b": [2.0, 4, 6]})
    columns = [
        tables.Compared("error", "error", 2, corrected=True, power=True),
        tables.Value("accepted", tables.mean_of("accepted"), 1),
        tables.Value("worst", "error", 0, reduce=np.max),
    ]
    text = tables.table_of(made, columns, {"task": "a"})
    header, _, base, row = [line.strip("| ").split(" | ") for line in text.splitlines()]
    assert header[1:] == [
        "difference",
        "p",
        "p, corrected",
        "detectable",
        "accepted",
        "worst",
    ]
    assert base == ["base", "2.00 ± 0.58", *[""] * 5, "3"]
    # The spread of the differences is 1, of which three pairs see 3.26 with 80 %.
    assert row == ["b", "4.00 ± 1.15", "+2.00", "0.074", "0.074", "3.26", "2.0", "6"]
    first = tables.Compared("error", "error", 1, seeds=2, difference=False)
    assert first.cells(made, ["b"], {}) == [["3.0 ± 1.0", "0.205"]]
    # Runs of another task do not count.
    assert not made.of("error", task="other").size


def test_front_of_pareto():
    # (2, 5) is beaten by (1, 5), and (3, 4) by all.
    assert neural_field.front([3, 2, 1, 4], [4, 5, 5, 6]) == [2, 3]


def test_sine_table_by_hand(tmp_path):
    """Errors of three seeds; the time of `twice the steps` is twice that of a step."""
    task = sine_tasks.FIRST
    final = {
        "identity": [1.0, 0.1, 0.1],
        "identity, twice the steps": [0.1, 0.01, 0.1],
        "gain, second order": [0.01, 0.001, 0.1],
    }
    made = sine.Sine(["--out", str(tmp_path)])
    made.results = [
        (
            {"task": task, "variant": name, "seed": seed, **sine_tasks.SIZES},
            {"errors": np.array([1.0, error]), "rate": 0.01},
        )
        for name, errors in final.items()
        for seed, error in enumerate(errors)
    ]
    timing = {"task": task, "variant": sine.SECONDS, "seed": 0}
    ratios = {"identity": 1.0, "gain, second order": 1.5}
    made.results.append(
        (timing | sine_tasks.SIZES, {"seconds": 3e-5, "ratios": ratios})
    )
    title, table, remark, _ = made.report().split("\n\n")
    assert title == task
    assert remark == (
        "same size: identity, 30 µs a step; same time: identity, twice the steps"
    )
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    # Means of log10: -2/3, -4/3, -2. Differences to identity -1, -1, 0, and -2, -2, 0:
    # t = -2, p = 0.184 with 2 degrees of freedom, twice that after Holm.
    assert [row[:6] for row in rows] == [
        ["identity", "0.01", "-0.67 ± 0.33", "-0.33", "0%", "1.00"],
        ["gain, second order", "0.01", "-2.00 ± 0.58", "-1.00", "67%", "1.50"],
        ["identity, twice the steps", "0.01", "-1.33 ± 0.33", "-0.67", "33%", "2.00"],
    ]
    assert rows[1][6:] == ["0.0464", "0.367", "0.215", "0.367"]


def test_detectable_difference_is_the_tabulated_one():
    # Sample sizes of the paired t-test, two-sided 5 %, power 80 %, as tables and
    # G*Power have them: 34 for half a standard deviation, 15 for 0.8, 10 for one.
    for seeds, size in ((34, 0.5), (15, 0.8), (10, 1.0)):
        found, fewer = (significance.detectable(1.0, n) for n in (seeds, seeds - 1))
        assert found <= size < fewer
    threefold = significance.detectable(3.0, 10)
    assert threefold == pytest.approx(3 * significance.detectable(1.0, 10))
    assert np.isinf(significance.detectable(1.0, 1))


class Parabola(study.Study):
    seeds_together = True
    budgets: typing.ClassVar = {"smoke": {"seeds": 2, "tuning_seeds": 3}}


def test_tuned_goes_on_where_the_best_is_at_an_end(tmp_path):
    """The error is least at rate 10, and lower on the tuning seeds."""

    def fit(run, seeds, bar, rates):
        trained.append(set(seeds))
        return [
            {"error": np.inf if rate > 30 else np.log(rate / 10) ** 2 + seed}
            for seed, rate in zip(seeds, rates, strict=True)
        ]

    trained: list = []
    cases = [
        {"variant": "a", "rates": tuned.grid(1.0, 2)},
        {"variant": "b", "rates": [3.0]},
    ]
    parabola = Parabola(["--out", str(tmp_path)])
    found = tuned.Tuned(parabola, cases, fit, {"end": lambda _, f: f["error"]})
    parabola.results = found.results
    # 1, 1.75; then 3.06 and 5.36; 9.38 and 16.4; 28.7 is not better than 9.38.
    assert set(parabola.of("rate", variant="a")) == {9.38}
    assert set(parabola.of("rate", variant="b")) == {3.0}
    expected = np.log(9.38 / 10) ** 2 + np.arange(2)
    np.testing.assert_allclose(parabola.of("end", variant="a"), expected, rtol=1e-4)
    assert trained[0] == {1000, 1001, 1002}
    assert trained[-1] == {0, 1}
