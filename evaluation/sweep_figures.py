"""A sweep as figures: heat maps over every pair of axes, a curve over one axis, and the trade-off of its points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from math import prod

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.report.style import COLORS, GREY, TEXT_WIDTH, new_figure, styled
from evaluation.statistics import Measure
from evaluation.sweep_points import Point, Value, sort_key, value_label
from evaluation.sweep_report import INTERFERENCE, TARGET_SHIFT, has_both, pareto_front, quantities

LEAST_SHARE = 0.5  # of the cells of a grid that are points; a search at random has no grid to draw


def sweep_figures(points: Sequence[Point]) -> dict[str, Figure]:
    """All figures of a sweep by the names of their files; those that need figures of points are left out without.

    Args:
        points: at least one.
    """
    if not any(point.figures for point in points):
        return {}
    axes = list(points[0].values)
    figures = {"trade_off": trade_off_figure(points)} if any(has_both(quantities(p)) for p in points) else {}
    if len(axes) == 1:
        figures["curve"] = curve_figure(points, axes[0])
    if len(axes) > 1 and len(points) >= LEAST_SHARE * prod(len(axis_values(points, axis)) for axis in axes):
        for first, second in combinations(axes, 2):
            figures[f"heatmap-{first}-{second}"] = heatmap_figure(points, first, second)
    return figures


def axis_values(points: Sequence[Point], axis: str) -> list[Value]:
    """The values of an axis in order."""
    return sorted({point.values[axis] for point in points}, key=sort_key)


def names_of(points: Sequence[Point]) -> list[str]:
    """The headings of all figures that any point has."""
    return list(dict.fromkeys(name for point in points for name in quantities(point)))


@styled
def curve_figure(points: Sequence[Point], axis: str) -> Figure:
    """One panel per quantity over one axis, with 95 % intervals; values of words stand side by side."""
    names, values = names_of(points), axis_values(points, axis)
    figure = new_figure(TEXT_WIDTH, 0.35 * TEXT_WIDTH * -(-len(names) // 3))
    panels = figure.subplots(-(-len(names) // 3), 3, squeeze=False).ravel()
    for panel, name in zip(panels, names, strict=False):
        found = [(values.index(p.values[axis]), q[name]) for p in points if name in (q := quantities(p))]
        means = [measure.mean for _, measure in found]
        spread = np.array([ends(measure) for _, measure in found]).T
        panel.errorbar([x for x, _ in found], means, yerr=spread, fmt="o-", capsize=3, color=COLORS[0])
        panel.set_xticks(range(len(values)), [value_label(value) for value in values])
        panel.set_xlabel(axis)
        panel.set_title(name)
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    return figure


def ends(measure: Measure) -> tuple[float, float]:
    """How far the ends of the interval lie below and above the figure; 0 where the figure lies outside."""
    low, high = measure.ci95
    return max(measure.mean - low, 0.0), max(high - measure.mean, 0.0)


@styled
def heatmap_figure(points: Sequence[Point], first: str, second: str) -> Figure:
    """One row of panels per quantity, one panel in it per combination of the values of all other axes.

    Args:
        points: at least one with figures.
        first: axis of a panel's rows.
        second: axis of a panel's columns.
    """
    others = [axis for axis in points[0].values if axis not in (first, second)]
    slices = [dict(zip(others, each, strict=True)) for each in product(*(axis_values(points, o) for o in others))]
    names = names_of(points)
    width = max(TEXT_WIDTH / 2, 2.6 * len(slices))
    figure = new_figure(width, 2.1 * len(names))
    grid = figure.subplots(len(names), len(slices), squeeze=False)
    for line, name in zip(grid, names, strict=True):
        every = [q[name].mean for p in points if name in (q := quantities(p))]
        for panel, where in zip(line, slices, strict=True):
            inside = [p for p in points if all(p.values[axis] == value for axis, value in where.items())]
            draw_heatmap(panel, inside, name, {axis: axis_values(points, axis) for axis in (first, second)}, every)
            title = ", ".join(f"{axis} = {value_label(value)}" for axis, value in where.items())
            panel.set_title(f"{name}: {title}" if title else name)
    return figure


def draw_heatmap(
    panel: Axes, points: Sequence[Point], name: str, values: Mapping[str, list[Value]], every: Sequence[float]
) -> None:
    """One quantity over two axes, every cell with its 95 % interval; points without it are left blank.

    Args:
        panel: where to draw.
        points: those of the panel.
        name: of the quantity.
        values: axis to its values, of the rows and then of the columns.
        every: the quantity at all points of the sweep, so that panels share their colours.
    """
    (first, rows), (second, columns) = values.items()
    means = np.full((len(rows), len(columns)), np.nan)
    middle = (min(every) + max(every)) / 2
    panel.grid(visible=False)
    for point in points:
        if (measure := quantities(point).get(name)) is None:
            continue
        row, column = rows.index(point.values[first]), columns.index(point.values[second])
        means[row, column] = measure.mean
        low, high = measure.ci95
        text, color = f"{measure.mean:.2f}\n[{low:.2f}, {high:.2f}]", "white" if measure.mean > middle else "black"
        panel.text(column, row, text, ha="center", va="center", color=color, fontsize=6.5)
    panel.imshow(means, cmap="Blues", aspect="auto", vmin=min(every), vmax=max(every))
    panel.set_xticks(range(len(columns)), [value_label(value) for value in columns])
    panel.set_yticks(range(len(rows)), [value_label(value) for value in rows])
    panel.set_xlabel(second)
    panel.set_ylabel(first)


@styled
def trade_off_figure(points: Sequence[Point]) -> Figure:
    """Interference against target shift, the points that no other one beats joined and named."""
    figure = new_figure(0.75 * TEXT_WIDTH, 0.5 * TEXT_WIDTH)
    panel = figure.subplots()
    places = [(q[TARGET_SHIFT].mean, q[INTERFERENCE].mean) for p in points if has_both(q := quantities(p))]
    panel.plot(*zip(*places, strict=True), "o", color=GREY, label="all points")
    front = sorted(pareto_front(points), key=lambda point: quantities(point)[TARGET_SHIFT].mean)
    best = [(q[TARGET_SHIFT].mean, q[INTERFERENCE].mean) for q in map(quantities, front)]
    panel.plot(*zip(*best, strict=True), "o-", color=COLORS[1], label="on the front")
    for point, place in zip(front, best, strict=True):
        panel.annotate(label_of(point.values), place, textcoords="offset points", xytext=(4, 4), fontsize=6)
    panel.set_xlabel(f"{TARGET_SHIFT} (standard deviations)")
    panel.set_ylabel(INTERFERENCE)
    panel.legend()
    return figure


def label_of(values: Mapping[str, Value]) -> str:
    """A point in few words: the last part of every axis' key with its value."""
    return ", ".join(f"{axis.rpartition('.')[2]} {value_label(value)}" for axis, value in values.items())
