"""Does GAL help regression on small tables, as Table V of its paper says?

Boston (hidden layers 100-50, adjustment network 16-4), diabetes (64-32; 128-4) and
California housing (256-64; 128-2), with Adam alone, with GAL at the paper's alpha =
beta = 0.001, and at others. Every seed has its own split, four fifths for training.
MAE, MSE and R2 on the rest after the last step, with Welch's t-test for the first 5
seeds, as many as the paper has, and for all. Features are standardized, or "raw", as
they are; the paper does not say. "median" always predicts that of the training targets.

    KERAS_BACKEND=jax python -m benchmarks.regression --budget cpu --data FOLDER
"""

import keras
import numpy as np
from keras import layers

from benchmarks import data, together
from benchmarks.study import Study, compared, pyplot, statistics, table
from keras_gradres.optimizers import GAL

# The hidden layers of the model and of the adjustment network, batch size, epochs.
TASKS = {
    "boston": ((100, 50), (16, 4), 32, 200),
    "diabetes": ((64, 32), (128, 4), 32, 200),
    "california": ((256, 64), (128, 2), 64, 10),
}
BASELINE = "Adam"
VARIANTS = {
    BASELINE: None,
    **{
        f"GAL, alpha {alpha}, beta {beta}": {"alpha": alpha, "beta": beta}
        for beta in (0.001, 1.0)
        for alpha in (0.001, 0.01, 0.1)
    },
}
PAPER = "GAL, alpha 0.001, beta 0.001"
FEW = [BASELINE, PAPER]
PAPERS_SEEDS = 5
LEARNING_RATE = 1e-3
EVALUATIONS = 10
MEASURES = ("mae", "mse", "r2")
BUDGETS = {
    "smoke": {"seeds": 2, "tasks": ["diabetes"], "variants": FEW, "shorter": 20},
    "cpu": {"seeds": 30, "tasks": list(TASKS), "variants": list(VARIANTS)},
    "gpu": {"seeds": 30, "tasks": list(TASKS), "variants": list(VARIANTS)},
}


def make_runs(study):
    settings = study.settings
    runs = []
    for task in settings["tasks"]:
        size = int(0.8 * len(load(study, task)[0]))
        _, _, batch, epochs = TASKS[task]
        steps = size // batch * epochs // settings.get("shorter", 1)
        runs += [
            {"task": task, "features": features, "variant": variant, "seed": seed}
            | {"steps": steps, "batch": batch}
            for features, variants in (
                ("standardized", settings["variants"]),
                ("raw", FEW),
            )
            for variant in variants
            for seed in study.seeds
        ]
    return runs


def load(study, task):
    return data.diabetes() if task == "diabetes" else getattr(data, task)(study.data)


def split(x, y, seed, features):
    """(x, y), (x_test, y_test), in another way for each seed."""
    order = np.random.default_rng(seed).permutation(len(x))
    train, test = np.split(order, [int(0.8 * len(x))])
    if features == "standardized":
        x = (x - x[train].mean(0)) / x[train].std(0)
    x, y = x.astype("float32"), y.astype("float32")
    return (x[train], y[train]), (x[test], y[test])


def network(shape, hidden, adjusting, seed, arguments):
    """The paper's, with Adam, inside GAL where it has arguments."""
    dense = [layers.Dense(units, activation="relu") for units in hidden]
    model = keras.Sequential([keras.Input(shape), *dense, layers.Dense(1)])
    optimizer, loss = keras.optimizers.Adam(LEARNING_RATE), "mse"
    if arguments is not None:
        optimizer = GAL(
            optimizer,
            hidden_units=adjusting,
            skip=False,
            seed=seed,
            output_shapes=[(None, 1)],
            **arguments,
        )
        loss = optimizer.loss(loss)
    model.compile(optimizer, loss)
    return model


def train(runs, bar, study):
    """All seeds of a variant at once."""
    run = runs[0]
    hidden, adjusting, *_ = TASKS[run["task"]]
    arguments = VARIANTS[run["variant"]]
    x, y = load(study, run["task"])
    splits = {r["seed"]: split(x, y, r["seed"], run["features"]) for r in runs}

    def make(seed):
        return network(x.shape[1:], hidden, adjusting, seed, arguments)

    _, found = together.train(
        make,
        list(splits),
        lambda seed: (splits[seed][0], splits[seed][1][0]),
        steps=run["steps"],
        batch_size=run["batch"],
        evaluations=EVALUATIONS,
        bar=bar,
    )
    results = []
    for run, result in zip(runs, found, strict=True):
        truth = splits[run["seed"]][1][1]
        results.append(scores(result["predictions"], truth))
        median = np.median(splits[run["seed"]][0][1])
        results[-1]["median"] = np.mean(np.abs(truth - median))
        results[-1]["accepted"] = result.get("accepted", [np.nan])[-1]
    return results


def scores(predictions, truth):
    """The measures at each evaluation."""
    wrong = predictions - truth
    mse = np.mean(wrong**2, axis=(1, 2))
    return {
        "mae": np.mean(np.abs(wrong), axis=(1, 2)),
        "mse": mse,
        "r2": 1 - mse / truth.var(),
    }


def report(study):
    few = min(PAPERS_SEEDS, len(study.seeds))
    parts = []
    for task in study.settings["tasks"]:
        for features in ("standardized", "raw"):
            chosen = {"task": task, "features": features}
            variants = FEW if features == "raw" else study.settings["variants"]
            rows = []
            for variant in variants:
                cells = []
                for measure in MEASURES:
                    values, baseline = (
                        study.of(
                            lambda result: result[measure][-1],  # noqa: B023
                            variant=v,
                            **chosen,
                        )
                        for v in (variant, BASELINE)
                    )
                    digits = 2 if values.mean() > 3 else 4
                    if measure == "mae":
                        of_few = compared(values[:few], baseline[:few], digits, False)
                        cells += [of_few[0], of_few[2]]
                        cells += compared(values, baseline, digits, paired=False)
                    else:
                        mean, error, *_ = statistics(values, baseline)
                        cells.append(f"{mean:.{digits}f} ± {error:.{digits}f}")
                accepted = study.of(
                    lambda result: result["accepted"], variant=variant, **chosen
                ).mean()
                accepted = "" if np.isnan(accepted) else f"{accepted:.2f}"
                rows.append([variant, *cells, accepted])
            median = study.of(
                lambda result: result["median"], variant=BASELINE, **chosen
            )
            digits = 2 if median.mean() > 3 else 4
            medians = [f"{m.mean():.{digits}f}" for m in (median[:few], median)]
            rows.append(["median", medians[0], "", medians[1], *[""] * 5])
            parts.append(f"{task}, {features} features\n\n{table(header(study), rows)}")
            differences = ", ".join(
                f"{difference:+.{digits}f}" for difference in of_groups(study, chosen)
            )
            parts.append(f"{PAPER}, by groups of {few} seeds: {differences}.")
    parts.append(
        "± is the standard error over seeds; p that of Welch's t-test against Adam "
        "alone, not corrected for the number of rows; accepted: of the last step."
    )
    return "\n\n".join(parts)


def of_groups(study, chosen):
    """The difference of the MAE that each few of the seeds would have found."""
    ours, baseline = (
        study.of(lambda result: result["mae"][-1], variant=variant, **chosen)
        for variant in (PAPER, BASELINE)
    )
    groups = np.arange(len(ours)) // PAPERS_SEEDS
    return [np.mean((ours - baseline)[groups == g]) for g in range(groups.max() + 1)]


def header(study):
    few, seeds = min(PAPERS_SEEDS, len(study.seeds)), len(study.seeds)
    mae = [f"MAE, {few} seeds", "p", f"MAE, {seeds} seeds", "difference", "p"]
    return ["", *mae, "MSE", "R2", "accepted"]


def draw(study):
    plt = pyplot()
    tasks = study.settings["tasks"]
    figure, axes = plt.subplots(
        1, len(tasks), figsize=(6 * len(tasks), 5), layout="constrained", squeeze=False
    )
    for axis, task in zip(axes[0], tasks, strict=True):
        chosen = {"task": task, "features": "standardized"}
        for variant in study.settings["variants"]:
            curves = study.of(lambda r: r["mae"], variant=variant, **chosen)
            progress = np.linspace(0, 1, curves.shape[1] + 1)[1:]
            style = {"color": "black", "linewidth": 3} if variant == BASELINE else {}
            axis.plot(progress, curves.mean(0), ".-", label=variant, **style)
        median = study.of(lambda r: r["median"], variant=BASELINE, **chosen)
        axis.axhline(median.mean(), color="grey", linestyle=":", label="median")
        axis.set(title=f"{task}: test MAE, mean over seeds", xlabel="part of the steps")
    axes[0, 0].legend(fontsize=8)
    study.save(figure)


def main():
    study = Study(__doc__, BUDGETS, data=True)
    study.run(
        make_runs(study),
        lambda runs, bar: train(runs, bar, study),
        cost=lambda run: run["steps"],
        together=True,
    )
    study.conclude(report(study), lambda: draw(study), check)


def check(study):
    """That the networks learn, and that GAL acts."""
    for run, result in study.results:
        assert result["mae"][-1] < result["mae"][0], (run, result)
        assert np.isnan(result["accepted"]) == (run["variant"] == BASELINE), result


if __name__ == "__main__":
    main()
