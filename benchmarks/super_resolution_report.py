"""The tables, the curves and the parts of pictures that `super_resolution` shows."""

import numpy as np
from PIL import Image

from benchmarks import data, images
from benchmarks.study import compared, pyplot, table

SCALE = 2
BASELINE = "identity"
CROP = 64


def final(curve):
    """The mean of the last quarter."""
    return np.mean(curve[-max(1, len(curve) // 4) :])


def report(study, test):
    bicubic = {
        name: [
            np.mean([measure(interpolated(p), p, SCALE) for p in pictures])
            for measure in (images.psnr, images.ssim)
        ]
        for name, pictures in test.items()
    }
    header = ["", "PSNR, final", "difference", "p", "best", "SSIM, final", "difference"]
    parts = []
    for model, variants in study.settings["models"].items():
        for name in test:
            rows = [["bicubic", f"{bicubic[name][0]:.2f}", *[""] * 3]]
            rows[0] += [f"{bicubic[name][1]:.4f}", ""]
            for variant in variants:
                psnr, best, ssim, base, base_ssim = (
                    study.of(
                        lambda result: reduce(result[measure][name]),  # noqa: B023
                        model=model,
                        variant=v,
                    )
                    for measure, reduce, v in (
                        ("psnr", final, variant),
                        ("psnr", np.max, variant),
                        ("ssim", final, variant),
                        ("psnr", final, BASELINE),
                        ("ssim", final, BASELINE),
                    )
                )
                mean, difference, _ = compared(ssim, base_ssim, 4)
                cells = [*compared(psnr, base, 3), f"{best.mean():.3f}"]
                rows.append([variant, *cells, mean, difference])
            parts.append(f"{model} x{SCALE}, {name} images\n\n{table(header, rows)}")
    mixes = "\n".join(
        f"- {run['model']}, {run['variant']}: "
        + ", ".join(f"{mix:.3f}" for mix in result["mix"])
        for run, result in study.results
        if run["seed"] == 0 and "convex" in run["variant"]
    )
    parts.append(f"sigmoid(alpha) of the blocks after training, seed 0:\n\n{mixes}")
    parts.append(
        f"{len(study.seeds)} seeds; ± is the standard error, p that of the paired "
        "t-test against identity, not corrected for the number of rows."
    )
    return "\n\n".join(parts)


def interpolated(picture):
    return images.enlarged(images.reduced(picture, SCALE), SCALE)


def save_crop(image, path):
    path.parent.mkdir(exist_ok=True)
    i, j = ((size - CROP) // 2 for size in image.shape[:2])
    Image.fromarray(image[i : i + CROP, j : j + CROP]).save(path)


def crop_path(study, model, variant):
    return study.out / "crops" / f"{model} {variant}.png"


def draw(study, test):
    plt = pyplot()
    name, pictures = next(iter(test.items()))
    picture = pictures[len(pictures) // 2]
    truth, bicubic = (study.out / "crops" / f"{n}.png" for n in ("truth", "bicubic"))
    save_crop(picture, truth)
    save_crop(interpolated(picture), bicubic)
    for model, variants in study.settings["models"].items():
        paths = {"truth": truth, "bicubic": bicubic} | {
            v: crop_path(study, model, v) for v in variants
        }
        columns = -(-len(paths) // 2)
        figure = plt.figure(figsize=(2.6 * columns, 9), layout="constrained")
        top, bottom = figure.subfigures(2, 1, height_ratios=(3, 2))
        axes = top.subplots(2, columns).ravel()
        for axis in axes:
            axis.axis("off")
        for axis, (title, path) in zip(axes, paths.items(), strict=False):
            axis.imshow(data.read_image(path), interpolation="nearest")
            axis.set_title(title, fontsize=9)
        top.suptitle(f"{model} x{SCALE}, the middle of a picture of {name}, seed 0")
        for axis, set_ in zip(
            np.ravel(bottom.subplots(1, len(test))), test, strict=True
        ):
            for variant in variants:
                curves, steps = (
                    study.of(read, model=model, variant=variant).mean(0)
                    for read in (
                        lambda result: result["psnr"][set_],  # noqa: B023
                        lambda result: result["steps"],
                    )
                )
                axis.plot(steps, curves, ".-", label=variant)
            axis.set(title=f"{set_} images: PSNR, dB", xlabel="steps")
        bottom.legend(
            *axis.get_legend_handles_labels(), loc="outside right center", fontsize=8
        )
        study.save(figure, "" if model == "SEDSR" else f"_{model}")
