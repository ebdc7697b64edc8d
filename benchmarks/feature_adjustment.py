"""Does an adjustment pay that knows the features, in closed form?

In the place of dl/dz the last layer and what is below it get what a ridge regression of
dl/dz on the features leaves (`feature_network.py`). Beside it: either of the two alone,
label smoothing, and K-FAC in the last layer.

Perceptrons on half of scikit-learn's digits and on California housing; a small
convolutional network and ResNet-20 on CIFAR-10, reduced to 16 x 16; a U-Net on CamVid,
reduced to 80 x 60, where each pixel is a sample. SGD with momentum and Adam, each
method at its own best rates (`tuned.py`). "equal time": where a step of a method takes
longer, after as many fewer steps.

    KERAS_BACKEND=jax python -m benchmarks.feature_adjustment --budget cpu --data FOLDER

and with `--budget cifar`; `resnet` and `camvid` are faster with PyTorch.
"""

import collections

import keras
import numpy as np

from benchmarks import data, together
from benchmarks.curves import Panel
from benchmarks.feature_network import METHODS, OURS, PLAIN, Network, body
from benchmarks.rounds import ratio
from benchmarks.scenes import confusion, mean_iou, small_camvid
from benchmarks.tables import Value, table
from benchmarks.tuned import grid
from benchmarks.tuned_study import Relative, TunedStudy

MAIN = [PLAIN, "label smoothing", OURS, "K-FAC, last layer, 0.01"]
FEW = [PLAIN, OURS, "K-FAC, last layer, 0.01"]
RATES = {"SGD": grid(0.01, 7), "Adam": grid(0.001, 6)}
Task = collections.namedtuple(
    "Task",
    "methods batch steps early evaluations shape classes trained schedule ignored",
    defaults=(None, None, None),
)
LONG = {"early": None, "evaluations": 5, "schedule": together.cosine}
# The methods by optimizer; what "early" is, or None; the classes, or 0 for a
# regression; how many samples are trained on, or None where the test set is fixed; the
# schedule of the rates; the label of pixels that do not count.
TASKS = {
    "digits": Task(
        {"SGD": list(METHODS), "Adam": MAIN}, 64, 400, 48, 50, (64,), 10, 898
    ),
    "california": Task({"Adam": FEW}, 128, 600, 60, 20, (8,), 0, 16_000),
    "cifar10": Task({"Adam": MAIN}, 128, 300, 60, 10, (16, 16, 3), 10),
    "resnet20": Task({"SGD": MAIN}, 64, 470, shape=(16, 16, 3), classes=10, **LONG),
    "camvid": Task(
        {"Adam": MAIN},
        8,
        460,
        shape=(60, 80, 3),
        classes=11,
        ignored=data.CAMVID_UNLABELLED,
        **LONG,
    ),
}
TESTED = 2500


class FeatureAdjustment(TunedStudy):
    variants = METHODS
    baseline = PLAIN
    budgets = {
        "smoke": {"seeds": 1, "tasks": ["digits"], "rates": (0, 1), "shorter": 5}
        | {"optimizers": ["SGD"], "methods": [PLAIN, OURS], "timed": (3, 5)},
        "cpu": {"seeds": 24, "tuning_seeds": 8, "tasks": ["digits", "california"]},
        "cifar": {"seeds": 24, "tuning_seeds": 6, "tasks": ["cifar10"]}
        | {"rates": (0, 4), "timed": (41, 5)},
        "resnet": {"seeds": 8, "tuning_seeds": 2, "tasks": ["resnet20"]}
        | {"rates": (2, 6), "timed": (21, 4), "longest": 1},
        "camvid": {"seeds": 10, "tuning_seeds": 3, "tasks": ["camvid"]}
        | {"rates": (1, 5), "timed": (21, 4), "longest": 1},
    }
    cost = "time, in steps of the plain optimizer"
    has_data = True
    against = "the plain optimizer"
    note = (
        "Errors in %, those of California the mean absolute error, those of CamVid 100 "
        "% less the mean IoU; time: of a step, plain = 1."
    )

    @property
    def columns(self):
        found = [Value("rate", "rate", 6, "g"), Value("time", "time")]
        for name in self.marks():
            equal = Relative("equal time", f"{name}, equal time", mean=False)
            found += [Relative(name, name), equal]
        return tuple(found)

    @property
    def panels(self):
        return (Panel("test error", "errors", log="early" in self.marks()),)

    def marks(self):
        """When the methods are compared: of long runs only at the end."""
        is_early = all(TASKS[name].early for name in self.settings["tasks"])
        return ["early"] * is_early + ["end"]

    def groups(self):
        shorter = self.settings.get("shorter", 1)
        return [
            {
                "task": name,
                "optimizer": optimizer,
                "steps": TASKS[name].steps // shorter,
            }
            for name in self.settings["tasks"]
            for optimizer in self.settings.get("optimizers", TASKS[name].methods)
        ]

    def variants_of(self, group):
        methods = TASKS[group["task"]].methods[group["optimizer"]]
        return self.settings.get("methods", methods)

    def rates_of(self, group):
        first, last = self.settings.get("rates", (None, None))
        return RATES[group["optimizer"]][first:last]

    def batch_size(self, run):
        return run.get("batch", TASKS[run["task"]].batch)

    def evaluations(self, run):
        return TASKS[run["task"]].evaluations // self.settings.get("shorter", 1)

    def load(self):
        loaders = {
            "digits": data.digits,
            "california": lambda: data.california(self.folder),
            "cifar10": lambda: data.small_cifar10(self.folder),
            "resnet20": lambda: data.small_cifar10(self.folder),
            "camvid": lambda: small_camvid(self.folder),
        }
        return {task: loaders[task]() for task in self.settings["tasks"]}

    def split(self, run, seed):
        task, parts = run["task"], self.parts[run["task"]]
        trained = TASKS[task].trained
        if trained is None:
            return parts
        return data.split(*parts, seed, trained, TESTED, task == "california")

    def make(self, run, seed):
        task = TASKS[run["task"]]
        arguments = {"ignored": task.ignored, **METHODS[run["variant"]]}
        network = Network(body(run["task"], task.shape), task.classes, **arguments)
        options = {"momentum": 0.9} if run["optimizer"] == "SGD" else {}
        network.compile(getattr(keras.optimizers, run["optimizer"])(0.01, **options))
        return network

    def fit(self, run, seeds, bar=None, **options):
        schedule = TASKS[run["task"]].schedule
        return super().fit(run, seeds, bar, schedule=schedule, **options)

    def measure(self, run, found, model):
        task = TASKS[run["task"]]
        if task.ignored is None:
            return super().measure(run, found, model)
        _, (_, truth) = self.split(run, run["seed"])
        counts = [
            confusion(truth, outputs.argmax(-1), task.classes, task.ignored)
            for outputs in found["predictions"]
        ]
        return {"errors": np.array([100 * (1 - mean_iou(each)) for each in counts])}

    def measures_of(self, group):
        """Early and at the end: after so many steps, and after their time."""
        evaluations, ratios = self.evaluations(group), self.ratios_of(group)
        steps, marks = np.arange(1, evaluations + 1), self.marks()
        measures = {}
        for name in reversed(marks):
            count = evaluations
            if name == "early":
                count = TASKS[group["task"]].early * evaluations // group["steps"]
            measures[name] = lambda method, found, at=count: found["errors"][at - 1]
            measures[f"{name}, equal time"] = lambda method, found, at=count: np.interp(
                at / max(ratios[method], 1), steps, found["errors"]
            )
        return measures

    def train_all(self):
        self.times = self.timed()
        super().train_all()
        for run, result in self.results:
            result["time"] = self.ratios_of(run)[run["variant"]]

    def length(self, run):
        return run["steps"] * self.ratios_of(run)[run["variant"]]

    def ratios_of(self, run):
        """How long a step of each method takes, in steps of the plain optimizer."""
        return self.times[run["task"], TASKS[run["task"]].batch]

    def timed(self):
        """The ratios, and the milliseconds of plain, for each task and batch."""
        tasks = self.settings["tasks"]
        wanted = [(task, TASKS[task].batch) for task in tasks]
        if "digits" in tasks and self.budget != "smoke":
            wanted += [("digits", batch) for batch in (32, 128, 512)]
        made = {"variant": "time", "seed": 0}
        runs = [{**made, "task": task, "batch": batch} for task, batch in wanted]
        self.execute(runs, self.time)
        times = {}
        for run, found in self.results:
            plain = found[PLAIN]
            times[run["task"], run["batch"]] = {
                "ms": 1000 * np.median(plain),
                **{method: ratio(s, plain) for method, s in found.items()},
            }
        return times

    def time(self, runs, bar):
        (run,) = runs
        optimizer = next(iter(TASKS[run["task"]].methods))
        rounds, steps = self.settings.get("timed", (41, 20))
        timed = {**run, "optimizer": optimizer, "rounds": rounds}
        return [self.seconds(timed, self.variants_of(timed), [0], steps)]

    def heading(self, group):
        name, optimizer, steps = group.values()
        task = TASKS[name]
        early = f"early: after {task.early} steps, " if task.early else ""
        return (
            f"{name}, {optimizer}, batch {task.batch}, {len(self.seeds)} seeds; "
            f"{early}end: {steps}"
        )

    def footnote(self):
        rows = [
            [f"{task}, {batch}", f"{row['ms']:.3f}"]
            + [f"{row[m]:.2f}" if m in row else "" for m in METHODS]
            for (task, batch), row in self.times.items()
        ]
        times = table(["data, batch", "plain, ms", *METHODS], rows)
        return (
            f"Time for a step, plain = 1 (CIFAR-10: with Adam)\n\n{times}\n\n"
            f"{super().footnote()}"
        )

    def style(self, variant, i):
        return {"color": f"C{list(METHODS).index(variant)}"}

    def check(self):
        """That they learn, and that the adjustment changes something."""
        plain, ours = (self.of("errors", variant=method) for method in (PLAIN, OURS))
        assert (plain < 60).any(-1).all(), plain
        assert not np.array_equal(plain, ours), plain


if __name__ == "__main__":
    FeatureAdjustment.main()
