"""Does the gradient residual sharpen super-resolution?

Trains SEDSR, EDSR and SRResNet with different skips on patches of T91 (with the `gpu`
budget DIV2K, where it is there), and doubles the resolution of Set5, Set14, BSD100 and,
where it is there, Urban100. PSNR in dB and SSIM, of the luminance, without 2 pixels
at each edge. "final" is the mean of the last quarter of the evaluations, "best" the
best of all, as the paper reports them.

The skips with and without the identity and the gradient are four corners of a square,
which tells apart what each of the two does:

    none: F        identity: F + x        gradient: F + g        additive: F + x + g

`--sweep` looks at what the paper leaves open, with a third of the steps: the size of
the patches, and the range of colors within the network, with which the features grow
and a gradient of unit norm does not.

    python -m benchmarks.super_resolution --budget cpu --data FOLDER
    python -m benchmarks.super_resolution --budget cpu --data FOLDER --sweep
"""

import functools

import keras
import numpy as np

from benchmarks import data, images, upscaling
from benchmarks.curves import Panel, panel_of, pyplot, show
from benchmarks.study import Study
from benchmarks.tables import Compared, Value
from benchmarks.upscaling import SCALE
from keras_gradres import models
from keras_gradres.layers import GradientResidual

BASELINE = "identity"
BATCH = 16
CHUNK = 50  # Steps whose patches are in memory.
LEARNING_RATE = 1e-3
# In units of a step of SEDSR.
COSTS = {"SEDSR": 1, "EDSR": 15, "SRResNet": 16}


def final(name):
    """The mean of the last quarter of a curve."""

    def measure(result):
        curve = result[name]
        return np.mean(curve[-max(1, len(curve) // 4) :])

    return measure


PSNR = Compared("PSNR, final", final("psnr"), 3)
BEST = Value("best", lambda result: np.max(result["psnr"]), 3)


class SuperResolution(Study):
    variants = {
        BASELINE: {"residual": "identity"},
        "none": {"residual": "none"},
        "scaled": {"residual": "scaled"},
        "gradient": {"residual": "gradient"},
        "additive": {"residual": "additive"},
        "convex, alpha -3": {"residual": "convex", "alpha": -3.0},
        "convex, alpha 0": {"residual": "convex", "alpha": 0.0},
        "convex, alpha 3": {"residual": "convex", "alpha": 3.0},
        "convex, alpha -3, whole sample": {"residual": "convex", "alpha": -3.0}
        | {"axis": None},
    }
    baseline = against = BASELINE
    # The steps of each model; the variants, where they are not all; of each set how
    # many pictures, the first ones.
    budgets = {
        # EDSR is SEDSR with other sizes, and compiling takes most of the time.
        "smoke": {"seeds": 1, "steps": {"SEDSR": 24, "SRResNet": 24}, "evaluations": 4}
        | {"few": {"SEDSR": [BASELINE, "convex, alpha -3"], "SRResNet": [BASELINE]}}
        | {"sizes": {"blocks": 1, "filters": 8}, "patch": 12},
        "cpu": {"seeds": 3, "steps": {"SEDSR": 3000}, "evaluations": 8, "patch": 24}
        | {"sets": {"set5": 5, "set14": 14, "bsd100": 20}},
        # The schedule of EDSR; the paper's is not known to us.
        "gpu": {"seeds": 5, "evaluations": 40, "patch": 48}
        | {"steps": {"SEDSR": 100_000, "EDSR": 300_000, "SRResNet": 300_000}}
        | {"sets": {"set5": 5, "set14": 14, "bsd100": 100, "urban100": 100}},
    }
    has_data = True
    swept = (
        {"patch": 24, "rgb_range": 1.0},
        {"patch": 12, "rgb_range": 1.0},
        {"patch": 24, "rgb_range": 255.0},
    )
    sweep_columns = (PSNR,)
    compared = (BASELINE, "none", "convex, alpha -3", "convex, alpha 3")
    columns = (PSNR, BEST, Compared("SSIM, final", final("ssim"), 4))
    panel = Panel("PSNR, dB", "psnr")

    def load(self):
        """The test pictures of each set."""
        if self.budget == "smoke":
            pictures, test = upscaling.photograph()
        else:
            sets = list(self.settings["sets"].items())
            sets = dict(sets[:1] if self.sweep else sets)
            pictures, test = upscaling.load(self.folder, sets, self.budget == "gpu")
        self.patches = functools.cache(lambda size: upscaling.Patches(pictures, size))
        return test

    def groups(self):
        """What is trained, on which set it is tested."""
        steps, patch = self.settings["steps"], {"patch": self.settings["patch"]}
        trained = [{"model": m, "steps": steps[m], **patch} for m in steps]
        if self.sweep:
            third = {"model": "SEDSR", "steps": steps["SEDSR"] // 3}
            trained = [{**third, **swept} for swept in self.swept]
        return [{**group, "set": name} for group in trained for name in self.parts]

    def variants_of(self, group):
        if self.sweep:
            return self.compared
        few = self.settings.get("few", {})
        return few.get(group["model"], list(self.variants))

    def settings_of(self, variant):
        return {"scale": SCALE, "batch": BATCH, **self.settings.get("sizes", {})}

    def runs(self):
        """A run is tested on all sets."""
        return [{k: run[k] for k in run if k != "set"} for run in super().runs()]

    def train_all(self):
        """Trains, and tells the results on each set apart."""
        self.execute(
            self.runs(),
            self.train_seeds,
            lambda run: run["steps"] * COSTS[run["model"]],
        )
        self.results = [
            ({**run, "set": name}, {**result, **of_set})
            for run, result in self.results
            for name in self.parts
            for of_set in [{m: result[m][name] for m in ("psnr", "ssim")}]
        ]

    def train(self, run, bar):
        keras.utils.set_random_seed(run["seed"])
        sizes = {k: run[k] for k in ("blocks", "filters", "rgb_range") if k in run}
        make = getattr(models, run["model"])
        model = make(SCALE, **{**sizes, **self.variants[run["variant"]]})
        schedule = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, run["steps"])
        model.compile(keras.optimizers.Adam(schedule), "mae")
        rng = np.random.default_rng(run["seed"])
        evaluations = self.settings["evaluations"]
        result = {"loss": [], "steps": []}
        result |= {m: {name: [] for name in self.parts} for m in ("psnr", "ssim")}
        upscale = functools.partial(upscaling.upscaled, model)
        done = 0
        for evaluation in range(1, evaluations + 1):
            until = run["steps"] * evaluation // evaluations
            while done < until:
                steps = min(CHUNK, until - done)
                x, y = self.patches(run["patch"]).draw(steps * BATCH, rng)
                history = model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
                done += steps
                bar.update(steps * COSTS[run["model"]])
            result["loss"].append(history.history["loss"][-1])
            result["steps"].append(done)
            for name, pictures in self.parts.items():
                psnr, ssim = upscaling.evaluate(upscale, pictures)
                result["psnr"][name].append(psnr)
                result["ssim"][name].append(ssim)
        if run["seed"] == 0:
            self.save_crop(upscale, self.crop_path(run["model"], run["variant"]))
        blocks = [m for m in model.layers if isinstance(m, GradientResidual)]
        return {**result, "mix": [block.mix for block in blocks]}

    def crop_path(self, model, variant):
        return self.out / "crops" / f"{model} {variant}.png"

    def save_crop(self, upscale, path):
        """The middle of a picture of the first set."""
        pictures = next(iter(self.parts.values()))
        small = images.reduced(pictures[len(pictures) // 2], SCALE)
        upscaling.save_crop(upscale(small), path)

    def heading(self, group):
        return f"{group['model']} x{SCALE}, {group['set']} images"

    def remark(self, group):
        psnr, ssim = upscaling.evaluate(upscaling.bicubic, self.parts[group["set"]])
        return f"{group['steps']} steps; bicubic: PSNR {psnr:.2f}, SSIM {ssim:.4f}"

    def footnote(self):
        first = next(iter(self.parts))
        mixes = [
            f"- {run['model']}, {run['variant']}: "
            + ", ".join(f"{mix:.3f}" for mix in result["mix"])
            for run, result in self.results
            if (run["seed"], run["set"]) == (0, first) and "convex" in run["variant"]
        ]
        text = f"{len(self.seeds)} seeds; {super().footnote()}"
        if mixes:
            mixes = "\n".join(mixes)
            text += (
                f"\n\nsigmoid(alpha) of the blocks after training, seed 0:\n\n{mixes}"
            )
        return text

    def style(self, variant, i):
        return {"marker": "."}

    def draw(self):
        name, pictures = next(iter(self.parts.items()))
        picture = pictures[len(pictures) // 2]
        truth, bicubic = (self.out / "crops" / f"{n}.png" for n in ("truth", "bicubic"))
        upscaling.save_crop(picture, truth)
        self.save_crop(upscaling.bicubic, bicubic)
        for model in self.settings["steps"]:
            groups = [group for group in self.groups() if group["model"] == model]
            paths = {"truth": truth, "bicubic": bicubic}
            for variant in self.variants_of(groups[0]):
                paths[variant] = self.crop_path(model, variant)
            columns = -(-len(paths) // 2)
            figure = pyplot().figure(figsize=(2.6 * columns, 9), layout="constrained")
            top, bottom = figure.subfigures(2, 1, height_ratios=(3, 2))
            axes = top.subplots(2, columns).ravel()
            axes[-1].axis("off")  # There may be one more than pictures.
            for axis, (title, path) in zip(axes, paths.items(), strict=False):
                show(axis, data.read_image(path), title)
            top.suptitle(f"{model} x{SCALE}, the middle of a picture of {name}, seed 0")
            axes = bottom.subplots(1, len(groups), squeeze=False)[0]
            for axis, group in zip(axes, groups, strict=True):
                panel_of(axis, self, self.panel, group)
            handles = axes[0].get_legend_handles_labels()
            bottom.legend(*handles, loc="outside right center", fontsize=8)
            self.save(figure, "" if model == "SEDSR" else f"_{model}")


if __name__ == "__main__":
    SuperResolution.main()
