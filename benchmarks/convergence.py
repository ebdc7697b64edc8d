"""How do optimizers go, with and without GAL, on a surface with two coordinates?

    z = -sin(x^2) cos(3 y^2) exp(-(x y)^2) - exp(-(x + y)^2)        from (0.75, 1.0)

(Figure 4 of the GAL paper). The output of the model is its own two weights, and z the
loss of the one sample, so that GAL adjusts the gradient that the optimizer gets. The
seeds are those of the adjustment network; without GAL there is one path.

    KERAS_BACKEND=jax python -m benchmarks.convergence --budget cpu
"""

import keras
import numpy as np
from keras import ops

from benchmarks.curves import pyplot
from benchmarks.seeds import ManySeeds, compiled
from benchmarks.significance import statistics
from benchmarks.tables import p_value, table
from keras_gradres.optimizers import AdaBound, Lookahead

START = (0.75, 1.0)
OPTIMIZERS = {
    "gradient descent": lambda: keras.optimizers.SGD(0.05),
    "RMSprop": lambda: keras.optimizers.RMSprop(0.01),
    "Adam": lambda: keras.optimizers.Adam(0.01),
    "Lookahead": lambda: Lookahead(keras.optimizers.SGD(0.05)),
    "AdaBound": lambda: AdaBound(0.01),
}
ALONE = "alone"


class Point(keras.Layer):
    """A layer whose output is its own two weights, whatever the input."""

    def build(self, input_shape):
        self.point = self.add_weight(shape=(1, 2), name="point")
        self.point.assign([START])

    def call(self, x):
        return self.point + 0 * x

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 2)


def surface(x, y, np=np):
    return -np.sin(x**2) * np.cos(3 * y**2) * np.exp(-((x * y) ** 2)) - np.exp(
        -((x + y) ** 2)
    )


def loss(y_true, y_pred):
    return surface(y_pred[:, 0], y_pred[:, 1], ops)


def heights(result):
    return surface(*np.transpose(result["path"]))


def steps_to(result, level, steps):
    """Steps until z is below `level`; infinite where it never is."""
    below = heights(result) < level
    return below.argmax() * steps / (len(below) - 1) if below.any() else np.inf


class Convergence(ManySeeds):
    # The arguments of GAL.
    variants = {
        ALONE: None,
        **{f"GAL, alpha {alpha}": {"alpha": alpha} for alpha in (0.001, 0.1, 0.5)},
        "GAL, alpha 0.5, improve": {"alpha": 0.5, "policy": "improve"},
    }
    budgets = {
        "smoke": {"seeds": 2, "steps": 60}
        | {"optimizers": ["gradient descent"], "variants": [ALONE, "GAL, alpha 0.001"]},
        "cpu": {"seeds": 10, "steps": 300, "optimizers": list(OPTIMIZERS)},
        "gpu": {"seeds": 30, "steps": 2000, "optimizers": list(OPTIMIZERS)},
    }

    def groups(self):
        return [{"optimizer": optimizer} for optimizer in self.settings["optimizers"]]

    def runs(self):
        return [r for r in super().runs() if r["variant"] != ALONE or r["seed"] == 0]

    def batch_size(self, run):
        return 1

    def evaluations(self, run):
        return run["steps"] // 3

    def make(self, run, seed):
        model = keras.Sequential([keras.Input((1,)), Point()])
        arguments = self.variants[run["variant"]]
        if arguments is not None:
            arguments = {"skip": False, **arguments}
        return compiled(model, OPTIMIZERS[run["optimizer"]](), loss, seed, arguments)

    def data(self, run, seed):
        nothing = np.zeros((1, 1), "float32")
        return (nothing, nothing), nothing

    def measure(self, run, found, model):
        return {"path": np.concatenate([[START], found["predictions"][:, 0]])}

    def report(self):
        header = ["", "", "z at the end", "p", "get to 95 %", "steps to 95 %"]
        rows = [row for group in self.groups() for row in self.rows(group)]
        steps, seeds = self.settings["steps"], len(self.seeds)
        return (
            f"{steps} steps, {seeds} seeds of the adjustment network\n\n"
            f"{table(header, rows)}\n\n± is the standard error, p that of the t-test "
            "against the one path without GAL. 95 %: of the way down that the "
            "optimizer alone goes; the median over seeds."
        )

    def rows(self, group):
        alone = self.of(heights, variant=ALONE, **group)[0]
        level = alone[0] + 0.95 * (alone.min() - alone[0])

        def there(result):
            return steps_to(result, level, self.settings["steps"])

        for variant in self.variants_of(group):
            ends = self.of(heights, variant=variant, **group)[:, -1]
            # There is one path alone, so this is Student's test of one sample.
            mean, error, _, p = statistics(ends, np.full(len(ends), alone[-1]))
            steps = self.of(there, variant=variant, **group)
            error = "" if variant == ALONE else f" ± {error:.4f}"
            got = f"{np.isfinite(steps).sum()} of {len(steps)}"
            cells = [f"{mean:.4f}{error}", p_value(p), got, f"{np.median(steps):.0f}"]
            yield [group["optimizer"], variant, *cells]

    def draw(self):
        plt, groups = pyplot(), self.groups()
        figure, axes = plt.subplots(
            2,
            len(groups),
            figsize=(4.2 * len(groups), 8),
            layout="constrained",
            squeeze=False,
        )
        x, y = np.meshgrid(np.linspace(-1.4, 1.8, 200), np.linspace(-1.2, 1.7, 200))
        for (top, bottom), group in zip(axes.T, groups, strict=True):
            top.contour(x, y, surface(x, y), 30, cmap="Greys_r", linewidths=0.6)
            for i, variant in enumerate(self.variants_of(group)):
                color = "black" if variant == ALONE else f"C{i - 1}"
                paths = self.of("path", variant=variant, **group)
                # Those of one seed, to be told apart.
                top.plot(*paths[0].T, color=color, label=variant)
                steps = np.linspace(0, self.settings["steps"], paths.shape[1])
                for path in paths:
                    bottom.plot(steps, surface(*path.T), color=color, linewidth=0.8)
            top.set(
                title=f"{group['optimizer']}: paths, seed 0", xlabel="x", ylabel="y"
            )
            bottom.set(title="z by steps, all seeds", xlabel="steps")
        axes[0, 0].legend(fontsize=8, loc="lower right")
        self.save(figure)

    def check(self):
        """That all go downhill, and that a GAL with a small alpha stays close by."""
        for _, result in self.results:
            assert heights(result)[-1] < heights(result)[0] - 0.1, result
        alone = self.of(heights, variant=ALONE)
        close = self.of(heights, variant="GAL, alpha 0.001")
        assert 0 < np.abs(close - alone).max() < 0.01, (close, alone)


if __name__ == "__main__":
    Convergence.main()
