"""What does a gradient residual bring to an image as a function of its coordinates?

A network learns the colors of a photograph at half of its pixels, chosen at random,
from their coordinates in [-1, 1]; the error is that at the other half, as PSNR over all
colors. The networks have a first layer, blocks F(x) = act(W x + b) with a skip, and a
linear layer at the end: with tanh, GELU and sine units (SIREN's, with its own weights
at the start), and GELU after Fourier features in the place of the first layer. The
skips are the identity, and the convex mix (alpha from 3) and the gain, both in second
order.

Each of these has two baselines: identity with as many parameters, and identity with one
or two blocks more, which takes about as long; how long is measured, all networks in
turn. SIREN and FINER without a skip are the field's own. Each method trains with every
rate, on a seed that is not shown and two of the images, and is shown with the one that
was best.

The images are scikit-image's `camera`, `coffee`, `grass` and `text`. Of each the square
in the middle is taken, of at most `crop` pixels, and reduced.

    KERAS_BACKEND=jax python -m benchmarks.neural_field --budget cpu
"""

import itertools
import math

import keras
import numpy as np

from benchmarks import fields, rounds, together
from benchmarks.curves import pyplot, show
from benchmarks.fields import GROUPS, MORE, SAME_TIME, VARIANTS
from benchmarks.seeds import ManySeeds
from benchmarks.significance import corrected
from benchmarks.tables import Value, p_value, table, table_of

SETTINGS = {"images": ["camera", "coffee", "grass", "text"], "crop": 256, "size": 64}
SETTINGS |= {"units": 32, "blocks": 2, "steps": 1000, "batch": 128}
TUNING_SEED = 1000
# Whose images are kept, of the first seed.
DRAWN = ["GELU: identity", "GELU: gain", "sine: gain", "Fourier features: identity"]
MARKERS = {"identity": "o", "convex": "s", "gain": "^"}


class NeuralField(ManySeeds):
    variants = VARIANTS
    budgets = {
        "smoke": {"seeds": 2, "timing": {"rounds": 1, "timed_steps": 1}}
        | {"variants": ["tanh: identity", "tanh: gain"], "tuned_on": ["camera"]}
        | {"rates": [1e-2, 2e-2], "rates_of_sine": [5e-3]}
        | {"images": ["camera"], "crop": 256, "size": 24, "units": 16, "blocks": 1}
        | {"steps": 100, "batch": 96},
        "cpu": {"seeds": 8, "timing": {"rounds": 15, "timed_steps": 100}}
        | {"tuned_on": ["camera", "text"], **SETTINGS}
        | {"rates": [1e-2, 2e-2, 4e-2, 8e-2], "rates_of_sine": [1.25e-3, 2.5e-3, 5e-3]},
        # As SIREN's authors have it: three hidden layers of 256 after the first.
        "gpu": {"seeds": 5, "timing": {"rounds": 15, "timed_steps": 100}}
        | {"tuned_on": ["camera"], "images": ["camera"], "crop": 512, "size": 512}
        | {"rates": [3e-4, 1e-3, 3e-3, 1e-2], "rates_of_sine": [1e-4, 3e-4, 1e-3]}
        | {"units": 256, "blocks": 3, "steps": 15_000, "batch": 16_384},
    }
    recorded = tuple(SETTINGS)
    keep = False
    schedule = staticmethod(together.cosine)

    def run(self, variant, seed, rates, **others):
        run = {"variant": variant, "seed": seed, "rates": rates}
        return {**run, **self.settings_of(variant), **others}

    def length(self, run):
        return run["steps"] * len(run["rates"]) * len(run["images"])

    def train_all(self):
        self.rates, results = {}, []
        for group in GROUPS:  # One after the other: what is there of it can be shown.
            rates = self.settings["rates_of_sine" if group == "sine" else "rates"]
            chosen = [v for v in self.variants_of({}) if VARIANTS[v][0] == group]
            images = self.settings["tuned_on"]
            self.execute_all(
                self.run(v, TUNING_SEED, rates, images=images) for v in chosen
            )
            for run, result in self.results:
                means = np.mean(np.nan_to_num(result["psnr"], nan=-np.inf), axis=0)
                self.rates[run["variant"]] = rates[np.argmax(means)]
            self.execute_all(
                self.run(v, seed, [self.rates[v]])
                for v in chosen
                for seed in self.seeds
            )
            results += self.results
        timing = {"variants": self.variants_of({}), **self.settings["timing"]}
        self.execute_all([self.run("time", 0, [], **timing)])
        self.times, self.results = self.results[0][1]["seconds"], results

    def execute_all(self, runs):
        self.execute(list(runs), self.train_seeds, self.length, together=True)

    def evaluations(self, run):
        return 1

    def make(self, run, seed):
        model = fields.network(run["variant"], run["units"], run["blocks"], seed)
        model.compile(keras.optimizers.Adam(), "mse")
        return model

    def colors(self, run, name):
        return fields.image(name, run["crop"], run["size"]).reshape(-1, 3)

    def data(self, run, seed, name=None):
        grid = fields.coordinates(run["size"])
        learned, _ = fields.halves(run["size"], seed)
        colors = self.colors(run, name or run["images"][0])
        return (grid[learned], 2 * colors[learned] - 1), grid

    def train_seeds(self, runs, bar):
        """All seeds of a variant, with all its rates and on all images, at once."""
        run = runs[0]
        if run["variant"] == "time":
            steps, seeds = run["timed_steps"], range(4)
            return [{"seconds": self.seconds(run, run["variants"], seeds, steps)}]
        variables = self.make(run, 0).trainable_variables
        parameters = sum(math.prod(variable.shape) for variable in variables)
        results = {r["seed"]: {"psnr": [], "parameters": parameters} for r in runs}
        each = list(itertools.product(results, run["images"], run["rates"]))
        left = iter(each)  # The data are asked for in the order of the seeds.
        _, found = self.fit(
            run,
            [seed for seed, *_ in each],
            bar,
            data=lambda seed: self.data(run, *next(left)[:2]),
            rates=[rate for *_, rate in each],
        )
        for (seed, name, _), part in zip(each, found, strict=True):
            colors = np.clip((part["predictions"][-1] + 1) / 2, 0, 1)
            _, hidden = fields.halves(run["size"], seed)
            wrong = colors[hidden] - self.colors(run, name)[hidden]
            results[seed]["psnr"].append(-10 * np.log10(np.mean(wrong**2)))
            if seed == 0 and run["variant"] in DRAWN and run["size"] <= 64:
                results[seed][name] = np.round(255 * colors).astype("int64")
        for result in results.values():  # A row for each image.
            result["psnr"] = np.reshape(result["psnr"], (len(run["images"]), -1))
        return list(results.values())

    def psnr(self, variant):
        """Of each seed and image, `(seeds, images)`."""
        return self.of(lambda result: np.mean(result["psnr"], -1), variant=variant)

    def compared(self):
        """With identity of the same size and of the same time: two cells for each."""
        pairs, variants = {}, self.variants_of({})
        for variant in variants:
            group, skip, _ = VARIANTS[variant]
            for i, more in enumerate((0, SAME_TIME[group])):
                baseline = f"{group}: identity{MORE[more]}"
                if skip != "identity" and baseline in variants:
                    pair = [self.psnr(v).ravel() for v in (variant, baseline)]
                    pairs[variant, i] = pair
        return {
            key: [f"{difference:+.2f}", p_value(p)]
            for key, (*_, difference, p) in corrected(pairs).items()
        }

    def parameters(self, variant):
        return self.of("parameters", variant=variant)[0]

    def time(self, variant, baseline):
        """That of a step, in units of the baseline's."""
        return rounds.ratio(self.times[variant], self.times[baseline])

    def heading(self, group):
        return (
            "{size} x {size} pixels; {blocks} block(s) of {units} units; {steps} steps "
            "of {batch} pixels; ".format(**self.settings)
            + f"{len(self.seeds)} seeds"
        )

    def report(self):
        rows, variants, compared = [], self.variants_of({}), self.compared()
        for variant in variants:
            identity = f"{VARIANTS[variant][0]}: identity"
            time = self.time(variant, identity if identity in variants else variant)
            cells = [variant, self.parameters(variant), f"{time:.2f}"]
            cells += [f"{self.rates[variant]:g}", f"{self.psnr(variant).mean():.2f}"]
            for i in range(2):
                cells += compared.get((variant, i), ["", ""])
            rows.append(cells)
        header = ["", "parameters", "time", "rate", "PSNR", "same parameters", "p"]
        by_image = [
            Value(name, lambda result, i=i: np.mean(result["psnr"][i]))
            for i, name in enumerate(self.settings["images"])
        ]
        return (
            f"{self.heading({})}\n\n{table([*header, 'same time', 'p'], rows)}\n\n"
            "PSNR: in dB at the pixels that were held out, the mean over images and "
            "seeds. same parameters: less that of identity with as many blocks. same "
            "time: less that of identity with two blocks more (with Fourier features "
            "and sine one more). p: the t-test, paired by image and seed, after Holm's "
            "correction for all that are shown. time: of a training step, in units of "
            "identity with as many blocks.\n\n"
            f"PSNR by image\n\n{table_of(self, by_image, {})}"
        )

    def draw(self):
        names = self.settings["images"]
        figure = pyplot().figure(
            figsize=(15, 6 + 2.6 * len(names)), layout="constrained"
        )
        top, bottom = figure.subfigures(2, 1, height_ratios=[6, 2.6 * len(names)])
        self.draw_costs(*top.subplots(1, 2, sharey=True))
        shown = [v for v in DRAWN if v in self.variants_of({})]
        rows = bottom.subplots(len(names), 1 + len(shown), squeeze=False)
        for row, name in zip(rows, names, strict=True):
            self.draw_images(row, name, shown)
        self.save(figure)

    def draw_costs(self, left, right):
        variants = self.variants_of({})
        y = [self.psnr(variant).mean() for variant in variants]
        times = [self.time(variant, variants[0]) for variant in variants]
        self.draw_front(left, [self.parameters(v) for v in variants], y)
        self.draw_front(right, times, y)
        for i, group in enumerate(GROUPS):
            left.scatter([], [], 70, f"C{i}", label=group)
        for skip, marker in MARKERS.items():
            left.scatter([], [], 70, "grey", marker=marker, label=skip)
        left.plot([], [], "k--", label="Pareto front")
        left.legend(fontsize=8, title="larger: one block more, and two")
        left.set(xlabel="parameters", ylabel="PSNR at held-out pixels, dB")
        right.set(xlabel=f"time of a step, {variants[0]} = 1")

    def draw_front(self, axis, x, y):
        for variant, *at in zip(self.variants_of({}), x, y, strict=True):
            group, skip, more = VARIANTS[variant]
            color, marker = f"C{GROUPS.index(group)}", MARKERS.get(skip, "*")
            axis.scatter(*at, 70 + 60 * more, color, marker=marker, alpha=0.8)
            if skip not in MARKERS:
                axis.annotate(skip, at, (6, -4), textcoords="offset points")
        best = front(x, y)
        axis.plot(np.take(x, best), np.take(y, best), "k--", linewidth=1)

    def draw_images(self, row, name, variants):
        size, at = self.settings["size"], self.settings["images"].index(name)
        original = fields.image(name, self.settings["crop"], size)
        show(row[0], original, f"{name}, {size} x {size}")
        for axis, variant in zip(row[1:], variants, strict=True):
            axis.axis("off")
            for result in self.of(dict, variant=variant, seed=0):
                if name in result:
                    colors = np.reshape(result[name], (size, size, 3)).astype("uint8")
                    title = f"{variant}, {np.mean(result['psnr'][at]):.1f} dB"
                    show(axis, colors, title)

    def check(self):
        """That the networks learn, and that the gain is another training."""
        (name,) = self.settings["images"]
        constant = -10 * np.log10(np.var(self.colors(self.settings, name)))
        for run, result in self.results:
            assert np.mean(result["psnr"]) > constant + 1, (run, result, constant)
        same = self.psnr("tanh: identity") - self.psnr("tanh: gain")
        assert (np.abs(same) > 1e-3).all(), same
        # A number for each feature of each block.
        identity, gain = (self.parameters(f"tanh: {s}") for s in ("identity", "gain"))
        assert gain - identity == self.settings["units"] * self.settings["blocks"]


def front(x, y):
    """The points that no other beats in both, from left to right."""
    order = sorted(range(len(x)), key=lambda i: (x[i], -y[i]))
    found = []
    for i in order:
        if not found or y[i] > y[found[-1]]:
            found.append(i)
    return found


if __name__ == "__main__":
    NeuralField.main()
