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

from benchmarks import together
from benchmarks.study import Study, p_value, pyplot, statistics, table
from keras_gradres.optimizers import GAL, AdaBound, Lookahead

START = (0.75, 1.0)
OPTIMIZERS = {
    "gradient descent": lambda: keras.optimizers.SGD(0.05),
    "RMSprop": lambda: keras.optimizers.RMSprop(0.01),
    "Adam": lambda: keras.optimizers.Adam(0.01),
    "Lookahead": lambda: Lookahead(keras.optimizers.SGD(0.05)),
    "AdaBound": lambda: AdaBound(0.01),
}
ALONE = "alone"
VARIANTS = {
    ALONE: None,
    **{f"GAL, alpha {alpha}": {"alpha": alpha} for alpha in (0.001, 0.1, 0.5)},
    "GAL, alpha 0.5, improve": {"alpha": 0.5, "policy": "improve"},
}
BUDGETS = {
    "smoke": {
        "seeds": 2,
        "steps": 60,
        "optimizers": ["gradient descent"],
        "variants": list(VARIANTS)[:2],
    },
    "cpu": {
        "seeds": 10,
        "steps": 300,
        "optimizers": list(OPTIMIZERS),
        "variants": list(VARIANTS),
    },
    "gpu": {
        "seeds": 30,
        "steps": 2000,
        "optimizers": list(OPTIMIZERS),
        "variants": list(VARIANTS),
    },
}


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


def train(runs, bar):
    """All seeds of an optimizer and a variant at once."""
    run = runs[0]
    arguments = VARIANTS[run["variant"]]

    def make(seed):
        model = keras.Sequential([keras.Input((1,)), Point()])
        optimizer, adjusted = OPTIMIZERS[run["optimizer"]](), loss
        if arguments is not None:
            shapes = [(None, 2)]
            optimizer = GAL(
                optimizer, seed=seed, output_shapes=shapes, skip=False, **arguments
            )
            adjusted = optimizer.loss(loss)
        model.compile(optimizer, adjusted)
        return model

    nothing = np.zeros((1, 1), "float32")
    _, found = together.train(
        make,
        [run["seed"] for run in runs],
        lambda seed: ((nothing, nothing), nothing),
        steps=run["steps"],
        batch_size=1,
        evaluations=run["steps"] // 3,
        bar=bar,
    )
    return [
        {"path": np.concatenate([[START], result["predictions"][:, 0]])}
        for result in found
    ]


def heights(result):
    return surface(*np.transpose(result["path"]))


def steps_to(result, level, steps):
    """Steps until z is below `level`; infinite where it never is."""
    below = heights(result) < level
    return below.argmax() * steps / (len(below) - 1) if below.any() else np.inf


def report(study):
    header = ["", "", "z at the end", "p", "get to 95 %", "steps to 95 %"]
    rows = []
    for optimizer in study.settings["optimizers"]:
        alone = study.of(heights, optimizer=optimizer, variant=ALONE)[0]
        level = alone[0] + 0.95 * (alone.min() - alone[0])
        for variant in study.settings["variants"]:
            chosen = {"optimizer": optimizer, "variant": variant}
            ends = study.of(lambda result: heights(result)[-1], **chosen)
            # There is one path alone, so this is Student's test of one sample.
            mean, error, _, p = statistics(ends, np.full(len(ends), alone[-1]))
            steps = study.of(
                lambda result: steps_to(result, level, study.settings["steps"]),  # noqa: B023
                **chosen,
            )
            there = f"{np.isfinite(steps).sum()} of {len(steps)}"
            error = "" if variant == ALONE else f" ± {error:.4f}"
            median = f"{np.median(steps):.0f}"
            cells = [f"{mean:.4f}{error}", p_value(p), there, median]
            rows.append([optimizer, variant, *cells])
    return (
        f"{study.settings['steps']} steps, {len(study.seeds)} seeds of the adjustment "
        f"network\n\n{table(header, rows)}\n\n± is the standard error, p that of the "
        "t-test against the one path without GAL. 95 %: of the way down that the "
        "optimizer alone goes; the median over seeds."
    )


def draw(study):
    plt = pyplot()
    optimizers = study.settings["optimizers"]
    figure, axes = plt.subplots(
        2,
        len(optimizers),
        figsize=(4.2 * len(optimizers), 8),
        layout="constrained",
        squeeze=False,
    )
    x, y = np.meshgrid(np.linspace(-1.4, 1.8, 200), np.linspace(-1.2, 1.7, 200))
    for (top, bottom), optimizer in zip(axes.T, optimizers, strict=True):
        top.contour(x, y, surface(x, y), 30, cmap="Greys_r", linewidths=0.6)
        for i, variant in enumerate(study.settings["variants"]):
            chosen = {"optimizer": optimizer, "variant": variant}
            color = "black" if variant == ALONE else f"C{i - 1}"
            paths = study.of(lambda result: result["path"], **chosen)
            # Those of one seed, to be told apart.
            top.plot(*paths[0].T, color=color, label=variant)
            steps = np.linspace(0, study.settings["steps"], paths.shape[1])
            for path in paths:
                z = surface(*path.T)
                bottom.plot(steps, z, color=color, linewidth=0.8)
        top.set(title=f"{optimizer}: paths, seed 0", xlabel="x", ylabel="y")
        bottom.set(title="z by steps, all seeds", xlabel="steps")
    axes[0, 0].legend(fontsize=8, loc="lower right")
    study.save(figure)


def main():
    study = Study(__doc__, BUDGETS)
    study.run(
        [
            {"optimizer": optimizer, "variant": variant, "seed": seed}
            | {"steps": study.settings["steps"]}
            for optimizer in study.settings["optimizers"]
            for variant in study.settings["variants"]
            for seed in (study.seeds if variant != ALONE else range(1))
        ],
        train,
        cost=lambda run: run["steps"],
        together=True,
    )
    study.conclude(report(study), lambda: draw(study), check)


def check(study):
    """That all go downhill, and that a GAL with a small alpha stays close by."""
    for _, result in study.results:
        assert heights(result)[-1] < heights(result)[0] - 0.1, result
    alone = study.of(heights, variant=ALONE)
    close = study.of(heights, variant="GAL, alpha 0.001")
    assert 0 < np.abs(close - alone).max() < 0.01, (close, alone)


if __name__ == "__main__":
    main()
