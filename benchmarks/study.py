"""A study: what is compared, with what, how long, and what is measured.

Its file says what is special about the question, as class attributes and a few methods.
The rest is here: options, runs that resume, the table and its footnote, the curves, and
the check of the smoke run.

    class Depth(Study):
        variants = {"identity": {"residual": "identity"}, "gain": {"residual": "gain"}}
        baseline = "identity"
        budgets = {"smoke": {"seeds": 2, "steps": 100}, "cpu": ..., "gpu": ...}
        columns = (Compared("error", last("errors"), 4),)
        panels = (Panel("error", "errors", log=True),)

        def train(self, run, bar):
            ...
            return {"errors": ...}

    if __name__ == "__main__":
        Depth.main()

Its runs resume where they were interrupted: see `records.py`.
"""

import argparse
import os
import pathlib
import sys

from benchmarks import curves, records
from benchmarks.tables import rows_of, table, table_of

DATA = "KERAS_GRADRES_DATA"


class Study(records.Runs):
    """A question, its options, and its folder of results.

    Args:
        arguments: Those of the command line.

    Class attributes, which a question sets:
        variants: For each name what `train` needs of it.
        baseline: The name that all are compared with, or see `baseline_of`.
        budgets: For each budget a dict of settings; `seeds` is one of them. `variants`
            are those that it trains, by default all.
        cost: The setting that says how long a run takes.
        recorded: Other settings that decide a run.
        longer: How many times as long a variant trains that is called "longer", the
            control at the same time.
        has_data: Whether it reads a folder of data, given as `--data` or by the
            environment variable KERAS_GRADRES_DATA.
        swept: What `--sweep` tries where the paper leaves something open: dicts of the
            same settings. They are the groups then, and `sweep_columns` those of the
            one table.
        seeds_together: Whether runs that differ in their seed only are trained at once,
            by `train_seeds`.
        columns: Those of the table.
        against, note: For the footnote: what p compares with, and what else to say.
        panels: The curves.
        falls: The curve that the smoke run sees fall.

    Attributes:
        settings: Those of the budget that was asked for.
        seeds: A range.
        folder: The folder of data, or None where none is given.
        sweep: Whether it was asked for.
        parts: What `load` returned.
    """

    variants: dict = {}
    baseline = ""
    budgets: dict = {}
    cost = "steps"
    recorded: tuple = ()
    longer = 1.0
    has_data = seeds_together = False
    swept: tuple = ()
    sweep_columns: tuple = ()
    columns: tuple = ()
    against = "the first row"
    note = ""
    panels: tuple = ()
    falls = "loss"

    def __init__(self, arguments=None):
        self.module = sys.modules[type(self).__module__].__spec__.name
        self.arguments = sys.argv[1:] if arguments is None else arguments
        options = self._options()
        self.name = self.module.rpartition(".")[2]
        self.budget = options.budget
        self.settings = self.budgets[options.budget]
        self.sweep = bool(self.swept) and options.sweep
        if self.sweep:
            self.name += "_sweep"
        self.seeds = range(options.seeds or self.settings["seeds"])
        self.folder = None
        if self.has_data:
            self.folder = options.data or os.environ.get(DATA)
        self.out = pathlib.Path(options.out or f"results/{self.name}-{self.budget}")
        self.out.mkdir(parents=True, exist_ok=True)
        self.parts = None

    def _options(self):
        parser = argparse.ArgumentParser(
            prog=f"python -m {self.module}",
            description=sys.modules[type(self).__module__].__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("--budget", choices=list(self.budgets), default="smoke")
        parser.add_argument("--seeds", type=int, help="how many; else the budget's")
        parser.add_argument("--out", help="folder; else results/NAME-BUDGET")
        if self.has_data:
            parser.add_argument("--data", help=f"folder of data; else ${DATA}")
        if self.swept:
            parser.add_argument(
                "--sweep", action="store_true", help="choose what the paper leaves open"
            )
        options = parser.parse_args(self.arguments)
        if options.seeds is not None and options.seeds < 1:
            parser.error(f"--seeds must be positive. Received: {options.seeds}")
        return options

    @classmethod
    def main(cls):
        study = cls()
        study.parts = study.load()
        study.train_all()
        study.write(study.report())
        if study.sweep:
            return
        study.draw()
        if study.budget == "smoke":
            study.check()

    # What a question may say in its own way.

    def load(self):
        """Reads or makes what the runs share."""

    def groups(self):
        """What runs differ in besides variant and seed; each has a table of its own."""
        return list(self.swept) if self.sweep else [{}]

    def variants_of(self, group):
        return self.settings.get("variants", list(self.variants))

    def baseline_of(self, variant):
        """What a row is compared with; itself where it is a baseline."""
        return self.baseline

    def settings_of(self, variant):
        """The settings that decide the runs of a variant."""
        settings = {name: self.settings[name] for name in (self.cost, *self.recorded)}
        if "longer" in variant:
            settings[self.cost] = round(self.longer * settings[self.cost])
        return settings

    def runs(self):
        return [
            {**self.settings_of(variant), **group, "variant": variant, "seed": seed}
            for group in self.groups()
            for seed in self.seeds
            for variant in self.variants_of(group)
        ]

    def length(self, run):
        """How far a run moves the bar, and how far its curves go."""
        return run[self.cost]

    def train(self, run, bar):
        """The result of a run; moves the bar by its length."""
        raise NotImplementedError

    def train_seeds(self, runs, bar):
        """The results of runs that differ in their seed only."""
        return [self.train(run, bar) for run in runs]

    def lengths(self):
        """How long the runs are, as "12 epochs", and those that are called "longer"."""
        found = f"{self.settings[self.cost]} {self.cost}"
        if any("longer" in variant for variant in self.variants):
            found += f' ({self.settings_of("longer")[self.cost]} in "longer")'
        return found

    def heading(self, group):
        """The line above the table of a group."""
        return ", ".join([*map(str, group.values()), f"{len(self.seeds)} seeds"])

    def remark(self, group):
        """What is said below the table of a group."""

    def style(self, variant, i):
        """How the curve of the i-th variant is drawn."""
        return {}

    # What follows from it.

    def train_all(self):
        self.execute(self.runs(), self.train_seeds, self.length, self.seeds_together)

    def report(self):
        if self.sweep:
            return self.sweep_report()
        parts = []
        for group in self.groups():
            parts += [self.heading(group), table_of(self, self.columns, group)]
            parts += filter(None, [self.remark(group)])
        return "\n\n".join([*parts, self.footnote()])

    def sweep_report(self):
        """One table, of all groups and variants."""
        columns, names = self.sweep_columns, list(self.swept[0])
        rows = [
            [variant, *(group[name] for name in names), *cells]
            for group in self.groups()
            for variant, *cells in rows_of(self, columns, group)
        ]
        header = ["", *names, *(name for column in columns for name in column.header())]
        heading = f"{self.heading(self.groups()[0])}, {len(self.seeds)} seeds"
        return f"{heading}\n\n{table(header, rows)}"

    def footnote(self):
        paired = all(getattr(column, "paired", True) for column in self.columns)
        corrected = any(getattr(column, "corrected", False) for column in self.columns)
        power = any(getattr(column, "power", False) for column in self.columns)
        test = "the paired t-test" if paired else "Welch's t-test"
        text = f"± is the standard error; p that of {test} against {self.against}, "
        if corrected:
            text += "and after Holm's correction for the rows of the table."
        else:
            text += "not corrected for the number of rows."
        if power:
            text += (
                " detectable: the smallest difference that this test finds with a "
                "probability of 80 %."
            )
        return f"{text} {self.note}".strip()

    def draw(self):
        self.save(curves.figure_of(self, self.panels, self.groups()))

    def check(self):
        """That the networks learn, each in its own way."""
        found = [result[self.falls] for _, result in self.results]
        assert all(curve[-1] < curve[0] for curve in found), found
        assert len({curve[-1] for curve in found}) == len(found), found

    def write(self, text):
        """Prints the report, and writes it with what it was made with."""
        made = self.environment()
        versions = ", ".join(f"{k} {v}" for k, v in made["versions"].items())
        text = (
            f"{text.strip()}\n\nMade on {made['backend']} with `{made['command']}`; "
            f"{versions}; {made['machine']}.\n"
        )
        (self.out / f"{self.name}.md").write_text(text)
        print(f"\n{text}\nIn {self.out}: {self.name}.jsonl, .md and .png")

    def save(self, figure, suffix=""):
        figure.savefig(self.out / f"{self.name}{suffix}.png", dpi=80)
