"""Does GAL help regression on small tables, as Table V of its paper says?

Boston (hidden layers 100-50, adjustment network 16-4), diabetes (64-32; 128-4) and
California housing (256-64; 128-2), with Adam alone, with GAL at the paper's alpha =
beta = 0.001, and at others. Every seed has its own split, four fifths for training.
MAE, MSE and R2 on the rest after the last step, with Welch's t-test for the first 5
seeds, as many as the paper has, and for all. Features are standardized, or "raw", as
they are; the paper does not say. "median" always predicts that of the training targets.

    KERAS_BACKEND=jax python -m benchmarks.regression --budget cpu --data FOLDER
"""

import numpy as np

from benchmarks import data, tabular
from benchmarks.curves import Panel, figure_of
from benchmarks.seeds import ManySeeds
from benchmarks.tables import Compared, Value, last

BASELINE, PAPER = "Adam", "GAL, alpha 0.001, beta 0.001"
FEW = [BASELINE, PAPER]
FEATURES = ("standardized", "raw")
PAPERS_SEEDS = 5


def digits(values):
    return 2 if values.mean() > 3 else 4


class Regression(ManySeeds):
    # The arguments of GAL.
    variants = {
        BASELINE: None,
        **{
            f"GAL, alpha {alpha}, beta {beta}": {"alpha": alpha, "beta": beta}
            for beta in (0.001, 1.0)
            for alpha in (0.001, 0.01, 0.1)
        },
    }
    baseline = BASELINE
    against = "Adam alone"
    budgets = {
        "smoke": {"seeds": 2, "tasks": ["diabetes"], "shorter": 20} | {"variants": FEW},
        "cpu": {"seeds": 30, "tasks": list(tabular.TASKS)},
        "gpu": {"seeds": 30, "tasks": list(tabular.TASKS)},
    }
    has_data = True
    panel = Panel("test MAE, mean over seeds", "mae")
    note = "accepted: of the last step; median: always that of the training targets."
    falls = "mae"

    def load(self):
        return {
            task: tabular.load(task, self.folder) for task in self.settings["tasks"]
        }

    def groups(self):
        return [self.group(t, f) for t in self.settings["tasks"] for f in FEATURES]

    def group(self, task, features):
        *_, batch, epochs = tabular.TASKS[task]
        steps = int(0.8 * len(self.parts[task][0])) // batch * epochs
        steps //= self.settings.get("shorter", 1)
        return {"task": task, "features": features, "steps": steps, "batch": batch}

    def settings_of(self, variant):
        return {}

    def variants_of(self, group):
        return FEW if group["features"] == "raw" else super().variants_of(group)

    def evaluations(self, run):
        return 10

    def split(self, run, seed):
        x, y = self.parts[run["task"]]
        standardized = run["features"] == "standardized"
        return data.split(x, y, seed, int(0.8 * len(x)), standardized=standardized)

    def make(self, run, seed):
        inputs = self.parts[run["task"]][0].shape[1]
        return tabular.network(run["task"], inputs, seed, self.variants[run["variant"]])

    def measure(self, run, found, model):
        (_, y), (_, truth) = self.split(run, run["seed"])
        return {
            **tabular.scores(found["predictions"], truth),
            "median": np.mean(np.abs(truth - np.median(y))),
            "accepted": found.get("accepted", [np.nan])[-1],
        }

    @property
    def columns(self):
        few, seeds = min(PAPERS_SEEDS, len(self.seeds)), len(self.seeds)
        mae = {"measure": last("mae"), "digits": digits, "paired": False}
        return (
            Compared(f"MAE, {few} seeds", seeds=few, difference=False, **mae),
            Compared(f"MAE, {seeds} seeds", **mae),
            Value("MSE", last("mse"), digits, error=True),
            Value("R2", last("r2"), digits, error=True),
            Value("accepted", "accepted"),
        )

    def heading(self, group):
        return f"{group['task']}, {group['features']} features"

    def remark(self, group):
        """What each few of the seeds would have found, and the median."""
        ours, alone = (
            self.of(last("mae"), variant=v, **group) for v in (PAPER, BASELINE)
        )
        median = self.of("median", variant=BASELINE, **group)
        few = min(PAPERS_SEEDS, len(ours))
        shown = f".{digits(median)}f"
        found = ", ".join(
            f"{np.mean((ours - alone)[i : i + PAPERS_SEEDS]):+{shown}}"
            for i in range(0, len(ours), PAPERS_SEEDS)
        )
        return (
            f"MAE of the median: {median[:few].mean():{shown}}, "
            f"{median.mean():{shown}}."
            f"\n\n{PAPER}, by groups of {few} seeds: {found}."
        )

    def style(self, variant, i):
        baseline = {"color": "black", "linewidth": 3} if variant == BASELINE else {}
        return {"marker": ".", **baseline}

    def draw(self):
        groups = [g for g in self.groups() if g["features"] == "standardized"]
        self.save(figure_of(self, [self.panel], groups))

    def check(self):
        """That the networks learn, and that GAL acts."""
        for run, result in self.results:
            assert result["mae"][-1] < result["mae"][0], (run, result)
            assert np.isnan(result["accepted"]) == (run["variant"] == BASELINE), result


if __name__ == "__main__":
    Regression.main()
