"""The tests and the cost benchmarks on a GPU, for the frameworks that are installed.

Runs, for JAX, PyTorch and TensorFlow, as far as they are there, the tests, then
`step_cost` and `gal_cost`, and writes the tables as Markdown. Reduced precision
(TensorFloat-32) is off in all of them, so that numbers can be compared with those of a
CPU; memory is taken as it is needed, so that several processes can share the card.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --frameworks jax torch --output gpu.md
    python -m benchmarks.gpu --tests 'test_skip.py -k shape' --benchmarks gal_cost

It exits with 1 where a test or a benchmark failed, and where a framework saw no GPU: a
CPU's numbers would else stand under a GPU's name. `--cpu` allows that.
"""

import argparse
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree

ROOT = pathlib.Path(__file__).parents[1]
FRAMEWORKS = ("jax", "torch", "tensorflow")
BENCHMARKS = ("step_cost", "gal_cost")
SETTINGS = {
    "JAX_DEFAULT_MATMUL_PRECISION": "highest",
    "NVIDIA_TF32_OVERRIDE": "0",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}
DEVICE = "import keras; print(str(keras.ops.zeros(()).device))"


def run(framework, *arguments, folder, **options):
    """Runs Python with this backend; the result has `returncode`."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **SETTINGS, "KERAS_BACKEND": framework},
        text=True,
        **options,
    )


def device(framework):
    """Where Keras puts a tensor; the message, where it cannot."""
    found = run(framework, "-c", DEVICE, folder=ROOT / "tests", capture_output=True)
    lines = (found.stdout if found.returncode == 0 else found.stderr).splitlines()
    return lines[-1].rpartition("device:")[2] if lines else "none"


def card():
    """The names of the cards and the driver, as NVIDIA's tool says."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return f"{platform.processor() or platform.machine()}, no nvidia-smi"
    return "; ".join(found.stdout.splitlines())


def tests(framework, arguments):
    """Passed, failed and skipped tests, and the minutes that they took."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder, "report.xml")
        command = ("-m", "pytest", "-q", f"--junitxml={report}", *arguments)
        run(framework, *command, folder=ROOT / "tests")
        minutes = (time.perf_counter() - start) / 60
        if not report.exists():
            return {"passed": 0, "failed": 1, "skipped": 0, "minutes": minutes}
        suite = xml.etree.ElementTree.parse(report).getroot().find("testsuite")
    count = {k: int(suite.get(k)) for k in ("tests", "failures", "errors", "skipped")}
    failed = count["failures"] + count["errors"]
    passed = count["tests"] - failed - count["skipped"]
    return {
        "passed": passed,
        # A selection of no test is no success.
        "failed": failed if passed + failed else 1,
        "skipped": count["skipped"],
        "minutes": minutes,
    }


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frameworks", nargs="+", choices=FRAMEWORKS)
    parser.add_argument("--output", type=pathlib.Path, default="gpu.md")
    parser.add_argument(
        "--tests", default="-m 'not separate' .", help="the arguments of pytest"
    )
    parser.add_argument("--benchmarks", nargs="*", choices=BENCHMARKS)
    parser.add_argument("--rounds", type=int, help="of the benchmarks")
    parser.add_argument("--cpu", action="store_true", help="go on without a GPU")
    options = parser.parse_args()
    if options.benchmarks is None:
        options.benchmarks = BENCHMARKS
    installed = [name for name in FRAMEWORKS if importlib.util.find_spec(name)]
    missing = set(options.frameworks or ()) - set(installed)
    if missing or not installed:
        sys.exit(
            f"Of {FRAMEWORKS} are installed here: {installed}. Missing: "
            f"{sorted(missing or FRAMEWORKS)}. Install a build for this GPU, such as "
            "`pip install 'jax[cuda12]'`."
        )
    options.frameworks = options.frameworks or installed
    return options


def main():
    options = parse()
    names = {name: device(name) for name in options.frameworks}
    without = {k: v for k, v in names.items() if "cpu" in v.lower() or ":" not in v}
    if without and not options.cpu:
        sys.exit(f"These see no GPU: {without}. `--cpu` runs them all the same.")

    version = importlib.metadata.version
    lines = [
        f"# {card()}",
        f"Python {platform.python_version()}, Keras {version('keras')}, full precision."
        " Made with `python -m benchmarks.gpu`.",
        "| framework | device | passed | failed | skipped | minutes |\n"
        "|---|---|---:|---:|---:|---:|",
    ]
    failures = []
    for name in options.frameworks:
        found = tests(name, shlex.split(options.tests))
        if found["failed"]:
            failures.append(f"tests, {name}")
        numbers = f"{found['passed']} | {found['failed']} | {found['skipped']}"
        lines[-1] += (
            f"\n| {name} {version(name)} | {names[name]} | {numbers} "
            f"| {found['minutes']:.1f} |"
        )
    rounds = ["--rounds", str(options.rounds)] if options.rounds else []
    for benchmark in options.benchmarks:
        for name in options.frameworks:
            command = ("-m", f"benchmarks.{benchmark}", *rounds)
            found = run(name, *command, folder=ROOT, stdout=subprocess.PIPE)
            if found.returncode:
                failures.append(f"{benchmark}, {name}")
            lines += [f"## {benchmark}, {name}", found.stdout.strip() or "Failed."]
            print(lines[-2], lines[-1], sep="\n\n", flush=True)
            options.output.write_text("\n\n".join(lines) + "\n")
    options.output.write_text("\n\n".join(lines) + "\n")
    print("\n\n".join(lines[:3]))
    if failures:
        sys.exit(f"Failed: {'; '.join(failures)}.")


if __name__ == "__main__":
    main()
