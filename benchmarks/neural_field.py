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

import numpy as np

from benchmarks import rounds
from benchmarks.fields import (
    DRAWN,
    GROUPS,
    MORE,
    SAME_TIME,
    VARIANTS,
    image,
    measure,
    train,
)
from benchmarks.study import Study, holm, p_value, pyplot, statistics, table

SETTINGS = {
    "images": ["camera", "coffee", "grass", "text"],
    "crop": 256,
    "size": 64,
    "units": 32,
    "blocks": 2,
    "steps": 1000,
    "batch": 128,
}
TUNING_SEED = 1000
BUDGETS = {
    "smoke": {
        "seeds": 2,
        "timing": {"rounds": 1, "timed_steps": 1},
        "tuned_on": ["camera"],
        "rates": [1e-2, 2e-2],
        "rates_of_sine": [5e-3],
        "variants": ["tanh: identity", "tanh: gain"],
        **SETTINGS,
        "images": ["camera"],
        "size": 24,
        "units": 16,
        "blocks": 1,
        "steps": 100,
        "batch": 96,
    },
    "cpu": {
        "seeds": 8,
        "timing": {"rounds": 15, "timed_steps": 100},
        "tuned_on": ["camera", "text"],
        "rates": [1e-2, 2e-2, 4e-2, 8e-2],
        "rates_of_sine": [1.25e-3, 2.5e-3, 5e-3],
        "variants": list(VARIANTS),
        **SETTINGS,
    },
    # As SIREN's authors have it: three hidden layers of 256 after the first.
    "gpu": {
        "seeds": 5,
        "timing": {"rounds": 15, "timed_steps": 100},
        "tuned_on": ["camera"],
        "rates": [3e-4, 1e-3, 3e-3, 1e-2],
        "rates_of_sine": [1e-4, 3e-4, 1e-3],
        "variants": list(VARIANTS),
        **SETTINGS,
        "images": ["camera"],
        "crop": 512,
        "size": 512,
        "units": 256,
        "blocks": 3,
        "steps": 15_000,
        "batch": 16_384,
    },
}


def make_runs(study, variants, seeds, rates, **others):
    """`rates` is a function of the variant."""
    settings = {name: study.settings[name] for name in SETTINGS} | others
    return [
        {"variant": variant, "seed": seed, "rates": rates(variant)} | settings
        for variant in variants
        for seed in seeds
    ]


def best_rates(study):
    """For each variant the rate with the best mean over the images."""
    found = {}
    for run, result in study.results:
        means = np.mean(np.nan_to_num(result["psnr"], nan=-np.inf), axis=0)
        found[run["variant"]] = run["rates"][np.argmax(means)]
    return found


def ratios(study, baseline=None):
    """The time of a step in units of that of the baseline, by default of the first."""
    seconds = study.seconds
    base = seconds[baseline or study.settings["variants"][0]]
    return {variant: rounds.ratio(times, base) for variant, times in seconds.items()}


def psnr(study, variant):
    """Of each seed and image, `(seeds, images)`."""
    return study.of(lambda result: np.mean(result["psnr"], -1), variant=variant)


def baselines(study, variant):
    """Identity of the same size, and of the same time; None where there is none."""
    group, skip, _ = VARIANTS[variant]
    names = [f"{group}: identity{MORE[more]}" for more in (0, SAME_TIME[group])]
    known = study.settings["variants"]
    return [n if n in known and skip != "identity" else None for n in names]


def report(study):
    settings = study.settings
    compared, p_values = {}, []
    for variant in settings["variants"]:
        for i, baseline in enumerate(baselines(study, variant)):
            if baseline is not None:
                values = psnr(study, variant).ravel(), psnr(study, baseline).ravel()
                *_, difference, p = statistics(*values)
                compared[variant, i] = difference
                p_values.append(p)
    corrected = dict(zip(compared, holm(p_values), strict=True))
    rows, of_images = [], []
    for variant in settings["variants"]:
        values = psnr(study, variant)
        identity = f"{VARIANTS[variant][0]}: identity"
        known = identity in settings["variants"]
        time = ratios(study, identity if known else variant)[variant]
        cells = [variant, study.parameters[variant], f"{time:.2f}"]
        cells += [f"{study.rates[variant]:g}", f"{values.mean():.2f}"]
        for i in range(2):
            if (variant, i) in compared:
                p = p_value(corrected[variant, i])
                cells += [f"{compared[variant, i]:+.2f}", p]
            else:
                cells += ["", ""]
        rows.append(cells)
        of_images.append([variant, *(f"{x:.2f}" for x in values.mean(0))])
    header = ["", "parameters", "time", "rate", "PSNR", "same parameters", "p"]
    header += ["same time", "p"]
    return (
        f"{settings['size']} x {settings['size']} pixels; {settings['blocks']} "
        f"block(s) of {settings['units']} units; {settings['steps']} steps of "
        f"{settings['batch']} pixels; {len(study.seeds)} seeds\n\n"
        f"{table(header, rows)}\n\n"
        "PSNR: in dB at the pixels that were held out, the mean over images and seeds. "
        "same parameters: less that of identity with the same number of blocks. "
        "same time: less that of identity with two blocks more (with Fourier features "
        "and sine one more). p: the t-test, paired by image and seed, after Holm's "
        "correction for all that are shown. time: of a training step, in units of "
        "identity with the same number of blocks.\n\n"
        f"PSNR by image\n\n{table(['', *settings['images']], of_images)}"
    )


def front(x, y):
    """The points that no other beats in both, from left to right."""
    order = sorted(range(len(x)), key=lambda i: (x[i], -y[i]))
    found = []
    for i in order:
        if not found or y[i] > y[found[-1]]:
            found.append(i)
    return found


def draw(study):
    plt = pyplot()
    variants, names = study.settings["variants"], study.settings["images"]
    figure = plt.figure(figsize=(15, 6 + 2.6 * len(names)), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[6, 2.6 * len(names)])
    relative = ratios(study)
    y = [psnr(study, variant).mean() for variant in variants]
    axes = top.subplots(1, 2, sharey=True)
    for axis, label, x in (
        (axes[0], "parameters", [study.parameters[v] for v in variants]),
        (
            axes[1],
            f"time of a step, {variants[0]} = 1",
            [relative[v] for v in variants],
        ),
    ):
        for variant, a, b in zip(variants, x, y, strict=True):
            group, skip, more = VARIANTS[variant]
            marker = {"identity": "o", "convex": "s", "gain": "^"}.get(skip, "*")
            color = f"C{GROUPS.index(group)}"
            axis.scatter(a, b, 70 + 60 * more, color, marker=marker, alpha=0.8)
            if skip in ("SIREN", "FINER"):
                axis.annotate(skip, (a, b), (6, -4), textcoords="offset points")
        best = front(x, y)
        axis.plot(np.take(x, best), np.take(y, best), "k--", linewidth=1)
        axis.set(xlabel=label, ylabel="PSNR at held-out pixels, dB")
    for i, group in enumerate(GROUPS):
        axes[0].scatter([], [], 70, f"C{i}", label=group)
    for skip, marker in (("identity", "o"), ("convex", "s"), ("gain", "^")):
        axes[0].scatter([], [], 70, "grey", marker=marker, label=skip)
    axes[0].plot([], [], "k--", label="Pareto front")
    axes[0].legend(fontsize=8, title="larger: one block more, and two")
    shown = [v for v in DRAWN if v in variants]
    size, crop = study.settings["size"], study.settings["crop"]
    grid = bottom.subplots(len(names), 1 + len(shown), squeeze=False)
    for row, name in zip(grid, names, strict=True):
        row[0].imshow(image(name, crop, size))
        row[0].set_title(f"{name}, {size} x {size}", fontsize=9)
        for axis, variant in zip(row[1:], shown, strict=True):
            results = [
                result
                for run, result in study.results
                if (run["variant"], run["seed"]) == (variant, 0) and name in result
            ]
            for result in results:
                colors = np.reshape(result[name], (size, size, 3)).astype("uint8")
                db = np.mean(result["psnr"][names.index(name)])
                axis.imshow(colors)
                axis.set_title(f"{variant}, {db:.1f} dB", fontsize=9)
        for axis in row:
            axis.axis("off")
    study.save(figure)


def main():
    study = Study(__doc__, BUDGETS)

    def run(runs, function=train):
        def cost(run):
            return run["steps"] * len(run["rates"]) * len(run["images"])

        study.run(runs, function, cost=cost, together=True)

    def rates(variant):
        sine = VARIANTS[variant][0] == "sine"
        return study.settings["rates_of_sine" if sine else "rates"]

    study.rates, results = {}, []
    for group in GROUPS:  # One after the other: what is there of it can be shown.
        chosen = [v for v in study.settings["variants"] if VARIANTS[v][0] == group]
        tuned_on = study.settings["tuned_on"]
        run(make_runs(study, chosen, [TUNING_SEED], rates, images=tuned_on))
        study.rates |= best_rates(study)
        run(make_runs(study, chosen, study.seeds, lambda v: [study.rates[v]]))
        results += study.results
    timing = {"variants": study.settings["variants"]} | study.settings["timing"]
    timed = make_runs(study, ["time"], [0], lambda variant: [])[0]
    run([timed | timing], measure)
    study.seconds = study.results[0][1]["seconds"]
    study.results = results
    study.parameters = {r["variant"]: found["parameters"] for r, found in results}
    study.conclude(report(study), lambda: draw(study), check)


def check(study):
    """That the networks learn, and that the gain is another training."""
    (name,) = study.settings["images"]
    pixels = image(name, study.settings["crop"], study.settings["size"])
    constant = -10 * np.log10(np.var(pixels))
    for run, result in study.results:
        assert np.mean(result["psnr"]) > constant + 1, (run, result, constant)
    same = psnr(study, "tanh: identity") - psnr(study, "tanh: gain")
    assert (np.abs(same) > 1e-3).all(), same
    # A number for each feature of each block.
    more = study.settings["units"] * study.settings["blocks"]
    parameters = study.parameters
    assert parameters["tanh: gain"] == parameters["tanh: identity"] + more, parameters


if __name__ == "__main__":
    main()
