"""A calibration as flat figures, as a table and as a picture: pure functions of it."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.calibration import shown_units
from evaluation.measures import edited_columns
from evaluation.report import Cell, Column, Row, Table
from evaluation.report.formats import figure_text
from evaluation.report.style import COLORS, GREY, TEXT_WIDTH, new_figure, styled, zero_lines
from evaluation.statistics import Measure, to_record
from slider_lightning.adapters import Calibration


def effects_of(calibration: Calibration) -> dict[str, Measure]:
    """Label of a scale ("+1", "-0.5") to the effect there; 0 is left out."""
    columns = calibration.effects, calibration.lows, calibration.highs
    measures = [Measure(m, (low, high), calibration.rows) for m, low, high in zip(*columns, strict=True)]
    return {label: measures[column] for column, label in edited_columns(calibration.scales)}


def record_of(calibration: Calibration, prefix: str) -> dict[str, Any]:
    """Flat keys for summary.json: the effect at every scale, the ranges, and what they were measured with."""
    names = ("target", "unit", "useful_scales", "useful_effects", "saturation", "prompts", "sampler", "model")
    effects = to_record({f"{prefix}effect/{label}": effect for label, effect in effects_of(calibration).items()})
    units = {f"{prefix}scale_of/{units:+g}": calibration.scale_of(units) for units in shown_units(calibration)}
    return effects | units | {f"{prefix}{name}": getattr(calibration, name) for name in names}


def calibration_table(calibration: Calibration) -> Table:
    """The effect at every scale, whether it is useful, and the units that it stands for."""
    low, high = calibration.useful_scales
    rows = []
    for label, effect in effects_of(calibration).items():
        useful = "yes" if low <= float(label) <= high else "no"
        rows.append(Row(label, (Cell(text=figure_text(effect, 2)), Cell(text=useful))))
    asked = [f"{units:+g} at {calibration.scale_of(units):+.2f}" for units in shown_units(calibration) if units]
    below, above = ("not seen" if at is None else f"from {at:+g} on" for at in calibration.saturation)
    return Table(
        title=f"Effect on {calibration.target} by slider scale, {calibration.rows} rows of prompt and seed",
        heads=("", "scale"),
        columns=(Column(calibration.unit), Column("useful")),
        rows=tuple(rows),
        notes=(f"Units: {', '.join(asked)}.", f"Saturation below 0: {below}; above 0: {above}."),
    )


@styled
def calibration_figure(calibration: Calibration) -> Figure:
    """The response over the scale with its interval, and beneath it where the units lie on the scale."""
    figure = new_figure(0.75 * TEXT_WIDTH, 0.6 * TEXT_WIDTH)
    response, ruler = figure.subplots(2, 1, sharex=True, height_ratios=(6, 1))
    _draw_response(response, calibration)
    _draw_ruler(ruler, calibration)
    return figure


def _draw_response(axes: Axes, calibration: Calibration) -> None:
    zero_lines(axes)
    axes.axvspan(*calibration.useful_scales, color=COLORS[2], alpha=0.1, linewidth=0, label="useful range")
    band = calibration.scales, calibration.lows, calibration.highs
    axes.fill_between(*band, color=COLORS[0], alpha=0.25, linewidth=0, label="95 % interval")
    axes.plot(calibration.scales, calibration.effects, "o", color=COLORS[0], markersize=3.5, label="measured")
    axes.plot(calibration.scales, calibration.fit, color=COLORS[0], label="fit that never falls")
    seen = [scale for scale in calibration.saturation if scale is not None]
    for number, scale in enumerate(seen):
        axes.axvline(scale, color=COLORS[1], linestyle="--", label=None if number else "saturated from here on")
    axes.set_title(f"{calibration.target}, {calibration.rows} rows of prompt and seed")
    axes.set_ylabel(_in_two_lines(calibration.unit))
    axes.legend(loc="upper left")


def _draw_ruler(axes: Axes, calibration: Calibration) -> None:
    """Ticks at the units, on the axis of the scales."""
    axes.axhline(0, color=GREY)
    for units in shown_units(calibration):
        scale, whole = calibration.scale_of(units), float(units).is_integer()
        axes.plot([scale, scale], [-0.3, 0.3] if whole else [-0.15, 0.15], color=COLORS[0])
        if whole:
            axes.text(scale, 0.45, f"{units:+g}" if units else "0", ha="center", va="bottom", fontsize=7.5)
    axes.set_ylim(-0.6, 1.3)
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.set_ylabel("units")
    axes.set_xlabel("slider scale")


def _in_two_lines(unit: str) -> str:
    return unit.replace(" (", "\n(", 1)
