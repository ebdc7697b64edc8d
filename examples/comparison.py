"""A baseline against variants of GAL, from the same seeds: what both examples share.

Each run of a seed begins with the same weights and sees the same batches. What counts
is the measure after the last epoch: no epoch is chosen by looking at the test.
"""

import argparse
import time

import keras
import matplotlib
import numpy as np
from scipy import stats

from keras_gradres.callbacks import Diagnostics
from keras_gradres.optimizers import GAL

BASELINE = "baseline"
CURVES = {
    "gal_remainder": "mean |r|",
    "gal_accepted": "fraction accepted",
    "gal_cosine": "cosine between dl/dz and the adjustment",
    "gal_drift": "drift: |mean adjustment| / mean |adjustment|",
}


def run(make_model, loss, make_inner, arguments, data, seed, epochs, measure):
    """The history of one training; `arguments` are those of GAL, None the baseline."""
    (x, y), (x_test, y_test) = data
    keras.utils.set_random_seed(seed)
    model = make_model()
    optimizer, callbacks = make_inner(), []
    if arguments is not None:
        optimizer = GAL(optimizer, seed=seed, **arguments)
        loss, callbacks = optimizer.loss(loss), [Diagnostics()]
    model.compile(optimizer, loss, metrics=[measure])
    keras.utils.set_random_seed(seed)
    history = model.fit(
        x,
        y,
        batch_size=32,
        epochs=epochs,
        validation_data=(x_test, y_test),
        validation_batch_size=len(x_test),
        callbacks=callbacks,
        verbose=0,
    )
    return history.history


def compare(variants, train, seeds):
    """Trains the baseline and each variant from each seed: {name: [history, ...]}."""
    histories = {}
    for name, arguments in {BASELINE: None, **variants}.items():
        start = time.perf_counter()
        histories[name] = [train(arguments, seed) for seed in range(seeds)]
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    return histories


def report(histories, key, title, scale=1.0):
    """Prints the table and what it says."""
    finals = {
        name: scale * np.array([run[key][-1] for run in runs])
        for name, runs in histories.items()
    }
    baseline = finals.pop(BASELINE)
    print(
        f"\n| | {title} | spread | worst | difference | p | accepted | drift |\n"
        "|---|---:|---:|---:|---:|---:|---:|---:|\n"
        f"| {BASELINE} | {' | '.join(_spread(baseline))} | | | | |"
    )
    verdicts = []
    for name, values in finals.items():
        difference = values.mean() - baseline.mean()
        p = stats.ttest_ind(values, baseline, equal_var=False).pvalue
        row = [name, *_spread(values), f"{difference:+.3f}", f"{p:.3f}"]
        for curve in ("gal_accepted", "gal_drift"):
            last = np.mean([run[curve][-1] for run in histories[name]])
            row.append(f"{last:.2f}")
        print(f"| {' | '.join(row)} |")
        verdicts.append(f"{name}: {_verdict(values, baseline, difference, p)}")
    print(
        f"\n{len(baseline)} seeds. spread: the standard deviation over seeds. p: "
        "Welch's t-test against\nthe baseline, not corrected for the number of rows. "
        "accepted, drift: in the last step.\n"
    )
    print("\n".join(verdicts))


def _spread(values):
    return [f"{x:.3f}" for x in (values.mean(), values.std(ddof=1), values.max())]


def _verdict(values, baseline, difference, p):
    # A test of means says little of a variant that only sometimes fails.
    failed = np.sum(~(values <= 2 * baseline.max()))
    if failed:
        return (
            f"failed from {failed} of {len(values)} seeds: twice the baseline's worst."
        )
    if not p < 0.05:
        return f"no difference beyond the noise (p = {p:.2f})."
    word = "better" if difference < 0 else "worse"
    return f"{word}, by {abs(difference):.3f} (p = {p:.3f})."


def draw(histories, key, title, path, scale=1.0):
    """Draws the measure and the diagnostics by epoch, means over seeds."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, grid = plt.subplots(2, 3, figsize=(15, 8), layout="constrained")
    axes = grid.ravel()
    for name, runs in histories.items():
        for axis, (curve, label) in zip(
            axes, {key: title, **CURVES}.items(), strict=False
        ):
            if curve in runs[0]:
                values = np.array([run[curve] for run in runs])
                values = values.mean(0) * (scale if curve == key else 1.0)
                color = "black" if name == BASELINE else None
                epochs = 1 + np.arange(len(values))
                axis.plot(epochs, values, ".-", label=name, color=color)
            axis.set_title(label)
            axis.set_xlabel("epoch")
    for axis in axes[:2]:
        axis.set_yscale("log")
    axes[-1].axis("off")
    axes[-1].legend(*axes[0].get_legend_handles_labels(), loc="center", fontsize=12)
    seeds = len(histories[BASELINE])
    figure.suptitle(f"means over {seeds} seeds, of the last step of each epoch")
    figure.savefig(path, dpi=80)
    print(f"Drawn: {path}")


def main(variants, train, key, title, *, epochs, output, scale=1.0):
    """Reads the options; `train(arguments, seed, epochs)` returns a history."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--output", default=output)
    options = parser.parse_args()
    histories = compare(
        variants,
        lambda arguments, seed: train(arguments, seed, options.epochs),
        options.seeds,
    )
    report(histories, key, title, scale)
    draw(histories, key, title, options.output, scale)
