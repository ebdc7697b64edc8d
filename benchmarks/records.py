"""The file of results: a line of JSON for each run, and for what made them."""

import importlib.metadata
import json
import math
import os
import platform

import keras
import numpy as np


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
