"""Where does a gradient residual fit a curve better, and what is as good and cheaper?

Small networks learn a function of one variable with rapid variation, each method at its
own best learning rate: chosen on seeds that are not reported, from the same rates for
all. There are two baselines, of the same parameters and of the same time: `identity`,
and `identity` with one block more or trained twice as long. A sine network and Fourier
features of as many parameters show what one would take first.

The tasks are in `sine_tasks.py`; the study of the larger networks with ReLU, at which
identity does best, is `sine_relu.py`.

    KERAS_BACKEND=jax python -m benchmarks.sine --budget cpu
"""

import itertools

import keras
import numpy as np

from benchmarks import functions, together
from benchmarks import sine_tasks as tasks
from benchmarks.functions import BASELINE, LOG_ERROR, Factor, final, log_errors
from benchmarks.rounds import ratio
from benchmarks.significance import corrected
from benchmarks.sine_tasks import DEEP, FIRST, LONGER, ONE_MORE, SIZES, TASKS, VARIANTS
from benchmarks.tables import Text, Value, p_value, table

RATES = (2e-3, 5e-3, 1e-2, 2e-2, 5e-2)
# Sine networks want smaller ones.
SINE_RATES = (5e-4, 1e-3, 2e-3, 5e-3, 1e-2)
TUNING_SEED = 1000  # And those after it.
TRAINING = {"steps": 8000, "batch": 64, "evaluations": 16}
THERE = 0.05  # Of the variance of the target.
SECONDS = "seconds"  # In the place of a variant: how long a step of each takes.


def same_time(study, where):
    """The better of the controls of the same time that are there."""
    names = [v for v in (ONE_MORE, LONGER) if v in study.variants_of(where)]
    names = names or [BASELINE]
    return min(names, key=lambda v: study.of(final, variant=v, **where).mean())


def there(study, variant, where):
    enough = np.log10(THERE * np.var(study.function(where)(functions.GRID)))
    share = np.mean(study.of(final, variant=variant, **where) < enough)
    return f"{share:.0%}"


def time(study, variant, where):
    """Of the whole training, in units of that of identity."""
    longer = VARIANTS[variant].get("longer", 1)
    for timing in study.of(dict, variant=SECONDS, **where):
        if found := timing["ratios"].get(variant.replace(LONGER, BASELINE)):
            return f"{found * longer:.2f}"
    return ""


class Sine(functions.Functions):
    variants = VARIANTS
    budgets = {
        "smoke": {"seeds": 2, "rates": 2, "tuning": 1, **TRAINING, "steps": 100}
        | {"parts": [(tasks.SMOKE, DEEP[:2])], "timed": [tasks.SMOKE]}
        | {"timing": {"timed": DEEP[:2], "at_once": 1, "steps": 10, "rounds": 2}}
        | {"evaluations": 4},
        "cpu": {"seeds": 30, "rates": 5, "tuning": 4, **TRAINING}
        | {"parts": tasks.PARTS, "timed": [FIRST, tasks.GELU, tasks.TANH]}
        | {"timing": {"timed": tasks.TIMED, "at_once": 10, "steps": 100, "rounds": 15}},
    }
    budgets["gpu"] = budgets["cpu"] | {"steps": 50_000}
    recorded = ("batch", "evaluations")
    keep = False
    schedule = staticmethod(together.cosine)
    columns = (
        Value("rate", "rate", 6, "g"),
        LOG_ERROR,
        Value("area", lambda result: np.mean(log_errors(result))),
        Text("there", there),
        Text("time", time),
        Factor("factor, same size", final, ".3g", corrected=True),
        Factor("factor, same time", final, ".3g", corrected=True, baseline=same_time),
    )
    against = (
        "identity of the same size, and against the better of identity with one block "
        "more and identity with twice the steps"
    )
    note = (
        "rate: the best on other seeds. area: the mean of log10 error over the "
        f"training. there: the share of seeds with an error below {THERE} times the "
        "variance of the target. time: of the whole training, in units of identity's "
        "(a step is timed in turn, in one process; the median of paired ratios). "
        "factor: the geometric mean of the error in units of that of the baseline; "
        "below 1 is better."
    )
    drawn = {
        BASELINE: "tab:grey",
        ONE_MORE: "tab:olive",
        LONGER: "tab:green",
        "convex, alpha 3, second order": "tab:blue",
        "gain, second order": "tab:red",
        "additive, raw, second order": "tab:orange",
        "sine network": "tab:purple",
    }
    learned = (BASELINE, ONE_MORE, "gain, second order", "additive, raw, second order")

    def runs(self):
        settings = self.settings
        made = [
            {
                **self.settings_of(variant),
                "task": task,
                "variant": variant,
                "seed": seed,
            }
            | dict(zip(SIZES, sizes or SIZES.values(), strict=True))
            for task, variants, *sizes in settings["parts"]
            for variant in variants
            for seed in self.seeds
        ]
        timing = {"variant": SECONDS, "seed": 0, "batch": settings["batch"], **SIZES}
        return made + [
            {"task": task, **timing, **settings["timing"]} for task in settings["timed"]
        ]

    def length(self, run):
        return run["steps"] * self.variants.get(run["variant"], {}).get("longer", 1)

    def function(self, run):
        return tasks.TARGETS[TASKS[run["task"]][-1]]

    def make(self, run, seed):
        sizes = {name: run[name] for name in SIZES}
        model = tasks.network(*TASKS[run["task"]][:2], **sizes, variant=run["variant"])
        model.compile(keras.optimizers.Adam(), "mse")
        return model

    def train_seeds(self, runs, bar):
        """All seeds of a variant at once, after some rates on the seeds for tuning."""
        run = runs[0]
        if run["variant"] == SECONDS:
            return [self.timing(run)]

        def fit(pairs, bar=None):
            rates, seeds = zip(*pairs, strict=True)
            _, found = self.fit(run, seeds, bar, steps=self.length(run), rates=rates)
            made = [{**run, "seed": seed} for seed in seeds]
            return [self.measure(*each, None) for each in zip(made, found, strict=True)]

        rates = SINE_RATES if run["variant"] == "sine network" else RATES
        rates = rates[: self.settings["rates"]]
        seeds = range(TUNING_SEED, TUNING_SEED + self.settings["tuning"])
        tuned = [final(result) for result in fit(itertools.product(rates, seeds))]
        tuned = np.nan_to_num(tuned, nan=np.inf).reshape(len(rates), -1).mean(1)
        best = rates[np.argmin(tuned)]
        found = fit([(best, r["seed"]) for r in runs], bar)
        return [{**result, "rate": best, "tuned": tuned} for result in found]

    def timing(self, run):
        """The seconds of a step of identity, and the others' ratio to it, in turn."""
        found = self.seconds(run, run["timed"], range(run["at_once"]), run["steps"])
        ratios = {name: ratio(times, found[BASELINE]) for name, times in found.items()}
        return {"seconds": float(np.median(found[BASELINE])), "ratios": ratios}

    def groups(self):
        known = {run["task"] for run, _ in self.results}
        return [{"task": task, **SIZES} for task in TASKS if task in known]

    def variants_of(self, group):
        known = {r["variant"] for r, _ in self.results if group.items() <= r.items()}
        return [variant for variant in self.variants if variant in known]

    def heading(self, group):
        return group["task"]

    def remark(self, group):
        timing = self.of("seconds", variant=SECONDS, **group)
        step = "".join(f", {1e6 * seconds:.0f} µs a step" for seconds in timing)
        return f"same size: {BASELINE}{step}; same time: {same_time(self, group)}"

    def report(self):
        sizes = {(r["width"], r["blocks"]) for r, _ in self.results}
        text = super().report()
        return f"{text}\n\n{self.depth(sizes)}" if len(sizes) > 1 else text

    def depth(self, sizes):
        """Depth and width with the first task; p is corrected for the whole table."""
        pairs = {}
        for width, blocks in sorted(sizes):
            where = {"task": FIRST, "width": width, "blocks": blocks}
            values = {v: self.of(final, variant=v, **where) for v in DEEP}
            if all(map(len, values.values())):
                for variant in DEEP:
                    name = f"{width} x {blocks}, {variant}"
                    pairs[name] = values[variant], values[BASELINE]
        rows = [
            [name, f"{mean:.2f} ± {error:.2f}", f"{10**change:.3g}", p_value(p)]
            for name, (mean, error, change, p) in corrected(pairs).items()
        ]
        header = ["width x blocks", "log10 error", "factor", "p"]
        return f"Depth and width: {FIRST}\n\n{table(header, rows)}"

    def check(self):
        """That the networks learn, each another function, at the best of the rates."""
        *trained, (_, timing) = self.results
        assert timing["ratios"][BASELINE] == 1, timing
        for _, result in trained:
            assert result["rate"] == RATES[np.argmin(result["tuned"])], result
        self.results = trained
        super().check()


if __name__ == "__main__":
    Sine.main()
