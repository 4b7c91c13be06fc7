"""An ablation's table and figure: pure functions of its points, so that both are redrawn without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.measurements import Measurements, check_paired
from evaluation.report import Cell, Column, Row, Table, save_figure, write_table
from experiments.paper.ablation_figure import ablation_figure
from experiments.paper.ablation_quantities import (
    EFFECT,
    any_measured,
    compared_quantities,
    further_cells,
    further_columns,
)
from experiments.paper.ablation_records import Point, Setting, read_points, value_label
from experiments.paper.published import model_name
from experiments.paper.quantities import Quantity
from experiments.paper.rows import PAIRED, common_notes
from slider_lightning.assets import locked


def write_report(folder: Path) -> None:
    """Writes table.md, table.tex, table.csv, figure.png and figure.pdf from the records of a folder.

    Raises:
        InputError: if there are no records, a file is damaged, or the disk refuses.
    """
    with locked(folder, "ablation"):
        points = read_points(folder)
        write_table(folder, "table", ablation_table(points))
        save_figure(folder, "figure", ablation_figure(points))


def ablation_table(points: Sequence[Point]) -> Table:
    """One row per point, each compared with the reference point; a point that failed says so.

    Args:
        points: of one ablation, at least one.

    Raises:
        InputError: if points were measured on other prompts or seeds, or by other judges.
    """
    setting, first = points[0].record.setting, any_measured(points)
    quantities = compared_quantities(setting, first) if first else []
    columns = [*(quantity.column for quantity in quantities), *(further_columns(setting) if first else [])]
    reference = next((p.measurements for p in points if p.record.point == setting.reference), None)
    labels = list(setting.axes.values())
    return Table(
        title=f"{setting.title}: slider '{setting.concept}'{f' on {model_name(first)}' if first else ''}",
        columns=tuple(columns) or (Column("result"),),
        rows=tuple(point_row(point, reference, quantities, max(1, len(columns))) for point in points),
        heads=(labels[0], labels[1]) if len(labels) == 2 else ("", labels[0]),
        reference=point_text(setting.reference, setting.axes),
        notes=(*(figure_notes(setting, first) if first else ()), *point_notes(points)),
    )


def point_row(point: Point, reference: Measurements | None, quantities: Sequence[Quantity], width: int) -> Row:
    """The line of one point, in `width` cells."""
    *group, name = [value_label(value) for value in point.record.point.values()]
    cells = [Cell(text="failed")] * width
    if point.measurements is not None:
        other = None if point.record.point == point.record.setting.reference else reference
        if other is not None:
            check_paired(point.measurements, other)
        cells = [quantity.cell(point.measurements, other) for quantity in quantities]
        cells += further_cells(point.record.setting, point.measurements)
    return Row(name, tuple(cells), group=group[0] if group else "")


def figure_notes(setting: Setting, measurements: Measurements) -> tuple[str, ...]:
    """What a reader must know of the figures."""
    strength = (
        f"Points differ in strength; what allows for it is selectivity and the interference where the effect on "
        f"{setting.target} is {EFFECT:g} standard deviations, taken as linear between the scales "
        f"{', '.join(f'{scale:g}' for scale in measurements.header.scales)}."
    )
    return (
        *common_notes({"": measurements}),
        PAIRED,
        "n of interference counts images, its intervals and tests are over rows.",
        *([strength] if setting.target else []),
        "Nothing is published to compare with.",
    )


def point_notes(points: Sequence[Point]) -> tuple[str, ...]:
    """What the points' labels stand for, and why points failed."""
    axes = points[0].record.setting.axes
    lists = [
        f"{label} = {value_label(values)}: {', '.join(map(repr, values))}."
        for key, label in axes.items()
        for point in points
        if isinstance(values := point.record.point[key], list) and values
    ]
    failed = [point.record for point in points if point.record.error]
    return (*lists, *(f"Failed: {point_text(record.point, axes)}: {record.error}" for record in failed))


def point_text(point: Mapping[str, Any], axes: Mapping[str, str]) -> str:
    """A point in words, e.g. "rank = 4, eta = 2"."""
    return ", ".join(f"{axes[key]} = {value_label(value)}" for key, value in point.items())
