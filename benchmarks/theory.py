"""What the two papers prove, drawn on networks that were trained.

1. Directions (Lemma 3.5 and Theorem 3.8 of arXiv 2602.09190, as we understand them: at
   neighbouring points the gradients of a function of low frequency are nearly parallel,
   of high frequency nearly opposite, so that the direction tells the points apart).
   By hand: the derivative of sin(2 pi f x) changes its sign every 1 / (2 f). Of the
   pairs at a distance d <= 1 / (2 f) a share 2 f d has one change between them, so the
   mean cosine is 1 - 4 f d, and -1 at half a period. Drawn: this, the network's
   derivative, and what the layer uses: the gradient of each block by its own input.

2. The remainder r = l(z - e g) - l(z) + e <dl/dz, g> of GAL (Theorems IV.3 and IV.4 of
   arXiv 2201.09193, as we understand them: |r| is at most L/2 in units of |e g|^2, and
   at most L/2 |cos gamma|). By hand, for a loss with Hessian H of norm at most L:
   r = e^2 int_0^1 (1 - t) <g, H(z - t e g) g> dt, and <g, H g> <= |g| L |g| |cos gamma|
   with gamma between g and H g. So both hold, if cos gamma is the largest on the way.
   L of the mean squared error of d outputs is 2 / d; H is a multiple of the identity,
   so gamma is 0, and both bounds are met exactly, whatever the adjustment. L of the
   cross-entropy of logits is 1/2: <v, H v> is the variance of the entries of v under
   the softmax, at most (max v - min v)^2 / 4 <= |v|^2 / 2, and equal to it for two
   classes of the same probability.

3. The bound for a finite set of hypotheses (Theorem IV.1 there, as we understand it).
   By hand, with Hoeffding's inequality for each of |H| hypotheses with losses in
   [0, 1]: with probability 1 - delta no risk is above its mean over n samples by more
   than sqrt(log(|H| / delta) / (2 n)). The set must not depend on the samples.

    KERAS_BACKEND=jax python -m benchmarks.theory --budget cpu
"""

import itertools

import keras
import numpy as np

from benchmarks import functions, theorems, together
from benchmarks.curves import pyplot
from benchmarks.seeds import ManySeeds
from benchmarks.tables import table
from benchmarks.theorems import DELTA, DIRECTIONS, DISTANCES, LOSSES, SKIPS, bound
from keras_gradres import models

SHOWN = [i for i, d in enumerate(DISTANCES) if round(d, 4) in (0.025, 0.125, 0.25)]
SETTINGS = {"frequencies": [1, 4], "skips": list(SKIPS)}
SETTINGS |= {"units": 32, "blocks": 3, "steps": 5000, "epochs": [0, 1, 10]}
SETTINGS |= {"hypotheses": [1, 10, 200], "samples": [50, 100, 200, 400, 800]}


class Theory(ManySeeds):
    budgets = {
        "smoke": {"seeds": 1, "frequencies": [1], "skips": ["gain"]}
        | {"units": 8, "blocks": 1, "steps": 20, "epochs": [0]}
        | {"hypotheses": [50], "samples": [50, 400], "trials": 200},
        "cpu": {"seeds": 5, **SETTINGS, "trials": 2000},
        "gpu": {"seeds": 30, **SETTINGS, "steps": 20_000, "epochs": [0, 1, 10, 100]}
        | {"trials": 2000},
    }
    schedule = staticmethod(together.cosine)

    def waves(self):
        pairs = itertools.product(self.settings["frequencies"], self.settings["skips"])
        return [{"frequency": frequency, "variant": skip} for frequency, skip in pairs]

    def sets(self):
        """Of hypotheses, and the samples that they are held against."""
        pairs = itertools.product(self.settings["hypotheses"], self.settings["samples"])
        return [{"hypotheses": count, "samples": samples} for count, samples in pairs]

    def runs(self):
        settings = self.settings
        sizes = {name: settings[name] for name in ("units", "blocks", "steps")}
        gal = {"part": "gal", "epochs": settings["epochs"]}
        finite = {"part": "finite", "variant": "bound", "trials": settings["trials"]}
        runs = [{"part": "directions", **wave, **sizes} for wave in self.waves()]
        runs += [{**gal, "variant": loss} for loss in LOSSES]
        runs += [{**finite, **chosen} for chosen in self.sets()]
        return [{**run, "seed": seed} for run in runs for seed in self.seeds]

    def length(self, run):
        return run.get("steps", 100)

    def train_seeds(self, runs, bar):
        if runs[0]["part"] == "directions":
            return super().train_seeds(runs, bar)
        return [getattr(theorems, run["part"])(run) for run in runs]

    # The networks of the first part.

    def wave(self, run):
        return lambda x: np.sin(2 * np.pi * run["frequency"] * x)

    def batch_size(self, run):
        return 64

    def evaluations(self, run):
        return 1

    def make(self, run, seed):
        sizes = {name: run[name] for name in ("units", "blocks")}
        model = models.MLP(1, activation="gelu", **sizes, **SKIPS[run["variant"]])
        model.compile(keras.optimizers.Adam(1e-2), "mse")
        return model

    def data(self, run, seed):
        return functions.points(self.wave(run), seed), theorems.GRID

    def measure(self, run, found, model):
        wave, outputs = self.wave(run), found["predictions"][-1]
        error = np.log10(np.mean((outputs - wave(theorems.GRID)) ** 2))
        return {"cosines": theorems.directions(wave, outputs, model), "error": error}

    def cosines(self, wave):
        """For each gradient the mean over the seeds, by the distance."""
        found = self.of("cosines", **wave)
        return {who: np.mean([each[who] for each in found], 0) for who in found[0]}

    def remainders(self, loss, name):
        """In units of both bounds, and the cosines, of all samples and seeds."""
        ratio, cosine = (
            self.of(lambda result: result[name][key], part="gal", variant=loss).ravel()  # noqa: B023
            for key in ("ratio", "cosine")
        )
        ratio = ratio / (LOSSES[loss][2] / 2)
        return ratio, ratio / cosine, cosine

    def report(self):
        parts = [self.table_of_waves(), self.table_of_gal(), self.table_of_sets()]
        return "\n\n".join([f"{len(self.seeds)} seeds", *parts])

    def table_of_waves(self):
        rows = []
        for wave in self.waves():
            error = f"{self.of('error', **wave).mean():.2f}"
            for who, found in self.cosines(wave).items():
                name = f"{wave['frequency']}, {wave['variant']}, {who}"
                rows.append([name, error, *(f"{found[i]:+.2f}" for i in SHOWN)])
        header = ["frequency, skip, gradient of", "log10 error"]
        header += [f"distance {DISTANCES[i]:g}" for i in SHOWN]
        return f"Mean cosine of the gradients at two points\n\n{table(header, rows)}"

    def table_of_gal(self):
        rows = []
        for loss, name in itertools.product(LOSSES, DIRECTIONS):
            ratio, angle, cosine = self.remainders(loss, name)
            # An equality in exact arithmetic is one to rounding in another.
            above = max((ratio > 1 + 1e-6).sum(), (angle > 1 + 1e-3).sum())
            cells = [np.median(ratio), ratio.max(), np.median(cosine)]
            cells += [np.median(angle), angle.max()]
            cells = [f"{cell:.3f}" for cell in cells]
            rows.append([f"{loss}, {name}", *cells, f"{above} of {len(ratio)}"])
        header = ["loss, direction", "of L/2", "largest", "cos gamma"]
        header += ["of L/2 cos gamma", "largest", "above a bound"]
        title = (
            "The remainder in units of its bounds (medians over the samples, before and"
            " after training), with the cosine without its sign"
        )
        return f"{title}\n\n{table(header, rows)}"

    def table_of_sets(self):
        rows = []
        for chosen in self.sets():
            cells = [f"{self.of('quantile', **chosen).mean():.3f}"]
            cells.append(f"{bound(**chosen):.3f}")
            cells.append(f"{self.of('exceeded', **chosen).mean():.4f}")
            rows.append(["{hypotheses}, {samples}".format(**chosen), *cells])
        header = ["hypotheses, samples", "95 % quantile", "bound", "share above"]
        title = "The largest difference of a risk and its mean over the samples"
        return f"{title}\n\n{table(header, rows)}"

    def draw(self):
        frequencies = self.settings["frequencies"]
        columns = max(len(frequencies), 2)
        figure, axes = pyplot().subplots(
            3, columns, figsize=(6 * columns, 13), layout="constrained"
        )
        for axis, frequency in zip(axes[0], frequencies, strict=False):
            self.draw_waves(axis, frequency)
        for axis, loss in zip(axes[1], LOSSES, strict=False):
            self.draw_gal(axis, loss)
        self.draw_sets(axes[2, 0])
        axes[0, 0].legend(fontsize=8)
        for axis in [*axes[0][len(frequencies) :], *axes[2, 1:]]:
            axis.axis("off")
        self.save(figure)

    def draw_waves(self, axis, frequency):
        expected = theorems.cosine_of_sine(DISTANCES, frequency)
        axis.plot(DISTANCES, expected, "k:", label="1 - 4 f d")
        for skip, style in zip(self.settings["skips"], ("-", "--"), strict=False):
            found = self.cosines({"frequency": frequency, "variant": skip})
            for i, (who, mean) in enumerate(list(found.items())[1:]):
                axis.plot(DISTANCES, mean, style, color=f"C{i}", label=f"{skip}: {who}")
        axis.set(title=f"frequency {frequency}: mean cosine of two gradients")
        axis.set(xlabel="distance of the points", ylim=(-1.05, 1.05))

    def draw_gal(self, axis, loss):
        for i, name in enumerate(DIRECTIONS):
            ratio, _, cosine = self.remainders(loss, name)
            # The squared error's are all in one corner.
            size = 2 if np.ptp(cosine) > 1e-6 else 16 - 5 * i
            axis.plot(cosine, ratio, ".", markersize=size, color=f"C{i}", label=name)
        axis.plot([0, 1], [1, 1], "k", label="L / 2")
        axis.plot([0, 1], [0, 1], "k--", label="L / 2 |cos gamma|")
        axis.set(title=f"{loss}: |r| / |e g|^2, in units of L / 2")
        axis.set(xlabel="largest |cos gamma| on the way")
        axis.legend(fontsize=8, loc="center left")

    def draw_sets(self, axis):
        samples = np.array(self.settings["samples"])
        for i, count in enumerate(self.settings["hypotheses"]):
            found = [
                self.of("quantile", hypotheses=count, samples=n).mean()
                for n in self.settings["samples"]
            ]
            axis.plot(samples, found, "o-", color=f"C{i}", label=f"{count}")
            axis.plot(samples, bound(count, samples), "--", color=f"C{i}")
        title = "largest risk above its mean: 95 % quantile, and bound (dashed)"
        axis.set(title=title, xlabel="samples")
        axis.legend(title="hypotheses")

    def check(self):
        """What is proved: the sine's directions, and nothing above its bound."""
        for wave in self.waves():
            expected = theorems.cosine_of_sine(DISTANCES, wave["frequency"])
            for found in self.of("cosines", **wave):
                np.testing.assert_allclose(found["sine"], expected, atol=0.01)
        # At most delta, and three standard errors of the share.
        spread = np.sqrt(DELTA * (1 - DELTA) / self.settings["trials"])
        exceeded = self.of("exceeded", part="finite")
        assert (exceeded <= DELTA + 3 * spread).all(), exceeded
        for loss, name in itertools.product(LOSSES, DIRECTIONS):
            ratio, angle, _ = self.remainders(loss, name)
            assert (ratio <= 1 + 1e-6).all(), ratio.max()
            # The cosine is the largest of 65 points on the way.
            assert (angle <= 1 + 1e-3).all(), angle.max()
            if loss == "mean squared error":
                np.testing.assert_allclose(ratio, 1, rtol=1e-6)


if __name__ == "__main__":
    Theory.main()
