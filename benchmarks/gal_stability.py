"""Is GAL stable at a large alpha?

The outputs move along -h(z), which grows where the Jacobian of h has eigenvalues of
negative real part. Half of those of a random map are such; h(z) = z + MLP(z), the
default, has none at the start. Trains a small perceptron on half of scikit-learn's
digits with SGD, alone and inside GAL with either network, from the same seeds:

    error       of the other half after the last step, %; chance is 90
    failed      how many of the seeds end above 10 %
    drift       see `GAL.diagnostics`, the mean over the last quarter of the steps

    KERAS_BACKEND=jax python -m benchmarks.gal_stability
    KERAS_BACKEND=jax python -m benchmarks.gal_stability --check

With `--check`, fails unless at alpha 0.001 both are SGD alone within noise, and at 0.1
and 0.3 the default has its error while the plain MLP fails.
"""

import argparse

import keras
import numpy as np
from scipy import stats

from benchmarks import data, together
from benchmarks.gal_ablation import TASKS, make_model
from benchmarks.study import table
from keras_gradres.optimizers import GAL

ALPHAS = (0.001, 0.1, 0.3)
ALONE = "SGD alone"
VARIANTS = {
    ALONE: None,
    **{
        f"{name}, alpha {alpha}": {"alpha": alpha, "skip": skip}
        for alpha in ALPHAS
        for name, skip in (("z + MLP(z)", True), ("MLP(z)", False))
    },
}
FAILED = 10


def train(arguments, seeds, steps):
    """The error, in %, and the drift of each seed."""
    x, y = data.digits()
    x, y = x.astype("float32"), y.astype("int32")
    half = len(x) // 2
    batch, rate = TASKS["digits"]

    def order(seed):
        return np.random.default_rng(seed).permutation(len(x))

    def parts(seed):
        trained, tested = order(seed)[:half], order(seed)[half:]
        return (x[trained], y[trained]), x[tested]

    def make(seed):
        model = make_model("digits")
        optimizer = keras.optimizers.SGD(rate, momentum=0.9)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        if arguments is not None:
            shapes = [(None, 10)]
            optimizer = GAL(optimizer, seed=seed, output_shapes=shapes, **arguments)
            loss = optimizer.loss(loss)
        model.compile(optimizer, loss)
        return model

    _, found = together.train(
        make, seeds, parts, steps=steps, batch_size=batch, evaluations=8
    )
    errors, drifts = [], []
    for seed, result in zip(seeds, found, strict=True):
        wrong = result["predictions"][-1].argmax(-1) != y[order(seed)[half:]]
        errors.append(100 * wrong.mean())
        drifts.append(np.mean(result["drift"][-2:]) if "drift" in result else np.nan)
    return np.array(errors), np.array(drifts)


def check(errors):
    alone = errors[ALONE]
    for name, found in errors.items():
        worse = found.mean() - alone.mean()
        if "alpha 0.001" in name:
            p = stats.ttest_rel(found, alone).pvalue
            same = np.array_equal(found, alone) or p > 0.01
            assert same, f"{name} is not SGD alone: p = {p:.1e}"
        elif name.startswith("z +"):
            assert (found < FAILED).all(), f"{name} fails: {found}"
            assert worse < 0.5, f"{name} is worse by {worse:.2f}"
        elif name.startswith("MLP"):
            assert (found > FAILED).any(), f"{name} does not fail: {found}"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    errors, rows = {}, []
    for name, arguments in VARIANTS.items():
        seeds = range(options.seeds)
        errors[name], drifts = train(arguments, seeds, options.steps)
        mean, worst = errors[name].mean(), errors[name].max()
        failed = (errors[name] > FAILED).sum()
        drift = "" if arguments is None else f"{drifts.mean():.2f}"
        cells = [f"{mean:.2f}", f"{worst:.2f}", f"{failed} of {options.seeds}", drift]
        rows.append([name, *cells])
    print(f"{options.steps} steps, {options.seeds} seeds\n")
    print(table(["", "error, %", "worst", "failed", "drift"], rows))
    if options.check:
        check(errors)


if __name__ == "__main__":
    main()
