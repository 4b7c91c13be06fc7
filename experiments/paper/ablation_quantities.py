"""Which figures an ablation reports of every point."""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.measurements import Measurements
from evaluation.metrics.interference import interference_at_effect
from evaluation.report import Cell, Column
from evaluation.scale_sweeps import protected_flips, selectivity, target_values
from experiments.paper.ablation_records import Point, Setting
from experiments.paper.quantities import Quantity, clip_shift, effect_between, image_distances, interference

EFFECT = 2.5


def compared_quantities(setting: Setting, measurements: Measurements) -> list[Quantity]:
    """The figures that points are compared in, those of the figure's panels first.

    Args:
        setting: what the points share.
        measurements: of any point.
    """
    scale = measurements.header.scales[-1]
    return [
        *([effect_between(scale, setting.target)] if setting.target else []),
        *([interference(scale, setting.protected)] if setting.protected else []),
        *image_distances(measurements, scale)[:1],
        clip_shift(scale),
        *image_distances(measurements, scale)[1:],
    ]


def further_columns(setting: Setting) -> list[Column]:
    """The headings of `further_cells`."""
    if not setting.target:
        return []
    at_effect = [Column(f"interference at an effect of {EFFECT:g}", 3)] if setting.protected else []
    return [Column("selectivity"), *at_effect]


def further_cells(setting: Setting, measurements: Measurements) -> list[Cell]:
    """The figures that allow for the strength of a point, which is no row's: without comparison."""
    if not setting.target:
        return []
    sweep = measurements.sweep()
    cells = [Cell(selectivity(sweep, setting.target))]
    if setting.protected:
        effects, flips = target_values(sweep, setting.target), protected_flips(sweep, setting.protected)
        found = interference_at_effect(effects, flips, sweep.scales, EFFECT).interference
        cells.append(Cell(found) if found else Cell(text="not reached"))
    return cells


def any_measured(points: Sequence[Point]) -> Measurements | None:
    """The measurements of the first point that did not fail."""
    return next((point.measurements for point in points if point.measurements), None)
