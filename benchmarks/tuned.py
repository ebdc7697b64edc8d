"""Comparing methods, each at the learning rate that is best for it.

A coarse grid favours what it happens to suit: with rates 3 times apart, several methods
seemed to gain 13 to 15 %, of which finer grids left 0 to 2.6 %. So the rates here are
1.75 times apart, the grid goes on where the best is at its end, and the best are chosen
on seeds that are not reported.

    study.results = Tuned(study, cases, fit, measures).results
    study.of("end", variant="GAL")      # at the best rate, for each of the seeds
    study.of("rate", variant="GAL")
"""

import numpy as np

STEP = 1.75
TUNING_SEEDS = range(1000, 1010)
LONGEST = 3


def grid(first, count):
    """`count` rates from `first` on, rounded to three digits."""
    return [float(f"{first * STEP**i:.3g}") for i in range(count)]


class Tuned:
    """Trains each case with each rate on the tuning seeds, then with the best.

    Args:
        study: The `Study`. Its settings may have `tuning_seeds`, how many; and
            `longest`, how many times a grid goes on, 3 by default.
        cases: A list of dicts with a `variant`, the `rates` to begin with, and what
            else decides a run. One with a single rate is not tuned.
        fit: A function of a run, of seeds, of a progress bar, and of a rate for each
            seed. It returns a dict of arrays for each seed, and moves the bar by
            `cost`.
        measures: For each name a function of the variant and of such a dict: a number
            of which less is better. Each has its own best rate.
        cost: The cost of a pair of a rate and a seed, as a function of a run.
        also: Rates with which the reported seeds are trained as well.

    Attributes:
        results: The pairs of a run and its result, for the seeds of the study. A result
            has each of the measures at the rate that is best for it, and as "NAME, at
            RATE" at those of `also`; the best `rate` of the first measure, and what
            `fit` returned there.
    """

    def __init__(self, study, cases, fit, measures, cost=lambda run: 1, also=()):
        self.study, self.measures, self.also = study, measures, also
        count = study.settings.get("tuning_seeds", len(TUNING_SEEDS))
        self.seeds = TUNING_SEEDS[:count]
        self._arguments = (
            self._trainer(fit),
            lambda run: cost(run) * len(run["rates"]),
            study.seeds_together,
        )
        self.tuning = {case["variant"]: {} for case in cases}
        parts = [(case, case["rates"]) for case in cases if len(case["rates"]) > 1]
        for _ in range(1 + study.settings.get("longest", LONGEST)):
            self._tune(parts)
            parts = [(case, more) for case, _ in parts if (more := self._beyond(case))]
        self.best = {case["variant"]: self._best(case) for case in cases}
        runs = [
            {**case, "seed": seed}
            | {"rates": sorted({*self.best[case["variant"]].values(), *also})}
            for case in cases
            for seed in study.seeds
        ]
        study.execute(runs, *self._arguments)
        self.results = [(run, self._at_best(run, r)) for run, r in study.results]

    def _tune(self, parts):
        runs = [
            {**case, "rates": rates, "seed": seed}
            for case, rates in parts
            for seed in self.seeds
        ]
        self.study.execute(runs, *self._arguments)
        for case, rates in parts:
            variant = case["variant"]
            for rate in rates:
                found = [
                    self._measured(variant, _of(run, result, rate))
                    for run, result in self.study.results
                    if run["variant"] == variant
                ]
                self.tuning[variant][rate] = {
                    m: np.mean([f[m] for f in found]) for m in self.measures
                }

    def _best(self, case):
        found = self.tuning[case["variant"]]
        if not found:
            return dict.fromkeys(self.measures, case["rates"][0])
        return {m: min(found, key=lambda r: found[r][m]) for m in self.measures}

    def _beyond(self, case):
        """Further rates, where the best of any measure is at an end of the grid."""
        rates = sorted(self.tuning[case["variant"]])
        best, more = self._best(case).values(), []
        if rates[0] in best:
            more += grid(rates[0] / STEP**3, 3)
        if rates[-1] in best:
            more += grid(rates[-1] * STEP, 2)
        return more

    def _at_best(self, run, result):
        best = self.best[run["variant"]]
        found = {rate: _of(run, result, rate) for rate in run["rates"]}
        at = {rate: self._measured(run["variant"], f) for rate, f in found.items()}
        first = next(iter(best.values()))
        return (
            {**found[first], "rate": first}
            | {m: at[rate][m] for m, rate in best.items()}
            | {f"{m}, at {rate}": at[rate][m] for m in best for rate in self.also}
        )

    def _measured(self, variant, found):
        values = {m: f(variant, found) for m, f in self.measures.items()}
        return {m: v if np.isfinite(v) else np.inf for m, v in values.items()}

    def _trainer(self, fit):
        def train(runs, bar):
            rates = runs[0]["rates"]
            seeds = [run["seed"] for run in runs for _ in rates]
            found = iter(fit(runs[0], seeds, bar, rates * len(runs)))
            each = [[next(found) for _ in rates] for _ in runs]
            return [{m: [f[m] for f in of] for m in of[0]} for of in each]

        return train


def _of(run, result, rate):
    at = run["rates"].index(rate)
    return {name: np.array(values[at]) for name, values in result.items()}
