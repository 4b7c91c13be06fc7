"""An ablation as a figure of four panels: curves with intervals over one axis, heatmaps over two."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.report.style import COLORS, TEXT_WIDTH, new_figure, styled
from evaluation.statistics import Measure
from experiments.paper.ablation_quantities import any_measured, compared_quantities
from experiments.paper.ablation_records import Point, sort_key, value_label
from experiments.paper.quantities import Quantity

PANELS = 4
LOG_FROM = 8  # an axis whose values span this factor is drawn in powers of two


@styled
def ablation_figure(points: Sequence[Point]) -> Figure:
    """Target effect, interference, distance and CLIP shift of the points; points that failed are left blank.

    Args:
        points: of one ablation, at least one.
    """
    setting, first = points[0].record.setting, any_measured(points)
    quantities = compared_quantities(setting, first)[:PANELS] if first else []
    draw = draw_curve if len(setting.axes) == 1 else draw_heatmap
    figure = new_figure(TEXT_WIDTH, 0.8 * TEXT_WIDTH)
    figure.suptitle(f"{setting.title}: slider '{setting.concept}'")
    for panel, quantity in zip_longest(figure.subplots(2, 2).ravel(), quantities):
        if quantity is None:
            panel.set_axis_off()
        else:
            draw(panel, quantity, points)
            panel.set_title(quantity.column.name)
    return figure


def draw_curve(panel: Axes, quantity: Quantity, points: Sequence[Point]) -> None:
    """A figure against the one axis, with its 95 % interval; points of an axis of words are not joined."""
    ((key, label),) = points[0].record.setting.axes.items()
    values = [point.record.point[key] for point in points]
    numeric = all(isinstance(value, int | float) for value in values)
    places = [float(value) for value in values] if numeric else [float(i) for i in range(len(values))]
    found = [(x, quantity.measure(p.measurements)) for x, p in zip(places, points, strict=True) if p.measurements]
    means = np.array([measure.mean for _, measure in found])
    spread = np.array([distances_to_ends(measure) for _, measure in found]).T
    line = "o-" if numeric else "o"
    panel.errorbar([x for x, _ in found], means, yerr=spread, fmt=line, capsize=3, color=COLORS[0])
    if numeric and min(places) > 0 and max(places) >= LOG_FROM * min(places):
        panel.set_xscale("log", base=2)
    panel.set_xticks(places, [value_label(value) for value in values])
    panel.set_xticks([], minor=True)
    panel.set_xlabel(label)


def distances_to_ends(measure: Measure) -> tuple[float, float]:
    """How far the ends of the interval lie below and above the figure; 0 where the figure lies outside."""
    low, high = measure.ci95
    return max(measure.mean - low, 0.0), max(high - measure.mean, 0.0)


def draw_heatmap(panel: Axes, quantity: Quantity, points: Sequence[Point]) -> None:
    """A figure over both axes, every cell with its 95 % interval."""
    (first, row_label), (second, column_label) = points[0].record.setting.axes.items()
    row_labels, column_labels = (axis_values(points, key) for key in (first, second))
    rows, columns = list(row_labels), list(column_labels)
    cells = {
        (str(point.record.point[first]), str(point.record.point[second])): quantity.measure(found)
        for point in points
        if (found := point.measurements)
    }
    means = np.array(
        [[cells[row, column].mean if (row, column) in cells else np.nan for column in columns] for row in rows]
    )
    panel.grid(visible=False)
    panel.imshow(means, cmap="Blues", aspect="auto")
    middle = (np.nanmin(means) + np.nanmax(means)) / 2
    for (row, column), measure in cells.items():
        color = "white" if measure.mean > middle else "black"
        text = cell_text(measure, quantity.column.digits)
        panel.text(columns.index(column), rows.index(row), text, ha="center", va="center", color=color)
    panel.set_xticks(range(len(columns)), list(column_labels.values()))
    panel.set_yticks(range(len(rows)), list(row_labels.values()))
    panel.set_xlabel(column_label)
    panel.set_ylabel(row_label)


def axis_values(points: Sequence[Point], key: str) -> dict[str, str]:
    """The values of an axis as text, in order, with how they are written: two lists of one length are written alike."""
    values = sorted((point.record.point[key] for point in points), key=sort_key)
    return {str(value): value_label(value) for value in values}


def cell_text(measure: Measure, digits: int) -> str:
    """The figure above its interval."""
    low, high = measure.ci95
    return f"{measure.mean:.{digits}f}\n[{low:.{digits}f}, {high:.{digits}f}]"
