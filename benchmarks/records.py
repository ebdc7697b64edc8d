"""The file of results: a line of JSON for each run, and for what made them.

A run is a dict of all that decides it, as `{"variant": "gain", "seed": 3, "steps":
2000}`. Its result, a dict too, is appended to the file once it is there. So a study
that is interrupted goes on where it stopped, and one that is asked for more seeds
trains only these.
"""

import importlib.metadata
import json
import math
import os
import pathlib
import platform

import keras
import numpy as np
import tqdm


class Runs:
    """The runs of a study and their results.

    Attributes:
        module, arguments: Of the command that makes them.
        name: That of the file, without `.jsonl`.
        out: Its folder.
        results: The pairs of a run and its result.
    """

    module = name = ""
    arguments: list = []
    out = pathlib.Path()
    results: list = []

    def execute(self, runs, train, cost=lambda run: 1, together=False):
        """Trains what is not in the file yet, and sets `results` to those of `runs`.

        Args:
            runs: The runs, dicts with a `variant` and a `seed` among the rest. One
                that is there twice counts once.
            train: A function of a list of runs and of the progress bar, returning the
                list of their results. It moves the bar by the cost of these runs.
            cost: How much of the bar a run takes.
            together: Whether runs that differ in their seed only are trained at once.
        """
        runs = list({key(run): run for run in runs}.values())
        path = self.out / f"{self.name}.jsonl"
        found, backends = read(path)
        backend = keras.backend.backend()
        if backends - {backend}:
            raise ValueError(
                f"{path} has results of {sorted(backends - {backend})}, which must not "
                f"be mixed with those of {backend}. Give another folder as --out."
            )
        missing = [run for run in runs if key(run) not in found]
        batches = {}
        for run in missing:
            alike = {**run, "seed": None} if together else run
            batches.setdefault(key(alike), []).append(run)
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
                append(file, {"environment": self.environment()})
            for batch in batches.values():
                bar.set_postfix_str(str(batch[0]["variant"]))
                before = bar.n
                results = train(batch, bar)
                bar.update(before + sum(map(cost, batch)) - bar.n)
                for run, result in zip(batch, results, strict=True):
                    append(file, {"run": run, "result": result})
        found, _ = read(path)
        self.results = [(run, found[key(run)]) for run in runs]

    def of(self, measure, **wanted):
        """A measure of all runs with these settings, in the order of seeds.

        It is the name of an entry of a result, or a function of the result.
        """
        read = measure if callable(measure) else lambda result: result[measure]
        found = [
            (run["seed"], read(result))
            for run, result in self.results
            if wanted.items() <= run.items()
        ]
        return np.array([value for _, value in sorted(found, key=lambda pair: pair[0])])

    def environment(self):
        return environment(self.module, self.arguments)


def key(run):
    """The same for equal runs."""
    return json.dumps(run, sort_keys=True)


def append(file, record):
    # Strict JSON has no NaN.
    print(json.dumps(_map(record, _to_json), allow_nan=False), file=file, flush=True)


def read(path):
    """The results by the keys of their runs, and the backends that made them.

    A line that was not written to its end is taken out of the file.
    """
    text = path.read_text() if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    records = [json.loads(line) for line in whole.splitlines()]
    results = {
        key(r["run"]): _map(r["result"], lambda x: math.nan if x is None else x)
        for r in records
        if "run" in r
    }
    made = [r["environment"] for r in records if "environment" in r]
    return results, {environment["backend"] for environment in made}


def environment(module, arguments):
    """The command, the versions and the machine."""
    backend = keras.backend.backend()
    versions = {"Python": platform.python_version(), "Keras": keras.__version__}
    for package in (backend, f"{backend}-cpu", "numpy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    command = " ".join([f"KERAS_BACKEND={backend}", "python -m", module, *arguments])
    return {
        "command": command,
        "backend": backend,
        "versions": versions,
        "machine": f"{platform.system()} {platform.machine()}, {usable_cores()} cores",
    }


def usable_cores():
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


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
