"""Figures of measurements: answers to the scale, trade-offs, what else moves, and strips of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from evaluation.measurements import Measurements
from evaluation.report.style import COLORS, GREY, MARKERS, TEXT_WIDTH, new_figure, styled, zero_lines
from evaluation.scale_sweeps import Sweep, attribute_shift, flips, protected_flips, target_values
from evaluation.statistics import Measure, bootstrap_mean
from slider_lightning.errors import InputError

PANELS_PER_ROW = 4
SHIFT = "shift (standard deviations)"


@styled
def dose_response_figure(sliders: Mapping[str, Measurements], targets: Mapping[str, str]) -> Figure:
    """One panel per slider: how far its target moves at every scale, with its interval, the other attributes in grey.

    Args:
        sliders: name to the measurements of its images.
        targets: name to the classifier's attribute that it should move.

    Raises:
        InputError: if there is no slider.
    """
    _check_any(sliders)
    columns = min(len(sliders), PANELS_PER_ROW)
    lines = -(-len(sliders) // columns)
    figure = new_figure(TEXT_WIDTH, 0.3 + 1.9 * lines)
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axes, (name, measurements) in zip(grid.flat, sliders.items(), strict=False):
        _draw_response(axes, measurements.sweep(), targets[name])
        axes.set_title(name)
        axes.set_xlabel("slider scale")
    for axes in grid[:, 0]:
        axes.set_ylabel(SHIFT)
    for axes in list(grid.flat)[len(sliders) :]:
        axes.set_axis_off()
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _draw_response(axes: Axes, sweep: Sweep, target: str) -> None:
    zero_lines(axes)
    axes.margins(y=0.14)
    columns = range(len(sweep.scales))
    others = [a.name for a in sweep.schema if a.name != target.partition("=")[0]]
    curves = {name: [attribute_shift(sweep, name, column).mean for column in columns] for name in others}
    for number, curve in enumerate(curves.values()):
        axes.plot(sweep.scales, curve, color=GREY, linewidth=0.8, label=None if number else "every other attribute")
    _name_largest(axes, sweep.scales, curves)
    values = target_values(sweep, target)
    measures = [bootstrap_mean(values[:, column] - values[:, sweep.zero]) for column in columns]
    low, high = _intervals(measures)
    axes.fill_between(sweep.scales, low, high, color=COLORS[0], alpha=0.25, linewidth=0, label="95 % interval")
    axes.plot(sweep.scales, _means(measures), color=COLORS[0], marker="o", markersize=3.5, label="target")
    axes.set_xticks(sweep.scales)


def _name_largest(axes: Axes, scales: Sequence[float], curves: Mapping[str, Sequence[float]]) -> None:
    """Names the attribute that drifts furthest, in the corner that a rising target leaves free."""
    if curves:
        name, curve = max(curves.items(), key=lambda item: max(map(abs, item[1])))
        shift, scale = max(zip(curve, scales, strict=True), key=lambda point: (abs(point[0]), point[1]))
        text = f"largest drift: {name.replace('_', ' ')}\n{_signed(shift, True)} at {_signed(scale, True, 'g')}"
        axes.text(0.98, 0.02, text, transform=axes.transAxes, ha="right", va="bottom", color="#666666", fontsize=6.5)


@dataclass(frozen=True)
class TradeOffPoint:
    """One point of a trade-off.

    Args:
        label: what stands beside it, e.g. the scale.
        distance: to the unedited image.
        effect: what the edit gained.
    """

    label: str
    distance: Measure
    effect: Measure


def scale_points(measurements: Measurements) -> tuple[TradeOffPoint, ...]:
    """Distance and CLIP shift of one method at each of its scales above 0."""
    return tuple(_point(measurements, scale, f"{scale:+g}") for scale in measurements.header.scales if scale > 0)


def start_points(measurements: Mapping[int, Measurements], scale: float) -> tuple[TradeOffPoint, ...]:
    """Distance and CLIP shift of one method at one scale, by start_timestep.

    Args:
        measurements: start_timestep to the measurements of images that were made with it.
        scale: of the images.
    """
    return tuple(_point(found, scale, str(start)) for start, found in measurements.items())


def _point(measurements: Measurements, scale: float, label: str) -> TradeOffPoint:
    distance = measurements.values("distance")[:, measurements.position(scale)]
    return TradeOffPoint(label, bootstrap_mean(distance), bootstrap_mean(measurements.change("clip/positive", scale)))


@styled
def trade_off_figure(
    methods: Mapping[str, Sequence[TradeOffPoint]],
    distance_name: str,
    starts: Mapping[str, Sequence[TradeOffPoint]] | None = None,
) -> Figure:
    """CLIP shift against distance; up and to the left is better.

    Args:
        methods: name to its points over scales, joined by a full line.
        distance_name: printed name of the distance's judge.
        starts: name of a method to its points over start_timesteps, joined by a dashed line of the same colour.

    Raises:
        InputError: if there is no method.
    """
    _check_any(methods)
    figure = new_figure(4.6, 3.3)
    axes = figure.subplots()
    axes.margins(x=0.12, y=0.12)
    for number, (name, points) in enumerate(methods.items()):
        look = {"color": COLORS[number % len(COLORS)], "marker": MARKERS[number % len(MARKERS)]}
        _draw_trade_off(axes, points, label=name, markeredgecolor="white", markeredgewidth=0.5, **look)
        if later := (starts or {}).get(name):
            dashed = {"linestyle": (0, (4, 2)), "linewidth": 1.1, "markerfacecolor": "white", **look}
            _draw_trade_off(axes, later, label=f"{name}, by start_timestep", **dashed)
    axes.axhline(0, color="#BDBDBD", linewidth=0.8, zorder=0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"{distance_name} to the unedited image")
    axes.set_ylabel("shift of the CLIP score")
    axes.legend(loc="best")
    return figure


def _draw_trade_off(axes: Axes, points: Sequence[TradeOffPoint], **look: Any) -> None:
    x, y = [point.distance for point in points], [point.effect for point in points]
    color = look["color"]
    axes.errorbar(
        _means(x), _means(y), xerr=_spread(x), yerr=_spread(y), fmt="none", ecolor=color, elinewidth=0.8, alpha=0.7
    )
    axes.plot(_means(x), _means(y), **look)
    for point in points:
        place = point.distance.mean, point.effect.mean
        axes.annotate(point.label, place, xytext=(5, -8), textcoords="offset points", color=color, fontsize=6.5)


@styled
def shift_matrix(sliders: Mapping[str, Measurements]) -> Figure:
    """Slider x attribute: mean shift from the lowest to the highest scale, in standard deviations.

    Of an attribute with three classes or more it is the length of the shift, written without a sign.

    Args:
        sliders: name to the measurements of its images; all by the same classifier.

    Raises:
        InputError: if there is no slider.
    """
    _check_any(sliders)
    sweeps = [found.sweep() for found in sliders.values()]
    schema = sweeps[0].schema
    shifts = np.array([[attribute_shift(sweep, a.name, -1, origin=0).mean for a in schema] for sweep in sweeps])
    texts = [[_signed(shift, a.width < 3) for shift, a in zip(row, schema, strict=True)] for row in shifts]
    limit = max(float(np.abs(shifts).max()), 1e-6)
    picture = Heatmap(list(sliders), [a.name for a in schema], shifts, texts)
    return picture.draw("RdBu_r", (-limit, limit), "Shift from the lowest to the highest scale (standard deviations)")


@styled
def flip_matrix(sliders: Mapping[str, Measurements], targets: Mapping[str, str]) -> Figure:
    """Slider x class attribute: share of the edited images in which its class changes; its own target is left out.

    Args:
        sliders: name to the measurements of its images; all by the same classifier.
        targets: name to the classifier's attribute that it should move.

    Raises:
        InputError: if there is no slider, or the classifier reads no class attribute.
    """
    _check_any(sliders)
    sweeps = {name: found.sweep() for name, found in sliders.items()}
    names = [a.name for a in next(iter(sweeps.values())).schema if a.kind == "class"]
    if not names:
        raise InputError("Expected a classifier with class attributes for a matrix of flips, but it has none.")
    own = {name: target.partition("=")[0] for name, target in targets.items()}
    shares = np.array(
        [
            [np.nan if own.get(key) == name else _flip_share(sweep, name) for name in names]
            for key, sweep in sweeps.items()
        ]
    )
    texts = [["target" if np.isnan(share) else f"{share:.2f}" for share in row] for row in shares]
    limits = (0.0, max(float(np.nan_to_num(shares).max()), 1e-6))
    return Heatmap(list(sliders), names, shares, texts).draw("Blues", limits, "Share of edited images that flip")


def _signed(value: float, has_sign: bool, spec: str = ".2f") -> str:
    text = f"{value:{'+' if has_sign else ''}{spec}}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")


def _flip_share(sweep: Sweep, name: str) -> float:
    edited = [column for column in range(len(sweep.scales)) if column != sweep.zero]
    return float(flips(sweep, name)[:, edited].double().mean())


@dataclass(frozen=True)
class Heatmap:
    """A matrix of figures, each written into its cell.

    Args:
        rows: names of the rows.
        columns: names of the columns.
        values: the figures; NaN leaves a cell grey.
        texts: what stands in the cells.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    values: Float[np.ndarray, "rows columns"]
    texts: Sequence[Sequence[str]]

    def draw(self, colors: str, limits: tuple[float, float], title: str) -> Figure:
        """The figure.

        Args:
            colors: matplotlib's name of the colour map.
            limits: values of its two ends.
            title: what the figures are.
        """
        figure = new_figure(min(TEXT_WIDTH, 1.9 + 0.5 * len(self.columns)), 1.2 + 0.36 * len(self.rows))
        axes = figure.subplots()
        shades = mpl.colormaps[colors].with_extremes(bad="#EFEFEF")
        picture = axes.imshow(np.ma.masked_invalid(self.values), cmap=shades, aspect="auto", clim=limits)
        for (row, column), value in np.ndenumerate(self.values):
            red, green, blue, _ = shades(picture.norm(value)) if np.isfinite(value) else (1.0, 1.0, 1.0, 1.0)
            ink = "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else "#202020"
            axes.text(column, row, self.texts[row][column], ha="center", va="center", color=ink, fontsize=7)
        names = [name.replace("_", " ") for name in self.columns]
        axes.set_xticks(range(len(names)), names, rotation=35, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(self.rows)), [name.replace("_", " ") for name in self.rows])
        axes.set_xticks(np.arange(1, len(names)) - 0.5, minor=True)
        axes.set_yticks(np.arange(1, len(self.rows)) - 0.5, minor=True)
        axes.grid(visible=False)
        axes.grid(which="minor", color="white", linewidth=1.2)
        axes.tick_params(which="both", length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(title, loc="left", fontsize=8)
        figure.colorbar(picture, ax=axes, pad=0.015, aspect=14).outline.set_visible(False)
        return figure


@styled
def noun_interference_figure(methods: Mapping[str, Measurements], scale: float, protected: Sequence[str]) -> Figure:
    """Bars: interference at -scale and +scale of every method, per prompt noun, with intervals.

    Args:
        methods: name to the measurements of its images; all of the same prompts.
        scale: the outermost.
        protected: class attributes that should not flip.

    Raises:
        InputError: if there is no method, or a noun has fewer than 2 rows.
    """
    _check_any(methods)
    nouns = next(iter(methods.values())).nouns
    figure = new_figure(TEXT_WIDTH, 2.5)
    axes = figure.subplots()
    width = 0.8 / len(methods)
    for number, (name, measurements) in enumerate(methods.items()):
        ends = measurements.at_scales((-scale, scale))
        shares = [bootstrap_mean(_end_flips(ends.only(noun), protected)) for noun in nouns]
        places = np.arange(len(nouns)) + (number - (len(methods) - 1) / 2) * width
        axes.bar(
            places, _means(shares), 0.92 * width, yerr=_spread(shares),
            color=COLORS[number % len(COLORS)], error_kw={"elinewidth": 0.8, "ecolor": "#404040"}, label=name,
        )  # fmt: skip
    axes.set_xticks(range(len(nouns)), [f"“{noun}”" for noun in nouns])
    axes.tick_params(axis="x", length=0)
    axes.grid(visible=False, axis="x")
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"share of images at ±{scale:g}\nwhere {' or '.join(protected)} flips")
    figure.legend(loc="outside upper center", ncols=min(len(methods), 4))
    return figure


def _end_flips(measurements: Measurements, protected: Sequence[str]) -> Float[Tensor, "rows 2"]:
    where = protected_flips(measurements.sweep(), protected)
    return where[:, [column for column in range(where.shape[1]) if column != measurements.zero]].double()


def _means(measures: Sequence[Measure]) -> list[float]:
    return [measure.mean for measure in measures]


def _intervals(measures: Sequence[Measure]) -> tuple[list[float], list[float]]:
    return [measure.ci95[0] for measure in measures], [measure.ci95[1] for measure in measures]


def _spread(measures: Sequence[Measure]) -> Float[np.ndarray, "2 measures"]:
    """How far the ends of the intervals lie from the figures; 0 where a figure lies outside its interval."""
    means, (low, high) = np.array(_means(measures)), map(np.array, _intervals(measures))
    return np.stack([means - low, high - means]).clip(min=0)


def _check_any(found: Mapping[str, object]) -> None:
    if not found:
        raise InputError("Expected measurements for a figure, but got none; measure at least one method first.")
