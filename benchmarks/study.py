"""What the studies share: options, runs that resume, statistics, tables and figures.

A study trains a network for each of its runs; a run is a dict of all that decides it,
as `{"variant": "convex", "seed": 3, "steps": 2000}`. Its result, a dict too, is
appended to `OUT/NAME.jsonl` once it is there, so that a study that is interrupted goes
on where it stopped, and one that is asked for more seeds trains only these.

    study = Study(__doc__, {"smoke": ..., "cpu": ..., "gpu": ...})
    study.run(runs, train)          # train(runs, bar) returns their results
    study.conclude(text, draw, check)       # OUT/NAME.md; draw saves OUT/NAME.png
"""

import argparse
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import sys

import keras
import numpy as np
import tqdm
from scipy import optimize, stats

DATA = "KERAS_GRADRES_DATA"


def _key(run):
    return json.dumps(run, sort_keys=True)


class Study:
    """A question, its options, and its folder of results.

    Args:
        description: The docstring of its file.
        budgets: For each budget a dict of settings; `seeds` is one of them.
        data: Whether it reads a folder of data, given as `--data` or by the environment
            variable KERAS_GRADRES_DATA.
        sweep: Whether `--sweep` chooses between settings that the paper leaves open.

    Attributes:
        settings: Those of the budget that was asked for.
        seeds: A range.
        data: The folder of data, or None where none is given.
        sweep: Whether it was asked for.
        results: After `run`, the pairs of a run and its result.
    """

    def __init__(self, description, budgets, data=False, sweep=False):
        self.module = sys.modules["__main__"].__spec__.name
        self.name = self.module.rpartition(".")[2]
        parser = argparse.ArgumentParser(
            prog=f"python -m {self.module}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("--budget", choices=list(budgets), default="smoke")
        parser.add_argument("--seeds", type=int, help="how many; else the budget's")
        parser.add_argument("--out", help="folder; else results/NAME-BUDGET")
        if data:
            parser.add_argument("--data", help=f"folder of data; else ${DATA}")
        if sweep:
            parser.add_argument(
                "--sweep", action="store_true", help="choose what the paper leaves open"
            )
        options = parser.parse_args()
        if options.seeds is not None and options.seeds < 1:
            parser.error(f"--seeds must be positive. Received: {options.seeds}")
        self.budget = options.budget
        self.settings = budgets[options.budget]
        self.sweep = sweep and options.sweep
        if self.sweep:
            self.name += "_sweep"
        self.seeds = range(options.seeds or self.settings["seeds"])
        self.data = data and (options.data or os.environ.get(DATA))
        self.out = pathlib.Path(options.out or f"results/{self.name}-{self.budget}")
        self.out.mkdir(parents=True, exist_ok=True)
        self.results = []

    def run(self, runs, train, cost=lambda run: 1, together=False):
        """Trains what is not in the file yet, and fills `results`.

        Args:
            runs: The runs, dicts with a `variant` and a `seed` among the rest.
            train: A function of a list of runs and of the progress bar, returning the
                list of their results. It moves the bar by the cost of these runs.
            cost: How much of the bar a run takes.
            together: Whether runs that differ in their seed only are trained at once.
        """
        path = self.out / f"{self.name}.jsonl"
        found, backends = _read(path)
        backend = keras.backend.backend()
        if backends - {backend}:
            raise ValueError(
                f"{path} has results of {sorted(backends - {backend})}, which must not "
                f"be mixed with those of {backend}. Give another folder as --out."
            )
        missing = [run for run in runs if _key(run) not in found]
        groups = {}
        for run in missing:
            alike = {**run, "seed": None} if together else run
            groups.setdefault(_key(alike), []).append(run)
        with (
            path.open("a") as file,
            tqdm.tqdm(
                total=sum(map(cost, missing)),
                desc=self.name,
                unit_scale=True,
                bar_format="{desc}: {percentage:3.0f}% {bar} {elapsed}, "
                "{remaining} left {postfix}",
            ) as bar,
        ):
            if missing:
                _append(file, {"environment": environment()})
            for group in groups.values():
                bar.set_postfix_str(str(group[0]["variant"]))
                before = bar.n
                results = train(group, bar)
                bar.update(before + sum(map(cost, group)) - bar.n)
                for run, result in zip(group, results, strict=True):
                    _append(file, {"run": run, "result": result})
        found, _ = _read(path)
        self.results = [(run, found[_key(run)]) for run in runs]

    def of(self, measure, **wanted):
        """`measure(result)` of all runs with these settings, in the order of seeds."""
        found = [
            (run["seed"], measure(result))
            for run, result in self.results
            if wanted.items() <= run.items()
        ]
        return np.array([value for _, value in sorted(found, key=lambda pair: pair[0])])

    def write(self, text):
        """Prints the report, and writes it with what it was made with."""
        made = environment()
        versions = ", ".join(f"{k} {v}" for k, v in made["versions"].items())
        text = (
            f"{text.strip()}\n\nMade on {made['backend']} with `{made['command']}`; "
            f"{versions}; {made['machine']}.\n"
        )
        (self.out / f"{self.name}.md").write_text(text)
        print(f"\n{text}\nIn {self.out}: {self.name}.jsonl, .md and .png")

    def conclude(self, text, draw, check):
        """Writes the report and draws; with the `smoke` budget, checks as well."""
        self.write(text)
        draw()
        if self.budget == "smoke":
            check(self)

    def save(self, figure, suffix=""):
        figure.savefig(self.out / f"{self.name}{suffix}.png", dpi=80)


def each_learns(study):
    """Checks that the networks learn, each in its own way, by the curves `loss`."""
    losses = [result["loss"] for _, result in study.results]
    assert all(loss[-1] < loss[0] for loss in losses), losses
    assert len({loss[-1] for loss in losses}) == len(losses), losses


def environment():
    """The command, the versions and the machine."""
    backend = keras.backend.backend()
    versions = {"Python": platform.python_version(), "Keras": keras.__version__}
    for package in (backend, f"{backend}-cpu", "numpy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    command = " ".join(
        [
            f"KERAS_BACKEND={backend}",
            "python -m",
            sys.modules["__main__"].__spec__.name,
            *sys.argv[1:],
        ]
    )
    machine = f"{platform.system()} {platform.machine()}, {_usable_cores()} cores"
    return {
        "command": command,
        "backend": backend,
        "versions": versions,
        "machine": machine,
    }


def statistics(values, baseline, paired=True):
    """Mean, standard error, difference of the means, and p of Student's paired t-test.

    With `paired=False`, that of Welch. Of fewer than two seeds, or where all
    differences are equal, p is NaN.
    """
    values, baseline = np.asarray(values), np.asarray(baseline)
    mean, difference = values.mean(), values.mean() - baseline.mean()
    if len(values) < 2:
        return mean, math.nan, difference, math.nan
    error = values.std(ddof=1) / math.sqrt(len(values))
    spread = values - baseline if paired else np.append(values, baseline)
    if not np.isfinite(spread).all() or np.ptp(spread) == 0:
        return mean, error, difference, math.nan
    if paired:
        p = stats.ttest_rel(values, baseline).pvalue
    else:
        p = stats.ttest_ind(values, baseline, equal_var=False).pvalue
    return mean, error, difference, float(p)


def holm(p_values):
    """Corrects the p of several rows for their number; NaN is no row, and stays NaN.

    The smallest of n is multiplied by n, the next by n - 1, and so on, and none is
    smaller than one before it. Calling below 0.05 what is below 0.05 here errs in any
    row at all with a probability of at most 5 %.
    """
    p = np.asarray(p_values, "float64")
    corrected = np.full(p.shape, math.nan)
    order = np.argsort(p)[: np.isfinite(p).sum()]
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected


def detectable(spread, seeds, power=0.8, level=0.05):
    """The smallest difference that a study can be expected to see.

    Where the differences between pairs have the standard deviation `spread`, and their
    mean is this, the two-sided paired t-test of so many seeds is below `level` with the
    probability `power`. Infinite with fewer than two seeds.
    """
    if seeds < 2:
        return math.inf
    critical = stats.t.ppf(1 - level / 2, seeds - 1)

    # What falls below the lower critical value is next to nothing at such a power.
    size = optimize.brentq(
        lambda size: stats.nct.sf(critical, seeds - 1, size * seeds**0.5) - power, 0, 20
    )
    return spread * size


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


def pyplot():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _usable_cores():
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _append(file, record):
    # Strict JSON has no NaN.
    print(json.dumps(_map(record, _to_json), allow_nan=False), file=file, flush=True)


def _read(path):
    """The results by the keys of their runs, and the backends that made them."""
    text = path.read_text() if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:  # An interrupted write.
        path.write_text(whole)
    records = [json.loads(line) for line in whole.splitlines()]
    results = {
        _key(r["run"]): _map(r["result"], lambda x: math.nan if x is None else x)
        for r in records
        if "run" in r
    }
    made = [r["environment"] for r in records if "environment" in r]
    return results, {environment["backend"] for environment in made}


def _to_json(x):
    if isinstance(x, (float, np.floating)):
        return float(f"{x:.6g}") if math.isfinite(x) else None
    return x


def _map(tree, function):
    if isinstance(tree, dict):
        return {k: _map(v, function) for k, v in tree.items()}
    if isinstance(tree, np.ndarray):
        tree = tree.tolist()
    if isinstance(tree, (list, tuple)):
        return [_map(v, function) for v in tree]
    return function(tree)
