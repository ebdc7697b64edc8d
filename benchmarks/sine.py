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

import keras
import numpy as np

from benchmarks import sine_tasks as tasks
from benchmarks import together
from benchmarks.study import Study, holm, p_value, pyplot, statistics, table

RATES = (1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2)
TUNING_SEEDS = range(1000, 1004)
SIZES = {"width": 16, "blocks": 2}
TASKS = {
    "single-layer blocks, tanh, f = 5": ("single", "tanh", "f = 5"),
    "two-layer blocks, GELU, f = 4": ("mlp", "gelu", "f = 4"),
    "two-layer blocks, tanh, f = 4": ("mlp", "tanh", "f = 4"),
    "single-layer blocks, tanh, piecewise": ("single", "tanh", "piecewise"),
    "two-layer blocks, GELU, piecewise": ("mlp", "gelu", "piecewise"),
    "single-layer blocks, GELU, f = 5": ("single", "gelu", "f = 5"),
}
BASELINE = "identity"
DEEP = [BASELINE, "convex, alpha 3, second order", "gain, second order"]
CORE = [
    *DEEP,
    "scaled",
    "none",
    "additive, raw, second order",
    *tasks.CONTROLS,
]
ALL = CORE + [name for name in tasks.VARIANTS if name not in CORE]
TRAINING = {"steps": 8000, "batch": 64, "evaluations": 16}
BUDGETS = {
    "smoke": {
        "seeds": 2,
        "parts": [(list(TASKS)[0], DEEP)],
        "depths": [],
        "rates": RATES[2:4],
        **TRAINING,
        "steps": 200,
        "evaluations": 4,
    },
    "cpu": {
        "seeds": 30,
        "parts": [
            *((task, CORE) for task in list(TASKS)[:4]),
            *((task, ALL) for task in list(TASKS)[:3]),
            *((task, CORE) for task in list(TASKS)[4:]),
        ],
        "depths": [(width, n) for width in (16, 32) for n in (1, 2, 3, 4, 6)],
        "rates": RATES,
        **TRAINING,
    },
}


def make_runs(study):
    settings = study.settings
    parts = [(task, v, SIZES) for task, names in settings["parts"] for v in names]
    parts += [
        (list(TASKS)[0], variant, {"width": width, "blocks": blocks})
        for width, blocks in settings["depths"]
        for variant in DEEP
    ]
    made = [
        {"task": task, "variant": variant, "seed": seed, **sizes}
        | {name: settings[name] for name in TRAINING}
        for task, variant, sizes in parts
        for seed in study.seeds
    ]
    return list({str(run): run for run in made}.values())


def train(runs, bar, rates):
    """All seeds of a variant at once, after all rates on the seeds for tuning."""
    run = runs[0]
    block, activation, target = TASKS[run["task"]]

    def fit(pairs, bar=None):
        def make(seed):
            sizes = run["width"], run["blocks"]
            model = tasks.network(block, activation, *sizes, run["variant"])
            model.compile(keras.optimizers.Adam(), "mse")
            return model

        _, found = together.train(
            make,
            [seed for _, seed in pairs],
            lambda seed: tasks.data(target, seed),
            steps=run["steps"] * tasks.VARIANTS[run["variant"]].get("longer", 1),
            batch_size=run["batch"],
            evaluations=run["evaluations"],
            rates=[rate for rate, _ in pairs],
            schedule=lambda share: (1 + np.cos(np.pi * share)) / 2,
            bar=bar,
        )
        return [result["predictions"] for result in found]

    def errors(predictions):
        wrong = predictions - tasks.TARGETS[target](tasks.GRID)
        return np.mean(wrong**2, axis=(1, 2))

    pairs = [(rate, seed) for rate in rates for seed in TUNING_SEEDS]
    tuned = np.log10([errors(predictions)[-1] for predictions in fit(pairs)])
    tuned = np.nan_to_num(tuned, nan=np.inf).reshape(len(rates), -1).mean(1)
    best = rates[np.argmin(tuned)]
    found = fit([(best, run["seed"]) for run in runs], bar)
    results = [{"errors": errors(f), "rate": best, "tuned": tuned} for f in found]
    for run, result, predictions in zip(runs, results, found, strict=True):
        if run["seed"] == 0:
            result["function"] = predictions[-1, :, 0]
    return results


def main():
    study = Study(__doc__, BUDGETS)
    study.run(
        make_runs(study),
        lambda runs, bar: train(runs, bar, study.settings["rates"]),
        cost=lambda run: run["steps"],
        together=True,
    )


if __name__ == "__main__":
    main()
