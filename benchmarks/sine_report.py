"""The tables and the figure of `sine`."""

import numpy as np

from benchmarks import sine_tasks as tasks
from benchmarks.sine_tasks import (
    BASELINE,
    DEEP,
    FIRST,
    LONGER,
    SAME_TIME,
    SECONDS,
    SIZES,
    TASKS,
)
from benchmarks.study import holm, p_value, pyplot, statistics, table

THERE = 0.05  # Of the variance of the target.
LEGEND = (
    "Mean squared error on a grid, mean ± standard error of its log10 over {seeds} "
    "seeds. rate: the best of the method on other seeds. area: the mean of log10 error "
    "over the training. there: the share of seeds whose error came below 0.05 times "
    "the variance of the target. time: of the whole training, in units of identity's "
    "(a step is timed in turn, in one process; the median of paired ratios). factor: "
    "the geometric mean of the error in units of that of identity of the same size, "
    "and in units of the better of identity with one block more and identity with "
    "twice the steps; below 1 is better. p: the paired t-test of the logarithms, after "
    "Holm's correction for the rows of the column."
)


def final(result):
    return np.log10(result["errors"][-1])


def area(result):
    return np.mean(np.log10(result["errors"]))


def compared(study, names, baseline, where):
    """For each name the factor of the errors to the baseline, and p after Holm."""
    values = {name: study.of(final, variant=name, **where) for name in names}
    found = [statistics(values[name], values[baseline]) for name in names]
    corrected = holm([p for *_, p in found])
    return {
        name: [f"{10**difference:.3g}", p_value(p)] if name != baseline else ["", ""]
        for name, (*_, difference, _), p in zip(names, found, corrected, strict=True)
    }


def task_table(study, task):
    """A row for each variant, against both baselines."""
    where = {"task": task, **SIZES}
    enough = THERE * np.var(tasks.TARGETS[TASKS[task][-1]](tasks.GRID))
    found = [run["variant"] for run, _ in study.results if where.items() <= run.items()]
    names = [name for name in tasks.VARIANTS if name in found]
    mean = {name: study.of(final, variant=name, **where).mean() for name in names}
    controls = [name for name in SAME_TIME if name in names] or [BASELINE]
    same_time = min(controls, key=mean.get)
    timing = study.of(lambda r: r, variant=SECONDS, **where)
    ratios = timing[0]["ratios"] if len(timing) else {}
    columns = [compared(study, names, b, where) for b in (BASELINE, same_time)]
    rows = []
    for name in names:
        errors = study.of(final, variant=name, **where)
        _, error, *_ = statistics(errors, errors)
        longer = tasks.VARIANTS[name].get("longer", 1)
        time = ratios.get(name.replace(LONGER, BASELINE))
        rows.append(
            [
                name,
                f"{study.of(lambda r: r['rate'], variant=name, **where)[0]:g}",
                f"{mean[name]:.2f} ± {error:.2f}",
                f"{study.of(area, variant=name, **where).mean():.2f}",
                f"{np.mean(errors < np.log10(enough)):.0%}",
                "" if time is None else f"{time * longer:.2f}",
                *columns[0][name],
                *columns[1][name],
            ]
        )
    header = ["", "rate", "log10 error", "area", "there", "time", "factor, same size"]
    header += ["p", "factor, same time", "p"]
    step = f", {1e6 * timing[0]['seconds']:.0f} µs a step" if len(timing) else ""
    title = f"{task} (same size: {BASELINE}{step}; same time: {same_time})"
    return f"{title}\n\n{table(header, rows)}"


def depth_table(study):
    """Depth and width with the first task; Holm's correction over the whole table."""
    sizes = {(r["width"], r["blocks"]) for r, _ in study.results if r["task"] == FIRST}
    cells, rows, p_values = [], [], []
    for width, blocks in sorted(sizes):
        where = {"task": FIRST, "width": width, "blocks": blocks}
        values = {name: study.of(final, variant=name, **where) for name in DEEP}
        if all(map(len, values.values())):
            cells.append((width, blocks, values))
    for width, blocks, values in cells:
        mean, error, *_ = statistics(values[BASELINE], values[BASELINE])
        rows.append([f"{width} x {blocks}", f"{mean:.2f} ± {error:.2f}"])
        for name in DEEP[1:]:
            mean, error, difference, p = statistics(values[name], values[BASELINE])
            rows[-1] += [f"{mean:.2f} ± {error:.2f}", f"{10**difference:.3g}", ""]
            p_values.append(p)
    for i, p in enumerate(holm(p_values)):
        rows[i // 2][4 + 3 * (i % 2)] = p_value(p)
    header = ["width x blocks", BASELINE]
    for name in DEEP[1:]:
        header += [name, "factor", "p"]
    return f"Depth and width: {FIRST}\n\n{table(header, rows)}"


def report(study):
    found = [run["task"] for run, _ in study.results]
    parts = [LEGEND.format(seeds=len(study.seeds))]
    parts += [task_table(study, task) for task in TASKS if task in found]
    if not all(SIZES.items() <= run.items() for run, _ in study.results):
        parts.append(depth_table(study))
    return "\n\n".join(parts)


DRAWN = {
    BASELINE: "tab:grey",
    "identity, one block more": "tab:olive",
    LONGER: "tab:green",
    "convex, alpha 3, second order": "tab:blue",
    "gain, second order": "tab:red",
    "additive, raw, second order": "tab:orange",
    "sine network": "tab:purple",
}
CURVES = (
    BASELINE,
    "identity, one block more",
    "gain, second order",
    "additive, raw, second order",
)


def draw(study):
    """A column for each task: what seed 0 learned, and the errors by steps."""
    plt = pyplot()
    found = {run["task"] for run, _ in study.results}
    shown = [task for task in TASKS if task in found]
    figure, axes = plt.subplots(
        len(CURVES) + 1,
        len(shown),
        figsize=(5.5 * len(shown), 12),
        height_ratios=[1] * len(CURVES) + [2.8],
        layout="constrained",
        squeeze=False,
    )
    for column, task in zip(axes.T, shown, strict=True):
        where = {"task": task, **SIZES}
        truth = tasks.TARGETS[TASKS[task][-1]](tasks.GRID)
        learned = {
            run["variant"]: result["function"]
            for run, result in study.results
            if where.items() <= run.items() and "function" in result
        }
        for axis, name in zip(column[:-1], CURVES, strict=True):
            axis.plot(tasks.GRID, truth, color="black", linewidth=0.7)
            if name in learned:
                axis.plot(tasks.GRID, learned[name], color=DRAWN[name])
            axis.set(ylim=(-1.6, 1.6), title=f"{name}, seed 0")
        for name, color in DRAWN.items():
            errors = study.of(lambda r: np.log10(r["errors"]), variant=name, **where)
            if not len(errors):
                continue
            steps = np.arange(1, 1 + errors.shape[1]) / errors.shape[1]
            steps *= study.settings["steps"]
            steps *= tasks.VARIANTS[name].get("longer", 1)
            mean, spread = errors.mean(0), errors.std(0) / np.sqrt(len(errors))
            column[-1].plot(steps, mean, label=name, color=color)
            column[-1].fill_between(
                steps, mean - spread, mean + spread, alpha=0.2, color=color
            )
        column[-1].set(
            xlabel="steps", title=f"{task}\nlog10 error, mean and standard error"
        )
    axes[-1, 0].legend(fontsize=8)
    study.save(figure)
