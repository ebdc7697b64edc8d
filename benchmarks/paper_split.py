"""What does Table V of the GAL paper show: the adjustment, or more training?

The variance of the test targets, which the table's MSE and R2 imply, fits one split:
`train_test_split(x, y, random_state=1)`, a quarter for the test. On it, this trains the
paper's networks with Adam, alone and inside GAL with alpha = beta = 0.001 and each
granularity, from the same starts, and looks at the mean absolute error at many marks.
Boston's features are standardized, the others are as they are.

    KERAS_BACKEND=jax python -m benchmarks.paper_split --budget cpu --data FOLDER
"""

import numpy as np
from sklearn.model_selection import train_test_split

from benchmarks import tabular
from benchmarks.curves import Panel, figure_of
from benchmarks.seeds import ManySeeds
from benchmarks.significance import holm, statistics
from benchmarks.tables import p_value, table

BASELINE = "Adam"
# The epochs between two marks, and the paper's rows: the MAE alone, and with GAL.
TASKS = {
    "boston": (10, 3.95, 2.81),
    "diabetes": (20, 44.4, 41.6),
    "california": (1, 1.09, 0.78),
}


class PaperSplit(ManySeeds):
    # The arguments of GAL.
    variants = {BASELINE: None} | {
        f"GAL, {of}": {"alpha": 0.001, "beta": 0.001, "granularity": of}
        for of in ("sample", "batch", "reference")
    }
    baseline = BASELINE
    budgets = {
        "smoke": {"seeds": 2, "tasks": ["diabetes"], "marks": 2, "apart": 4}
        | {"variants": [BASELINE, "GAL, sample"]},
        "cpu": {"seeds": 30, "tasks": list(TASKS), "marks": 10},
    }
    has_data, keep = True, False
    # On California some runs are far off at any mark, whatever the method.
    panel = Panel("test MAE, median and quartiles", "mae", log=True, band="quartiles")

    def load(self):
        """(x, y), (x_test, y_test) of each task: those of the paper."""
        return {task: self.split_of(task) for task in self.settings["tasks"]}

    def split_of(self, task):
        parts = train_test_split(*tabular.load(task, self.folder), random_state=1)
        x, x_test, y, y_test = parts
        if task == "boston":
            x_test = (x_test - x.mean(0)) / x.std(0)
            x = (x - x.mean(0)) / x.std(0)
        x, y, x_test, y_test = (a.astype("float32") for a in (x, y, x_test, y_test))
        return (x, y), (x_test, y_test)

    def groups(self):
        return [self.group(task) for task in self.settings["tasks"]]

    def group(self, task):
        each = len(self.parts[task][0][0]) // tabular.TASKS[task][2]
        steps = self.apart(task) * self.settings["marks"] * each
        return {"task": task, "steps": steps}

    def apart(self, task):
        """The epochs between two marks."""
        return self.settings.get("apart", TASKS[task][0])

    def settings_of(self, variant):
        return {}

    def batch_size(self, run):
        return tabular.TASKS[run["task"]][2]

    def evaluations(self, run):
        return self.settings["marks"]

    def make(self, run, seed):
        inputs = self.parts[run["task"]][0][0].shape[1]
        arguments = self.variants[run["variant"]]
        return tabular.network(run["task"], inputs, seed, arguments)

    def split(self, run, seed):
        return self.parts[run["task"]]

    def measure(self, run, found, model):
        return tabular.scores(found["predictions"], self.parts[run["task"]][1][1])

    def report(self):
        texts = [
            f"{self.heading(group)}\n\n{self.marks(group)}" for group in self.groups()
        ]
        texts.append(
            f"{len(self.seeds)} seeds; ± is the standard error over initializations. "
            "%: the difference from Adam's error at the same mark; p: the paired "
            "t-test, corrected by Holm's method for all of a table."
        )
        return "\n\n".join(texts)

    def heading(self, group):
        _, alone, ours = TASKS[group["task"]]
        return f"{group['task']}; the paper has {alone} alone and {ours} with GAL"

    def marks(self, group):
        """A row for each mark, and two columns for each variant of GAL."""
        variants = self.variants_of(group)
        # By variant, mark and seed.
        mae = [self.of("mae", variant=v, **group).T for v in variants]
        found = [
            [statistics(*pair) for pair in zip(m, mae[0], strict=True)] for m in mae
        ]
        p_values = np.array([[p for *_, p in row] for row in found])
        corrected = holm(p_values.ravel()).reshape(p_values.shape)
        rows = []
        for mark, (mean, error, *_) in enumerate(found[0]):
            row = [(mark + 1) * self.apart(group["task"]), f"{mean:.3g} ± {error:.1g}"]
            for of, p in list(zip(found, corrected, strict=True))[1:]:
                row += [f"{100 * of[mark][2] / mean:+.3f}", p_value(p[mark])]
            rows.append(row)
        header = [name for variant in variants[1:] for name in (f"{variant}, %", "p")]
        return table(["epochs", "Adam, MAE", *header], rows)

    def draw(self):
        figure = figure_of(self, [self.panel], self.groups())
        for axis, task in zip(figure.axes, self.settings["tasks"], strict=True):
            for value, color, label in zip(
                TASKS[task][1:],
                ("grey", "black"),
                ("the paper, alone", "with GAL"),
                strict=True,
            ):
                band = (0.99 * value, 1.01 * value)
                axis.axhspan(*band, color=color, alpha=0.3, label=label)
            axis.legend(fontsize=8)
        self.save(figure)

    def style(self, variant, i):
        return {"linestyle": ("-", "--", ":", "-.")[i]}

    def check(self):
        """That the networks learn, and that GAL acts."""
        errors = [self.of("mse", variant=v) for v in self.settings["variants"]]
        for values in errors:
            assert (values[:, -1] < values[:, 0]).all(), values
        assert not np.array_equal(errors[0], errors[1])


if __name__ == "__main__":
    PaperSplit.main()
