"""What does Table V of the GAL paper show: the adjustment, or more training?

The variance of the test targets, which the table's MSE and R2 imply, fits one split:
`train_test_split(x, y, random_state=1)`, a quarter for the test. On it, this trains the
paper's networks with Adam, alone and inside GAL with alpha = beta = 0.001 and each
granularity, from the same starts, and looks at the mean absolute error at many marks.
Boston's features are standardized, the others are as they are.

    KERAS_BACKEND=jax python -m benchmarks.paper_split --budget cpu --data FOLDER
"""

import numpy as np

from benchmarks import regression, together
from benchmarks.study import Study, holm, p_value, pyplot, statistics, table

BASELINE = "Adam"
VARIANTS = {BASELINE: None} | {
    f"GAL, {granularity}": {"alpha": 0.001, "beta": 0.001, "granularity": granularity}
    for granularity in ("sample", "batch", "reference")
}
# The epochs between two marks, and the paper's rows: the MAE alone, and with GAL.
TASKS = {
    "boston": (10, 3.95, 2.81),
    "diabetes": (20, 44.4, 41.6),
    "california": (1, 1.09, 0.78),
}
BUDGETS = {
    "smoke": {"seeds": 2, "tasks": ["diabetes"], "marks": 2, "apart": 4}
    | {"variants": list(VARIANTS)[:2]},
    "cpu": {"seeds": 30, "tasks": list(TASKS), "marks": 10}
    | {"variants": list(VARIANTS)},
}


def apart(study, task):
    """The epochs between two marks."""
    return study.settings.get("apart", TASKS[task][0])


def split(study, task):
    """(x, y), (x_test, y_test): those of the paper."""
    from sklearn.model_selection import train_test_split

    x, y = regression.load(study, task)
    x, x_test, y, y_test = train_test_split(x, y, random_state=1)
    if task == "boston":
        x_test = (x_test - x.mean(0)) / x.std(0)
        x = (x - x.mean(0)) / x.std(0)
    x, y, x_test, y_test = (a.astype("float32") for a in (x, y, x_test, y_test))
    return (x, y), (x_test, y_test)


def train(runs, bar, study, splits):
    """All seeds of a variant at once."""
    run = runs[0]
    hidden, adjusting, batch, _ = regression.TASKS[run["task"]]
    arguments = VARIANTS[run["variant"]]
    (x, y), (x_test, truth) = splits[run["task"]]

    def make(seed):
        return regression.network(x.shape[1:], hidden, adjusting, seed, arguments)

    _, found = together.train(
        make,
        [run["seed"] for run in runs],
        lambda seed: ((x, y), x_test),
        steps=run["steps"],
        batch_size=batch,
        evaluations=study.settings["marks"],
        bar=bar,
        keep=False,
    )
    return [regression.scores(result["predictions"], truth) for result in found]


def report(study):
    texts, variants = [], study.settings["variants"]
    for task in study.settings["tasks"]:
        _, *paper = TASKS[task]
        curves = {
            variant: study.of(lambda r: r["mae"], variant=variant, task=task)
            for variant in variants
        }
        base = curves[BASELINE]
        parts = [
            [
                statistics(curves[variant][:, mark], base[:, mark])
                for variant in variants
            ]
            for mark in range(base.shape[1])
        ]
        p_values = np.array([[part[3] for part in row] for row in parts])
        corrected = holm(p_values.ravel()).reshape(p_values.shape)
        rows = []
        for mark, (row, p_values) in enumerate(zip(parts, corrected, strict=True)):
            mean, error = row[0][:2]
            cells = [f"{mean:.3g} ± {error:.1g}"]
            for part, p in list(zip(row, p_values, strict=True))[1:]:
                cells += [f"{100 * part[2] / mean:+.3f}", p_value(p)]
            rows.append([(mark + 1) * apart(study, task), *cells])
        header = ["epochs", "Adam, MAE"]
        for variant in variants[1:]:
            header += [f"{variant}, %", "p"]
        alone, ours = paper
        texts.append(
            f"{task}; the paper has {alone} alone and {ours} with GAL\n\n"
            f"{table(header, rows)}"
        )
    texts.append(
        f"{len(study.seeds)} seeds; ± is the standard error over initializations. %: "
        "the difference from Adam's error at the same mark; p: the paired t-test, "
        "corrected by Holm's method for all of a table."
    )
    return "\n\n".join(texts)


def draw(study):
    plt = pyplot()
    tasks = study.settings["tasks"]
    figure, axes = plt.subplots(
        1, len(tasks), figsize=(6 * len(tasks), 5), layout="constrained", squeeze=False
    )
    for axis, task in zip(axes[0], tasks, strict=True):
        _, alone, ours = TASKS[task]
        for variant, style in zip(
            study.settings["variants"], ("-", "--", ":", "-."), strict=False
        ):
            curves = study.of(lambda r: r["mae"], variant=variant, task=task)
            epochs = apart(study, task) * np.arange(1, curves.shape[1] + 1)
            # On California some runs are far off at any mark, whatever the method.
            low, median, high = np.quantile(curves, (0.25, 0.5, 0.75), axis=0)
            axis.plot(epochs, median, style, label=variant)
            if variant == BASELINE:
                axis.fill_between(epochs, low, high, alpha=0.2, label="its quartiles")
        rows = {"the paper, alone": (alone, "grey"), "with GAL": (ours, "black")}
        for label, (value, color) in rows.items():
            band = (0.99 * value, 1.01 * value)
            axis.axhspan(*band, color=color, alpha=0.3, label=label)
        axis.set(title=task, xlabel="epochs", ylabel="test MAE, median", yscale="log")
    axes[0, 0].legend()
    study.save(figure)


def main():
    study = Study(__doc__, BUDGETS, data=True)
    splits = {task: split(study, task) for task in study.settings["tasks"]}
    runs = []
    for task, ((x, _), _) in splits.items():
        each = len(x) // regression.TASKS[task][2]
        steps = apart(study, task) * study.settings["marks"] * each
        runs += [
            {"task": task, "variant": variant, "seed": seed, "steps": steps}
            for variant in study.settings["variants"]
            for seed in study.seeds
        ]
    study.run(
        runs,
        lambda runs, bar: train(runs, bar, study, splits),
        cost=lambda run: run["steps"],
        together=True,
    )
    study.conclude(report(study), lambda: draw(study), check)


def check(study):
    """That the networks learn, and that GAL acts."""
    errors = [
        study.of(lambda r: r["mae"], variant=variant)
        for variant in study.settings["variants"]
    ]
    for values in errors:
        assert (values[:, -1] < values[:, 0]).all(), values
    assert not np.array_equal(errors[0], errors[1])


if __name__ == "__main__":
    main()
