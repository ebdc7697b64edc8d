"""The curves of a study: means over the seeds, by how far the training is."""

import dataclasses
from collections.abc import Callable

import numpy as np


def pyplot():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


@dataclasses.dataclass(frozen=True)
class Panel:
    """One set of axes.

    Attributes:
        title: What is drawn.
        measure: A curve of a result: the name of its entry, or a function.
        log: Whether the vertical axis is logarithmic.
        band: "error" for a band of one standard error, "quartiles" for the median and
            the quartiles in the place of the mean, or None.
    """

    title: str
    measure: str | Callable
    log: bool = False
    band: str | None = None


def curve(axis, study, panel, variant, where, **style):
    """Draws a variant; nothing where its results have no such curve."""

    def read(result):
        measure = panel.measure
        return measure(result) if callable(measure) else result.get(measure, ())

    curves = study.of(read, variant=variant, **where).astype("float64")
    if not curves.size:
        return
    length = next(
        study.length(run)
        for run, _ in study.results
        if {**where, "variant": variant}.items() <= run.items()
    )
    x = length * np.arange(1, 1 + curves.shape[1]) / curves.shape[1]
    middle = curves.mean(0)
    if panel.band == "quartiles":
        low, middle, high = np.quantile(curves, (0.25, 0.5, 0.75), axis=0)
    elif panel.band == "error":
        error = curves.std(0) / np.sqrt(len(curves))
        low, high = middle - error, middle + error
    (line,) = axis.plot(x, middle, **{"label": variant, **style})
    if panel.band:
        axis.fill_between(x, low, high, alpha=0.2, color=line.get_color())


def panel_of(axis, study, panel, group):
    """All variants of a group in one set of axes."""
    for i, variant in enumerate(study.variants_of(group)):
        curve(axis, study, panel, variant, group, **study.style(variant, i))
    title = f"{study.heading(group)}\n{panel.title}" if group else panel.title
    axis.set(title=title, xlabel=study.cost, yscale="log" if panel.log else "linear")


def show(axis, image, title):
    axis.imshow(image, interpolation="nearest")
    axis.set_title(title, fontsize=9)
    axis.axis("off")


def figure_of(study, panels, groups):
    """A row for each panel and a column for each group; one group has one row."""
    plt = pyplot()
    rows, columns = (len(panels), len(groups)) if len(groups) > 1 else (1, len(panels))
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(6.5 * columns, 5 * rows),
        layout="constrained",
        squeeze=False,
    )
    pairs = [(panel, group) for panel in panels for group in groups]
    for axis, (panel, group) in zip(axes.ravel(), pairs, strict=True):
        panel_of(axis, study, panel, group)
    most = max(axes[0, ::-1], key=lambda axis: len(axis.lines))
    most.legend(fontsize=8)
    return figure
