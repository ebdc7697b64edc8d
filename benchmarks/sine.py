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

import numpy as np

from benchmarks import sine_report, together
from benchmarks import sine_tasks as tasks
from benchmarks.rounds import ratio
from benchmarks.sine_tasks import (
    ALL,
    BASELINE,
    CORE,
    DEEP,
    FIRST,
    FIRST_ORDER,
    GELU,
    MORE,
    OTHERS,
    SECONDS,
    SIZES,
    SMOKE,
    TANH,
    TASKS,
    TIMED,
)
from benchmarks.study import Study

RATES = (2e-3, 5e-3, 1e-2, 2e-2, 5e-2)
# Sine networks want smaller ones.
SINE_RATES = (5e-4, 1e-3, 2e-3, 5e-3, 1e-2)
TUNING_SEED = 1000  # And those after it.
TRAINING = {"steps": 8000, "batch": 64, "evaluations": 16}
BUDGETS = {
    "smoke": {
        "seeds": 2,
        "parts": [(SMOKE, DEEP[:2])],
        "rates": 2,
        "timed": [SMOKE],
        "tuning": 1,
        "timing": {"timed": DEEP[:2], "at_once": 1, "steps": 10, "rounds": 2},
        **TRAINING,
        "steps": 100,
        "evaluations": 4,
    },
    "cpu": {
        "seeds": 30,
        "parts": [
            *((task, CORE) for task in (FIRST, GELU, TANH)),
            (FIRST, MORE[:3]),
            *((task, FIRST_ORDER) for task in (FIRST, GELU)),
            *((FIRST, DEEP, 16, blocks) for blocks in (1, 3, 4, 6)),
            *((task, MORE) for task in (GELU, TANH)),
            *((task, ALL) for task in (FIRST, GELU, TANH)),
            *((task, CORE) for task in OTHERS),
            *((FIRST, DEEP, 32, blocks) for blocks in (1, 2, 3, 4, 6)),
        ],
        "rates": 5,
        "timed": [FIRST, GELU, TANH],
        "tuning": 4,
        "timing": {"timed": TIMED, "at_once": 10, "steps": 100, "rounds": 15},
        **TRAINING,
    },
}
BUDGETS["gpu"] = {**BUDGETS["cpu"], "steps": 50_000}


def make_runs(study):
    settings = study.settings
    made = [
        {"task": task, "variant": variant, "seed": seed}
        | dict(zip(SIZES, sizes or SIZES.values(), strict=True))
        | {name: settings[name] for name in TRAINING}
        for task, variants, *sizes in settings["parts"]
        for variant in variants
        for seed in study.seeds
    ]
    made += [
        {"task": task, "variant": SECONDS, "seed": 0, **SIZES}
        | {"batch": settings["batch"]}
        | settings["timing"]
        for task in settings["timed"]
    ]
    return list({str(run): run for run in made}.values())


def train(runs, bar, rates, tuning):
    """All seeds of a variant at once, after some rates on the seeds for tuning."""
    run = runs[0]
    if run["variant"] == SECONDS:
        return [measure_seconds(run)]
    truth = tasks.TARGETS[TASKS[run["task"]][-1]](tasks.GRID)

    def fit(pairs, bar=None):
        _, found = together.train(
            tasks.maker(run, run["variant"]),
            [seed for _, seed in pairs],
            lambda seed: tasks.data(run, seed),
            steps=run["steps"] * tasks.VARIANTS[run["variant"]].get("longer", 1),
            batch_size=run["batch"],
            evaluations=run["evaluations"],
            rates=[rate for rate, _ in pairs],
            schedule=lambda share: (1 + np.cos(np.pi * share)) / 2,
            bar=bar,
        )
        return [result["predictions"] for result in found]

    def errors(predictions):
        return np.mean((predictions - truth) ** 2, axis=(1, 2))

    rates = (SINE_RATES if run["variant"] == "sine network" else RATES)[:rates]
    pairs = [
        (rate, seed)
        for rate in rates
        for seed in range(TUNING_SEED, TUNING_SEED + tuning)
    ]
    tuned = np.log10([errors(predictions)[-1] for predictions in fit(pairs)])
    tuned = np.nan_to_num(tuned, nan=np.inf).reshape(len(rates), -1).mean(1)
    best = rates[np.argmin(tuned)]
    found = fit([(best, run["seed"]) for run in runs], bar)
    results = [{"errors": errors(f), "rate": best, "tuned": tuned} for f in found]
    for run, result, predictions in zip(runs, results, found, strict=True):
        if run["seed"] == 0:
            result["function"] = predictions[-1, :, 0]
    return results


def measure_seconds(run):
    """The seconds for a step of each variant, in turn, and their ratio to identity."""
    found = together.seconds(
        {variant: tasks.maker(run, variant) for variant in run["timed"]},
        range(run["at_once"]),
        lambda seed: tasks.data(run, seed),
        steps=run["steps"],
        batch_size=run["batch"],
        rounds=run["rounds"],
    )
    return {
        "seconds": float(np.median(found[BASELINE])),
        "ratios": {name: ratio(t, found[BASELINE]) for name, t in found.items()},
    }


def check(study):
    """That the networks learn, each another function, at the best of the rates."""
    for run, result in study.results:
        if run["variant"] == SECONDS:
            assert result["ratios"][BASELINE] == 1, result
            continue
        assert result["errors"][-1] < result["errors"][0], (run, result["errors"])
        assert result["rate"] == RATES[np.argmin(result["tuned"])], result
    errors = [result["errors"][-1] for _, result in study.results[:-1]]
    assert len(set(errors)) == len(errors), errors


def main():
    study = Study(__doc__, BUDGETS)
    study.run(
        make_runs(study),
        lambda runs, bar: train(
            runs, bar, study.settings["rates"], study.settings["tuning"]
        ),
        cost=lambda run: run["steps"],
        together=True,
    )
    study.conclude(sine_report.report(study), lambda: sine_report.draw(study), check)


if __name__ == "__main__":
    main()
