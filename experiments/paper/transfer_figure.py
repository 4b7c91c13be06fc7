"""The effects of the slider against those of the StyleGAN's move: one point per attribute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.measurements import Measurements
from evaluation.report.style import COLORS, GREY, TEXT_WIDTH, new_figure, styled, zero_lines
from evaluation.statistics import Measure
from experiments.paper.transfer_tables import by_prompts
from experiments.paper.transfer_vectors import effect_rows, pearson, similarity

PANELS_PER_ROW = 4
# Points near the origin would hide under their names.
NAMED, FAR = 4, 0.2


@styled
def transfer_figure(gan: Measurements, slider: Measurements, target: str | None) -> Figure:
    """One panel for all prompts and one per noun, with 95 % intervals; a line where the two would be equal.

    Args:
        gan: of the generator's faces.
        slider: of the slider's images.
        target: the attribute that should move, drawn in colour and left out of r; None where the classifier does not
            read it.
    """
    reference = effect_rows(gan)
    parts = by_prompts(slider)
    columns = min(len(parts), PANELS_PER_ROW)
    lines = -(-len(parts) // columns)
    figure = new_figure(max(3.4, TEXT_WIDTH * columns / PANELS_PER_ROW), 0.4 + 2.1 * lines)
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for axes, (name, found) in zip(grid.flat, parts.items(), strict=False):
        rows = effect_rows(found)
        _draw(axes, reference.measures(), rows.measures(), target)
        likeness = similarity(reference.without(target), rows.without(target), pearson)
        axes.set_title(f"{name},\nr = {_interval(likeness)}", fontsize=7.5)
    for axes in list(grid.flat)[len(parts) :]:
        axes.set_axis_off()
    named = "; r: without the target" if target else ""
    figure.supxlabel(f"effect of the StyleGAN's move (standard deviations per unit of scale{named})", fontsize=8)
    figure.supylabel("effect of the slider", fontsize=8)
    return figure


def _draw(axes: Axes, gan: Mapping[str, Measure], slider: Mapping[str, Measure], target: str | None) -> None:
    zero_lines(axes)
    axes.margins(0.15)
    own = (target or "").partition("=")[0]
    for entry, x in gan.items():
        y = slider[entry]
        color = COLORS[1] if entry.partition("=")[0] == own else COLORS[0]
        axes.errorbar(
            x.mean, y.mean, xerr=_ends(x), yerr=_ends(y),
            fmt="o", markersize=3.5, color=color, ecolor=GREY, elinewidth=0.7,
        )  # fmt: skip
    axes.axline((0, 0), slope=1, color=GREY, linewidth=0.8, linestyle=(0, (4, 2)), zorder=0.6)
    for entry in _furthest(gan, slider):
        place = gan[entry].mean, slider[entry].mean
        text = entry.replace("_", " ")
        axes.annotate(text, place, xytext=(4, 4), textcoords="offset points", fontsize=6, color="#404040")


def _furthest(gan: Mapping[str, Measure], slider: Mapping[str, Measure]) -> Sequence[str]:
    lengths = {entry: float(np.hypot(x.mean, slider[entry].mean)) for entry, x in gan.items()}
    far = [entry for entry, length in lengths.items() if length > FAR * max(lengths.values())]
    return sorted(far, key=lambda entry: -lengths[entry])[:NAMED]


def _ends(measure: Measure) -> list[list[float]]:
    low, high = measure.ci95
    return [[max(measure.mean - low, 0.0)], [max(high - measure.mean, 0.0)]]


def _interval(measure: Measure) -> str:
    return f"{measure.mean:.2f} [{measure.ci95[0]:.2f}, {measure.ci95[1]:.2f}]".replace("-", "−")
