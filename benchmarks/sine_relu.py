"""Does the gradient residual approximate high frequencies better, with ReLU?

Trains a residual perceptron to be sin(2 pi f x) on [-1, 1], from random points, with
different skips: nothing, the identity, a trainable multiple of it, the magnitude of the
gradient, the gradient, and the convex mix with alpha started at -3, 0 and 3; the
gradient with unit norm and as it is ("raw"), and with gradients flowing through it
("second order") and not. The error is the mean square on a grid of 401 points.

The paper gives no sizes. `--sweep` trains the identity network with several, and the
settings here are those with which *it* does best at the middle frequency: large, and
with ReLU, whose second derivative is zero. Small networks with other activations are
in `sine.py`.

    KERAS_BACKEND=jax python -m benchmarks.sine_relu --budget cpu [--sweep]
"""

import keras
import numpy as np

from benchmarks import together
from benchmarks.study import Study, p_value, pyplot, statistics, table
from keras_gradres import models
from keras_gradres.layers import GradientResidual

BASELINE = "identity"


def variants():
    found = {
        BASELINE: {"residual": "identity"},
        "none (regular)": {"residual": "none"},
        "scaled": {"residual": "scaled"},
    }
    with_gradient = {
        "magnitude": {"residual": "magnitude"},
        "gradient": {"residual": "gradient"},
        **{
            f"convex, alpha {alpha}": {"residual": "convex", "alpha": float(alpha)}
            for alpha in (-3, 0, 3)
        },
    }
    for name, arguments in with_gradient.items():
        for normalize in (True, False) if name != "magnitude" else (False,):
            for second in (False, True):
                raw = "" if normalize or name == "magnitude" else ", raw"
                order = ", second order" if second else ""
                found[name + raw + order] = {
                    **arguments,
                    "normalize": normalize,
                    "second_order": second,
                }
    return found


VARIANTS = variants()
DRAWN = [
    BASELINE,
    "none (regular)",
    "gradient",
    "convex, alpha -3",
    "convex, alpha 0",
    "convex, alpha 3",
]
POINTS = 1024
GRID = np.linspace(-1, 1, 401, dtype="float32")[:, None]
SETTINGS = {
    "units": 64,
    "blocks": 4,
    "activation": "relu",
    "learning_rate": 1e-3,
    "steps": 3000,
    "batch": 128,
}
BUDGETS = {
    "smoke": {
        "seeds": 2,
        "frequencies": [1],
        "variants": [BASELINE, "convex, alpha 0", "convex, alpha 0, second order"],
        "evaluations": 4,
        **SETTINGS,
        "units": 16,
        "blocks": 1,
        "steps": 100,
    },
    "cpu": {
        "seeds": 30,
        "frequencies": [2, 5, 8],
        "variants": list(VARIANTS),
        "evaluations": 15,
        **SETTINGS,
    },
    "gpu": {
        "seeds": 30,
        "frequencies": [2, 5, 8, 16, 32],
        "variants": list(VARIANTS),
        "evaluations": 50,
        **SETTINGS,
        "steps": 50_000,
    },
}
SWEPT = [
    {"units": units, "blocks": blocks, "activation": activation, "learning_rate": rate}
    for units in (32, 64)
    for blocks in (2, 4)
    for activation in ("relu", "gelu", "tanh")
    for rate in (1e-3, 3e-3)
]


def truth(x, frequency):
    return np.sin(2 * np.pi * frequency * x)


def make_runs(study):
    settings = {name: study.settings[name] for name in SETTINGS}
    if study.sweep:
        middle = study.settings["frequencies"][len(study.settings["frequencies"]) // 2]
        return [
            {"variant": BASELINE, "frequency": middle, "seed": seed} | settings | swept
            for swept in SWEPT
            for seed in study.seeds
        ]
    return [
        {"variant": variant, "frequency": frequency, "seed": seed} | settings
        for frequency in study.settings["frequencies"]
        for variant in study.settings["variants"]
        for seed in study.seeds
    ]


def train(runs, bar, evaluations):
    """All seeds of a variant at once."""
    run = runs[0]

    def data(seed):
        x = np.random.default_rng(seed).uniform(-1, 1, (POINTS, 1)).astype("float32")
        return (x, truth(x, run["frequency"])), GRID

    def make(seed):
        sizes = {name: run[name] for name in ("units", "blocks", "activation")}
        model = models.MLP(1, **sizes, **VARIANTS[run["variant"]])
        model.compile(keras.optimizers.Adam(run["learning_rate"]), "mse")
        return model

    trained, found = together.train(
        make,
        [run["seed"] for run in runs],
        data,
        steps=run["steps"],
        batch_size=run["batch"],
        evaluations=evaluations,
        bar=bar,
    )
    results = []
    for run, model, result in zip(runs, trained, found, strict=True):
        wrong = result["predictions"] - truth(GRID, run["frequency"])
        results.append({"errors": np.mean(wrong**2, axis=(1, 2))})
        blocks = [m for m in model.layers if isinstance(m, GradientResidual)]
        if blocks[0].mix is not None:
            results[-1]["mix"] = [block.mix for block in blocks]
        if run["seed"] == 0:
            results[-1]["function"] = result["predictions"][-1, :, 0]
    return results


def log_error(result):
    return np.log10(result["errors"][-1])


def log_error_halfway(result):
    return np.log10(result["errors"][len(result["errors"]) // 2])


def report(study):
    settings = study.settings
    parts = [
        "log10 of the mean squared error, mean ± standard error over "
        f"{len(study.seeds)} seeds. factor: the geometric mean of the error in units "
        "of that of identity; below 1 is better. p: the paired t-test of the "
        "logarithms against identity, not corrected for the number of rows. halfway: "
        "after half of the steps."
    ]
    for frequency in settings["frequencies"]:
        rows = []
        baseline = study.of(log_error, frequency=frequency, variant=BASELINE)
        for variant in settings["variants"]:
            values = study.of(log_error, frequency=frequency, variant=variant)
            mean, error, difference, p = statistics(values, baseline)
            _, _, halfway, p_halfway = statistics(
                *(
                    study.of(log_error_halfway, frequency=frequency, variant=v)
                    for v in (variant, BASELINE)
                )
            )
            mix = ""
            if "convex" in variant:
                shares = study.of(
                    lambda result: np.mean(result["mix"]),
                    frequency=frequency,
                    variant=variant,
                )
                mix = f"{shares.mean():.3f}"
            rows.append(
                [
                    variant,
                    f"{mean:.2f} ± {error:.2f}",
                    f"{10**difference:.2f}",
                    p_value(p),
                    f"{10**halfway:.2f}",
                    p_value(p_halfway),
                    mix,
                ]
            )
        header = ["", "log10 error", "factor", "p", "factor, halfway", "p"]
        header.append("sigmoid(alpha)")
        parts.append(f"Frequency {frequency}\n\n{table(header, rows)}")
    return "\n\n".join(parts)


def sweep_report(study):
    rows = []
    for swept in SWEPT:
        mean, error, *_ = statistics(*[study.of(log_error, **swept)] * 2)
        rows.append((mean, [*swept.values(), f"{mean:.2f} ± {error:.2f}"]))
    rows = [row for _, row in sorted(rows, key=lambda row: row[0])]
    header = ["units", "blocks", "activation", "learning rate", "log10 error"]
    return f"Identity, {len(study.seeds)} seeds, best first\n\n{table(header, rows)}"


def draw(study):
    plt = pyplot()
    frequencies = study.settings["frequencies"]
    drawn = [v for v in study.settings["variants"] if v in DRAWN]
    figure, axes = plt.subplots(
        len(drawn) + 1,
        len(frequencies),
        figsize=(5.5 * len(frequencies), 1.6 * len(drawn) + 4),
        height_ratios=[1] * len(drawn) + [2.5],
        layout="constrained",
        squeeze=False,
    )
    for column, frequency in zip(axes.T, frequencies, strict=True):
        for axis, variant in zip(column, drawn, strict=False):
            axis.plot(GRID, truth(GRID, frequency), color="grey", linewidth=1)
            function = next(
                result["function"]
                for run, result in study.results
                if (run["frequency"], run["variant"]) == (frequency, variant)
                and run["seed"] == 0
            )
            axis.plot(GRID, function, color="tab:red", linewidth=1)
            axis.set(ylim=(-1.6, 1.6), title=f"f = {frequency}: {variant}, seed 0")
        for variant in drawn:
            curves = study.of(
                lambda result: np.log10(result["errors"]),
                frequency=frequency,
                variant=variant,
            )
            steps = study.settings["steps"] * np.arange(1, 1 + curves.shape[1])
            steps = steps / curves.shape[1]
            mean, spread = curves.mean(0), curves.std(0) / np.sqrt(len(curves))
            (line,) = column[-1].plot(steps, mean, label=variant)
            column[-1].fill_between(
                steps, mean - spread, mean + spread, alpha=0.2, color=line.get_color()
            )
        column[-1].set(xlabel="steps", title=f"f = {frequency}: log10 error, all seeds")
    axes[-1, 0].legend(fontsize=8)
    study.save(figure)


def main():
    study = Study(__doc__, BUDGETS, sweep=True)
    study.run(
        make_runs(study),
        lambda runs, bar: train(runs, bar, study.settings["evaluations"]),
        cost=lambda run: run["steps"],
        together=True,
    )
    if study.sweep:
        study.write(sweep_report(study))
        return
    study.conclude(report(study), lambda: draw(study), check)


def check(study):
    """That the networks learn, and that the second order is another training."""
    errors = [result["errors"] for _, result in study.results]
    assert all(error[-1] < error[0] for error in errors), errors
    assert len({error[-1] for error in errors}) == len(errors), errors


if __name__ == "__main__":
    main()
