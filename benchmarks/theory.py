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

import numpy as np

from benchmarks.study import Study, pyplot, table
from benchmarks.theorems import (
    DELTA,
    DIRECTIONS,
    DISTANCES,
    LOSSES,
    SKIPS,
    bound,
    cosine_of_sine,
    directions,
    finite,
    gal,
)

SETTINGS = {
    "frequencies": [1, 4],
    "skips": list(SKIPS),
    "units": 32,
    "blocks": 3,
    "steps": 5000,
    "epochs": [0, 1, 10],
    "hypotheses": [1, 10, 200],
    "samples": [50, 100, 200, 400, 800],
    "trials": 2000,
}
BUDGETS = {
    "smoke": {
        "seeds": 1,
        **SETTINGS,
        "frequencies": [1],
        "units": 8,
        "blocks": 1,
        "steps": 20,
        "skips": ["gain"],
        "epochs": [0],
        "hypotheses": [50],
        "samples": [50, 400],
        "trials": 200,
    },
    "cpu": {"seeds": 5, **SETTINGS},
    "gpu": {"seeds": 30, **SETTINGS, "steps": 20_000, "epochs": [0, 1, 10, 100]},
}


def make_runs(study):
    settings = study.settings
    parts = {
        directions: [
            {"variant": skip, "frequency": frequency}
            | {name: settings[name] for name in ("units", "blocks", "steps")}
            for frequency in settings["frequencies"]
            for skip in settings["skips"]
        ],
        gal: [{"variant": loss, "epochs": settings["epochs"]} for loss in LOSSES],
        finite: [
            {"variant": "bound", "hypotheses": hypotheses, "samples": samples}
            | {"trials": settings["trials"]}
            for hypotheses in settings["hypotheses"]
            for samples in settings["samples"]
        ],
    }
    return [
        {"part": part.__name__, **run, "seed": seed}
        for part, runs in parts.items()
        for run in runs
        for seed in study.seeds
    ]


def train(runs, bar):
    return {f.__name__: f for f in (directions, gal, finite)}[runs[0]["part"]](
        runs, bar
    )


def report(study):
    settings = study.settings
    shown = [i for i, d in enumerate(DISTANCES) if round(d, 4) in (0.025, 0.125, 0.25)]
    rows = []
    for frequency in settings["frequencies"]:
        for skip in settings["skips"]:
            chosen = {"variant": skip, "frequency": frequency}
            error = study.of(lambda result: result["error"], **chosen).mean()
            for who in study.of(lambda result: result["cosines"], **chosen)[0]:
                values = study.of(lambda result: result["cosines"][who], **chosen)  # noqa: B023
                means = [f"{values[:, i].mean():+.2f}" for i in shown]
                rows.append([f"{frequency}, {skip}, {who}", f"{error:.2f}", *means])
    header = ["frequency, skip, gradient of", "log10 error"]
    header += [f"distance {DISTANCES[i]:g}" for i in shown]
    parts = [f"Mean cosine of the gradients at two points\n\n{table(header, rows)}"]
    rows = []
    for loss, (*_, constant, _) in LOSSES.items():
        for name in DIRECTIONS:
            ratio, cosine = of_gal(study, loss, name)
            ratio, angle = ratio / (constant / 2), ratio / (constant / 2 * cosine)
            # An equality in exact arithmetic is one to rounding in another.
            above = max((ratio > 1 + 1e-6).sum(), (angle > 1 + 1e-3).sum())
            cells = [np.median(ratio), ratio.max(), np.median(cosine)]
            cells += [np.median(angle), angle.max()]
            cells = [f"{cell:.3f}" for cell in cells]
            rows.append([f"{loss}, {name}", *cells, f"{above} of {len(ratio)}"])
    header = ["loss, direction", "of L/2", "largest", "cos gamma"]
    header += ["of L/2 cos gamma", "largest", "above a bound"]
    parts.append(
        "The remainder in units of its bounds (medians over the samples, before and "
        f"after training), with the cosine without its sign\n\n{table(header, rows)}"
    )
    rows = []
    for hypotheses in settings["hypotheses"]:
        for samples in settings["samples"]:
            chosen = {"hypotheses": hypotheses, "samples": samples}
            quantile, exceeded = (
                study.of(lambda result: result[name], **chosen).mean()  # noqa: B023
                for name in ("quantile", "exceeded")
            )
            cells = [f"{quantile:.3f}", f"{bound(hypotheses, samples):.3f}"]
            rows.append([f"{hypotheses}, {samples}", *cells, f"{exceeded:.4f}"])
    header = ["hypotheses, samples", "95 % quantile", "bound", "share above"]
    parts.append(
        "The largest difference of a risk and its mean over the samples\n\n"
        f"{table(header, rows)}"
    )
    seeds = f"{len(study.seeds)} seeds"
    return "\n\n".join([seeds, *parts])


def of_gal(study, loss, name):
    """The remainders and the cosines of all samples and seeds."""
    return (
        study.of(lambda result: result[name][key], part="gal", variant=loss).ravel()  # noqa: B023
        for key in ("ratio", "cosine")
    )


def draw(study):
    plt = pyplot()
    frequencies = study.settings["frequencies"]
    columns = max(len(frequencies), 2)
    figure, axes = plt.subplots(
        3, columns, figsize=(6 * columns, 13), layout="constrained"
    )
    for axis, frequency in zip(axes[0], frequencies, strict=False):
        axis.plot(
            DISTANCES, cosine_of_sine(DISTANCES, frequency), "k:", label="1 - 4 f d"
        )
        for skip, style in zip(study.settings["skips"], ("-", "--"), strict=False):
            chosen = {"variant": skip, "frequency": frequency}
            of = study.of(lambda result: result["cosines"], **chosen)
            for i, who in enumerate(list(of[0])[1:]):
                mean = np.mean([cosines[who] for cosines in of], 0)
                axis.plot(DISTANCES, mean, style, color=f"C{i}", label=f"{skip}: {who}")
        axis.set(
            title=f"frequency {frequency}: mean cosine of two gradients",
            xlabel="distance of the points",
            ylim=(-1.05, 1.05),
        )
    axes[0, 0].legend(fontsize=8)
    for axis, (loss, (*_, constant, _)) in zip(axes[1], LOSSES.items(), strict=False):
        for i, name in enumerate(DIRECTIONS):
            ratio, cosine = of_gal(study, loss, name)
            # The squared error's are all in one corner.
            size = 2 if np.ptp(cosine) > 1e-6 else 16 - 5 * i
            axis.plot(cosine, ratio, ".", markersize=size, color=f"C{i}", label=name)
        line = np.array([0, 1])
        axis.plot(line, 0 * line + constant / 2, "k", label="L / 2")
        axis.plot(line, constant / 2 * line, "k--", label="L / 2 |cos gamma|")
        axis.set(
            title=f"{loss}: |r| / |e g|^2", xlabel="largest |cos gamma| on the way"
        )
        axis.legend(fontsize=8, loc="center left")
    samples = np.array(study.settings["samples"])
    for i, hypotheses in enumerate(study.settings["hypotheses"]):
        color = f"C{i}"
        found = [
            study.of(
                lambda result: result["quantile"],
                hypotheses=hypotheses,
                samples=n,
            ).mean()
            for n in study.settings["samples"]
        ]
        axes[2, 0].plot(samples, found, "o-", color=color, label=f"{hypotheses}")
        axes[2, 0].plot(samples, bound(hypotheses, samples), "--", color=color)
    axes[2, 0].set(
        xlabel="samples",
        title="largest risk above its mean: 95 % quantile, and bound (dashed)",
    )
    axes[2, 0].legend(title="hypotheses")
    for axis in [*axes[0][len(frequencies) :], *axes[2, 1:]]:
        axis.axis("off")
    study.save(figure)


def main():
    study = Study(__doc__, BUDGETS)
    study.run(
        make_runs(study), train, cost=lambda run: run.get("steps", 100), together=True
    )
    study.conclude(report(study), lambda: draw(study), check)


def check(study):
    """What is proved: the sine's directions, and nothing above its bound."""
    for run, result in study.results:
        if run["part"] == "directions":
            expected = cosine_of_sine(DISTANCES, run["frequency"])
            np.testing.assert_allclose(result["cosines"]["sine"], expected, atol=0.01)
        if run["part"] == "finite":
            # At most delta, and three standard errors of the share.
            spread = np.sqrt(DELTA * (1 - DELTA) / run["trials"])
            assert result["exceeded"] <= DELTA + 3 * spread, (run, result)
    for loss, (*_, constant, _) in LOSSES.items():
        for name in DIRECTIONS:
            ratio, cosine = of_gal(study, loss, name)
            assert (ratio <= constant / 2 * (1 + 1e-6)).all(), ratio.max()
            # `cosine` is the largest of 65 points on the way.
            assert (ratio <= constant / 2 * cosine * (1 + 1e-3)).all()
            if loss == "mean squared error":
                np.testing.assert_allclose(ratio, constant / 2, rtol=1e-6)


if __name__ == "__main__":
    main()
