"""Does an adjustment pay that knows the features, in closed form?

In the place of dl/dz the last layer and what is below it get what a ridge regression of
dl/dz on the features leaves (`feature_network.py`). Beside it: either of the two alone,
label smoothing, and K-FAC in the last layer.

Perceptrons on half of scikit-learn's digits and on California housing, and a small
convolutional network on CIFAR-10, reduced to 16 x 16; SGD with momentum and Adam, each
method at its own best rates (`tuned.py`). "equal time": where a step of a method takes
longer, after as many fewer steps.

    KERAS_BACKEND=jax python -m benchmarks.feature_adjustment --budget cpu --data FOLDER
    KERAS_BACKEND=jax python -m benchmarks.feature_adjustment --budget cifar ...
"""

import collections

import keras
import numpy as np

from benchmarks import data, together
from benchmarks.feature_network import METHODS, OURS, PLAIN, Network, body
from benchmarks.study import Study, holm, p_value, pyplot, statistics, table
from benchmarks.tuned import Tuned, grid

MAIN = [PLAIN, "label smoothing", OURS, "K-FAC, last layer, 0.01"]
FEW = [PLAIN, OURS, "K-FAC, last layer, 0.01"]
RATES = {"SGD": grid(0.01, 7), "Adam": grid(0.001, 6)}
Task = collections.namedtuple("Task", "methods batch steps early evaluations classes")
# The methods by optimizer; what "early" is; the classes, or 0 for a regression.
TASKS = {
    "digits": Task({"SGD": list(METHODS), "Adam": MAIN}, 64, 400, 48, 50, 10),
    "california": Task({"Adam": FEW}, 128, 600, 60, 20, 0),
    "cifar10": Task({"Adam": MAIN}, 128, 300, 60, 10, 10),
}
BUDGETS = {
    "smoke": {"seeds": 1, "tasks": ["digits"], "rates": 1, "shorter": 5}
    | {"optimizers": ["SGD"], "methods": [PLAIN, OURS]},
    "cpu": {"seeds": 24, "tuning_seeds": 8, "tasks": ["digits", "california"]},
    "cifar": {"seeds": 24, "tuning_seeds": 6, "tasks": ["cifar10"], "rates": 4},
}


def make(task, method, optimizer, shape, rate=0.01):
    network = Network(body(task, shape), TASKS[task].classes, **METHODS[method])
    options = {"momentum": 0.9} if optimizer == "SGD" else {}
    network.compile(getattr(keras.optimizers, optimizer)(rate, **options))
    return network


def load(study, task):
    """A function of a seed that returns (x, y), (x_test, y_test)."""
    if task == "cifar10":
        parts = data.small_cifar10(study.data)
        return lambda seed: parts
    x, y = data.california(study.data) if task == "california" else data.digits()
    half = 16_000 if task == "california" else len(x) // 2

    def split(seed):
        order = np.random.default_rng(seed).permutation(len(x))
        train, test = order[:half], order[half : half + 2500]
        scaled = x
        if task == "california":
            scaled = (x - x[train].mean(0)) / x[train].std(0)
        scaled = scaled.astype("float32")
        return (scaled[train], y[train]), (scaled[test], y[test])

    return split


def timed(study, tasks):
    """For each task and batch the seconds of a step of each method, in many rounds."""
    wanted = [(task, TASKS[task].batch) for task in tasks]
    if "digits" in tasks and study.budget != "smoke":
        wanted += [("digits", 32), ("digits", 128), ("digits", 512)]
    made = {"variant": "time", "seed": 0}
    runs = [{**made, "task": task, "batch": batch} for task, batch in wanted]

    def measure(runs, bar):
        (run,) = runs
        parts = load(study, run["task"])
        (x, y), (x_test, _) = parts(0)
        optimizer = next(iter(TASKS[run["task"]].methods))
        return [
            together.seconds(
                {
                    method: lambda seed, m=method: make(
                        run["task"], m, optimizer, x.shape[1:]
                    )
                    for method in methods_of(study, run["task"], optimizer)
                },
                [0],
                lambda seed: ((x, y), x_test),
                steps=5 if study.budget in ("smoke", "cifar") else 20,
                batch_size=run["batch"],
                rounds=3 if study.budget == "smoke" else 41,
            )
        ]

    study.run(runs, measure)
    return {
        (run["task"], run["batch"]): {
            method: np.median(np.divide(seconds, result[PLAIN]))
            for method, seconds in result.items()
        }
        | {"ms": 1000 * np.median(result[PLAIN])}
        for run, result in study.results
    }


def methods_of(study, task, optimizer):
    return study.settings.get("methods", TASKS[task].methods[optimizer])


def compare(study, task, optimizer, ratios):
    """All methods of a task with an optimizer, each with its best rates."""
    batch, steps, early, evaluations, classes = TASKS[task][1:]
    shorter = study.settings.get("shorter", 1)
    steps, evaluations = steps // shorter, evaluations // shorter
    parts = load(study, task)
    shape = parts(0)[0][0].shape[1:]

    def fit(run, pairs, bar):
        _, found = together.train(
            lambda seed: make(task, run["variant"], optimizer, shape),
            [seed for _, seed in pairs],
            lambda seed: (parts(seed)[0], parts(seed)[1][0]),
            steps=steps,
            batch_size=batch,
            evaluations=evaluations,
            rates=[rate for rate, _ in pairs],
            bar=bar,
            keep=False,
        )
        results = []
        for (_, seed), result in zip(pairs, found, strict=True):
            truth = parts(seed)[1][1]
            if classes:
                errors = 100 * (result["predictions"].argmax(-1) != truth).mean(-1)
                # What is not a number has no largest.
                errors[~np.isfinite(result["predictions"]).all((1, 2))] = np.inf
            else:
                errors = np.abs(result["predictions"] - truth).mean((1, 2))
            results.append({"errors": errors})
        return results

    def after(count):
        """The error after these evaluations; and after their time, interpolated."""
        marks = np.arange(1, evaluations + 1)
        return {
            "": lambda method, found: found["errors"][count - 1],
            ", equal time": lambda method, found: np.interp(
                count / max(ratios[method], 1), marks, found["errors"]
            ),
        }

    measures = {
        name + suffix: measure
        for name, count in (
            ("early", early * evaluations // steps),
            ("end", evaluations),
        )
        for suffix, measure in after(count).items()
    }
    cases = [
        {"variant": method, "task": task, "optimizer": optimizer}
        | {"rates": RATES[optimizer][: study.settings.get("rates")], "steps": steps}
        for method in methods_of(study, task, optimizer)
    ]
    return Tuned(study, cases, fit, measures, cost=lambda run: steps)


def report(study, found, ratios):
    texts = []
    for task in study.settings["tasks"]:
        batch, steps, early = TASKS[task][1:4]
        of_task = {o: t for (name, o), t in found.items() if name == task}
        cells = {}
        for measure in next(iter(of_task.values())).measures:
            rows = [(o, m) for o in of_task for m in methods_of(study, task, o)]
            parts = []
            for optimizer, method in rows:
                tuned = of_task[optimizer]
                base = tuned.values(PLAIN, measure)
                values = statistics(tuned.values(method, measure), base)
                parts.append((*values, base.mean()))
            corrected = holm([p for *_, p, _ in parts])
            for row, (mean, error, difference, _, base), p in zip(
                rows, parts, corrected, strict=True
            ):
                cell = [f"{mean:.3g} ± {error:.2g}"] if "equal" not in measure else []
                change = f"{100 * difference / base:+.1f}" if row[1] != PLAIN else ""
                cells.setdefault(row, []).extend([*cell, change, p_value(p)])
        for optimizer, tuned in of_task.items():
            rows = [
                [
                    method,
                    f"{tuned.rate(method, 'end'):g}",
                    f"{ratios[task, batch][method]:.2f}",
                    *cells[optimizer, method],
                ]
                for method in methods_of(study, task, optimizer)
            ]
            part = ["early", "%", "p", "%, equal time", "p"]
            header = ["", "rate", "time", *part, "end", *part[1:]]
            texts.append(
                f"{task}, {optimizer}, batch {batch}; early: after {early} steps, end: "
                f"{steps}\n\n{table(header, rows)}"
            )
    rows = [
        [f"{task}, {batch}", f"{row['ms']:.3f}"]
        + [f"{row[m]:.2f}" if m in row else "" for m in METHODS]
        for (task, batch), row in ratios.items()
    ]
    header = ["data, batch", "plain, ms", *METHODS]
    texts.append(
        f"Time for a step, plain = 1 (CIFAR-10: with Adam)\n\n{table(header, rows)}"
    )
    texts.append(
        f"{len(study.seeds)} seeds. Errors in % (California: the mean absolute error), "
        "± the standard error; %: against the plain optimizer, below zero is better; "
        "p: the paired t-test, corrected by Holm's method for the rows of a data set; "
        "time: of a step, plain = 1; rate: the best at the end."
    )
    return "\n\n".join(texts)


def draw(study, found, ratios):
    plt = pyplot()
    figure, axes = plt.subplots(
        1, len(found), figsize=(6 * len(found), 5), layout="constrained", squeeze=False
    )
    for axis, ((task, optimizer), tuned) in zip(axes[0], found.items(), strict=True):
        for method in methods_of(study, task, optimizer):
            runs = tuned.found(method, tuned.rate(method, "end"))
            curve = np.mean([run["errors"] for run in runs], 0)
            steps = tuned.cases[0]["steps"] * np.linspace(0, 1, len(curve) + 1)[1:]
            ratio = ratios[task, TASKS[task].batch][method]
            at = list(METHODS).index(method)
            style = {"color": f"C{at}" if at else "black"}
            axis.plot(steps * ratio, curve, label=method, **style)
        axis.set(title=f"{task}, {optimizer}", yscale="log")
        axis.set(xlabel="time, in steps of the plain optimizer", ylabel="test error")
    axes[0, 0].legend(fontsize=8)
    study.save(figure)


def main():
    study = Study(__doc__, BUDGETS, data=True)
    tasks = study.settings["tasks"]
    ratios = timed(study, tasks)
    found = {
        (task, optimizer): compare(
            study, task, optimizer, ratios[task, TASKS[task].batch]
        )
        for task in tasks
        for optimizer in study.settings.get("optimizers", TASKS[task].methods)
    }
    study.conclude(
        report(study, found, ratios), lambda: draw(study, found, ratios), check
    )


def check(study):
    """That they learn, and that the adjustment changes something."""
    errors = {
        run["variant"]: np.array(result["errors"]) for run, result in study.results
    }
    assert (errors[PLAIN] < 60).any(), errors
    assert not np.array_equal(errors[PLAIN], errors[OURS])


if __name__ == "__main__":
    main()
