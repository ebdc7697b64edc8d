"""What does GAL's objective ask for, what does h learn of it, and when does it diverge?

Trains a small perceptron on half of scikit-learn's digits with SGD, alone and inside
GAL with several h. In samples that it is trained with, it follows the adjustment v*
that the objective asks for, which has a closed form (`gal_optimum.py`):

    v*          its cosine with -d; with h(z); with the best linear function of z and
                softmax(z), fitted to other samples; and what it leaves of d' H d
    theta       the distance from its start, in units of its norm there
    eigenvalue  the lowest real part of those of the Jacobian of h at the start: outputs
                move along -h(z), which grows where it is negative
    failed      how many seeds end with an error above 10 %; chance is 90

The networks are linear, as in the authors' code, so that one Jacobian says it all.

    KERAS_BACKEND=jax python -m benchmarks.gal_mechanism --budget cpu
"""

import keras
import numpy as np
from keras import layers, ops

from benchmarks import data, together
from benchmarks.gal_ablation import BASELINE, TASKS, make_model
from benchmarks.gal_optimum import ALPHAS, STEPS, followed
from benchmarks.study import Study, pyplot, table
from keras_gradres.optimizers import GAL

FAILED = 10
PROBE = 200
# The h of each name, as arguments of GAL.
NETWORKS = {
    "z + MLP(z)": dict,
    "MLP(z)": lambda: {"skip": False},
    "MLP(z), trained by Adam 0.01": lambda: {
        "skip": False,
        "adjustment_optimizer": keras.optimizers.Adam(0.01),
    },
    "random linear": lambda: {"skip": False, "hidden_units": ()},
    "z": lambda: {"network": layers.Rescaling(1.0)},
    "-z": lambda: {"network": layers.Rescaling(-1.0)},
}
FOLLOWED = ("MLP(z), alpha 0.001", "MLP(z), trained by Adam 0.01, alpha 0.001")
VARIANTS = {BASELINE: None} | {
    f"{name}, alpha {alpha}": (name, alpha)
    for alpha, names in (
        (0.001, list(NETWORKS)[:3]),
        (0.1, ["z + MLP(z)", "MLP(z)", "random linear"]),
        (0.3, list(NETWORKS)),
    )
    for name in names
}
BUDGETS = {
    "smoke": {"seeds": 1, "steps": 60, "evaluations": 3}
    | {"variants": [BASELINE, "MLP(z), alpha 0.001"]},
    "cpu": {"seeds": 30, "steps": 800, "evaluations": 10, "variants": list(VARIANTS)},
}


def jacobian(network, size=10):
    """That of a linear network, `(size, size)`."""
    at = network(np.vstack([np.eye(size), np.zeros((1, size))]).astype("float32"))
    at = ops.convert_to_numpy(at)
    return (at[:-1] - at[-1]).T


def train(runs, bar, study):
    """All seeds of a variant at once."""
    run = runs[0]
    chosen = VARIANTS[run["variant"]]
    x, y = data.digits()
    x = x.astype("float32")
    half = len(x) // 2
    batch, rate = TASKS["digits"]
    starts = {}

    def order(seed):
        return np.random.default_rng(seed).permutation(len(x))

    def parts(seed):
        trained, tested = order(seed)[:half], order(seed)[half:]
        looked_at = np.concatenate([tested, trained[:PROBE]])
        return (x[trained], y[trained]), x[looked_at]

    def make(seed):
        model = make_model("digits")
        optimizer = keras.optimizers.SGD(rate, momentum=0.9)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        if chosen is not None:
            name, alpha = chosen
            optimizer = GAL(
                optimizer,
                alpha=alpha,
                seed=seed,
                output_shapes=[(None, 10)],
                **NETWORKS[name](),
            )
            loss = optimizer.loss(loss)
            optimizer.build(model.trainable_variables)
            (network,) = optimizer.networks
            starts[seed] = network.get_weights(), jacobian(network)
        model.compile(optimizer, loss)
        return model

    models, found = together.train(
        make,
        [run["seed"] for run in runs],
        parts,
        steps=run["steps"],
        batch_size=batch,
        evaluations=study.settings["evaluations"],
        bar=bar,
    )
    results = []
    for run, model, result in zip(runs, models, found, strict=True):
        truth = y[order(run["seed"])]
        z = result["predictions"]
        wrong = z[:, : len(x) - half].argmax(-1) != truth[half:]
        results.append({"errors": 100 * wrong.mean(-1)})
        network = None
        if chosen is not None:
            (network,) = model.optimizer.networks
            theta, slope = starts[run["seed"]]
            results[-1] |= {
                "drift": np.mean(result["drift"][-len(z) // 4 :]),
                "eigenvalue": np.linalg.eigvals(slope).real.min(),
                "theta": distance(network.get_weights(), theta),
            }
        if run["variant"] in FOLLOWED:
            z = z[:, len(x) - half :]
            each = [followed(now, truth[:PROBE], network) for now in z]
            results[-1] |= {m: [now[m] for now in each] for m in each[0]}
    return results


def distance(weights, start):
    if not start:
        return np.nan
    a, b = (np.concatenate([w.ravel() for w in ws]) for ws in (weights, start))
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def report(study, names):
    rows = []
    for name in names:
        errors = study.of(lambda r: r["errors"][-1], variant=name)
        cells = [f"{errors.mean():.2f}", f"{errors.max():.2f}"]
        cells.append(f"{(errors > FAILED).sum()} of {len(errors)}")
        for measure, digits in (
            ("eigenvalue", ".2f"),
            ("drift", ".2f"),
            ("theta", ".0e"),
        ):
            value = np.nan
            if name != BASELINE:
                value = study.of(lambda r: r[measure], variant=name).mean()  # noqa: B023
            cells.append("" if np.isnan(value) else f"{value:{digits}}")
        rows.append([name, *cells])
    header = ["h", "error, %", "worst", "failed", "eigenvalue", "drift", "theta"]
    texts = [table(header, rows)]
    looked_at = [name for name in FOLLOWED if name in names]
    steps = study.settings["steps"] * np.arange(1, study.settings["evaluations"] + 1)
    steps = steps // study.settings["evaluations"]
    chosen = (0, len(steps) - 1)
    rows = [
        [f"alpha {alpha}, after {steps[t]} steps"]
        + [
            f"{study.of(lambda r: r[m][t][i], variant=looked_at[0]).mean():.2f}"  # noqa: B023
            for m in ("toward_minus_d", "length_left", "remainder_left")
        ]
        for i, alpha in enumerate(ALPHAS)
        for t in chosen
    ]
    header = ["v*", "cosine with -d", "length of g / of d", "g'Hg / d'Hd"]
    texts.append(table(header, rows))
    rows = [
        [f"{name}, after {steps[t]} steps"]
        + [
            f"{study.of(lambda r: r[m][t], variant=name).mean():.2f}"  # noqa: B023
            for m in ("said_by_z", "said_by_h")
        ]
        for name in looked_at
        for t in chosen
    ]
    header = ["cosine with v*, alpha 0.1", "the best of z", "h, at the end"]
    texts.append(table(header, rows))
    noise = study.of(lambda r: r["noise"], variant=FOLLOWED[0])
    rows = [
        [f"eta~ = {step:g}, after {steps[t]} steps", f"{np.median(noise[:, t, i]):.0e}"]
        for i, step in enumerate(STEPS)
        for t in chosen
    ]
    texts.append(table(["rounding", "r in float32 / what it is"], rows))
    texts.append(
        f"Digits, {study.settings['steps']} steps, {len(study.seeds)} seeds; the last "
        "table has medians over samples and seeds, of g = dl/dz."
    )
    return "\n\n".join(texts)


def draw(study, names):
    plt = pyplot()
    figure, axes = plt.subplots(1, 3, figsize=(18, 5), layout="constrained")
    looked_at = [name for name in FOLLOWED if name in names]
    steps = np.linspace(0, study.settings["steps"], study.settings["evaluations"] + 1)
    curves = {"-d": ("toward_minus_d", looked_at[0])}
    curves |= {"the best of z": ("said_by_z", looked_at[0])}
    curves |= {f"h = {name}": ("said_by_h", name) for name in looked_at}
    for label, (measure, name) in curves.items():
        values = study.of(lambda r: r[measure], variant=name)  # noqa: B023
        values = values[..., ALPHAS.index(0.1)] if values.ndim == 3 else values
        mean, spread = values.mean(0), values.std(0)
        axes[0].plot(steps[1:], mean, label=label)
        axes[0].fill_between(steps[1:], mean - spread, mean + spread, alpha=0.2)
    axes[0].set(title="cosine with v* at alpha 0.1", xlabel="steps")
    axes[0].axhline(0, color="grey", linewidth=0.5)
    for name in names[1:]:
        of, alpha = VARIANTS[name]
        values, errors, moved = (
            study.of(f, variant=name)
            for f in (
                lambda r: r["eigenvalue"],
                lambda r: r["errors"][-1],
                lambda r: r["theta"],
            )
        )
        at = list(NETWORKS).index(of)
        style = {"color": f"C{at}", "marker": "o" if alpha == 0.3 else "x"}
        label = of if alpha == 0.3 or len(names) == 2 else None
        if alpha != 0.001 or len(names) == 2:
            axes[1].scatter(values, errors, label=label, alpha=0.6, **style)
        if np.isfinite(moved).all():
            axes[2].scatter(np.full(len(moved), alpha), moved, **style, label=label)
    axes[1].set(title="crosses: alpha 0.1, dots: 0.3", yscale="log")
    axes[1].set(xlabel="lowest real part of the eigenvalues of h", ylabel="error, %")
    axes[2].set(title="how far theta moves, in units of its norm", xlabel="alpha")
    axes[2].set(xscale="log", yscale="log")
    for axis in axes:
        axis.legend(fontsize=8)
    study.save(figure)


def main():
    study = Study(__doc__, BUDGETS)
    names = study.settings["variants"]
    study.run(
        [
            {"variant": name, "seed": seed, "steps": study.settings["steps"]}
            for name in names
            for seed in study.seeds
        ],
        lambda runs, bar: train(runs, bar, study),
        cost=lambda run: run["steps"],
        together=True,
    )
    study.conclude(report(study, names), lambda: draw(study, names), check)


def check(study):
    """That at the paper's alpha both learn, and that v* is what it is said to be."""
    for _, result in study.results:
        assert result["errors"][-1] < 60, result
        if "theta" in result:
            assert result["theta"] < 0.01, result
            assert np.min(result["toward_minus_d"]) > 0.3, result
            assert np.max(result["remainder_left"]) < 1, result


if __name__ == "__main__":
    main()
