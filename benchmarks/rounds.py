"""Timing variants in turn, each in a process of its own.

Ratios are medians of those within a round, so that a machine whose speed drifts does
not matter; and no variant lives in another's memory.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time

WARM_UP = 3
# glibc else gives memory back to the system after a step and faults it in again at the
# next: up to a third of a step in PyTorch, and not the same for all variants.
KEEP_MEMORY = {
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
}


def parse(description, rounds, checked, flags=None):
    """The options of a benchmark; sets the backend that is asked for.

    `flags` are those of its own: their names, and what they do.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", help="a Keras backend; else KERAS_BACKEND is used")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument(
        "--check", action="store_true", help=f"exit with 1 if {checked}"
    )
    for name, text in (flags or {}).items():
        parser.add_argument(name, action="store_true", help=text)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.backend:
        os.environ["KERAS_BACKEND"] = options.backend
    return options


def serve(actions):
    """Runs what is asked for, by name, and prints the seconds; at last, the memory."""
    for line in sys.stdin:
        start = time.perf_counter()
        actions[line.strip()]()
        print(time.perf_counter() - start, flush=True)
    # Bytes on macOS, KiB elsewhere.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)


class Server:
    """A process that runs `python -m module --serve arguments`, which calls `serve`."""

    def __init__(self, module, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, "--serve", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**KEEP_MEMORY, **os.environ},
        )

    def seconds(self, action):
        print(action, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())

    def finish(self):
        """Ends the process; returns its peak memory in MiB, and what it printed."""
        memory, *rest = self.process.communicate()[0].splitlines()
        return float(memory), rest


def measure(servers, actions, rounds):
    """The seconds of the first call, and of each round's, by (action, server)."""
    runs = [(action, variant) for action in actions for variant in servers]
    first = {(a, v): servers[v].seconds(a) for a, v in runs}
    times = {run: [] for run in runs}
    for round_ in range(WARM_UP + rounds):
        for action, variant in runs if round_ % 2 else runs[::-1]:
            # The first after the others' turns finds sleeping threads and cold caches.
            servers[variant].seconds(action)
            seconds = servers[variant].seconds(action)
            if round_ >= WARM_UP:
                times[action, variant].append(seconds)
    return first, times


def ratio(times, baseline):
    """The median of the ratios of each round."""
    return statistics.median(a / b for a, b in zip(times, baseline, strict=True))
