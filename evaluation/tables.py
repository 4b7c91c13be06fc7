"""Measured figures as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group
from rich.table import Table

from evaluation.measures import edited_columns
from evaluation.report.formats import figure_text
from evaluation.statistics import Measure

SHIFT_PREFIX = "eval/attribute_shift/"
RANGE_PREFIX = "eval/attribute_range/"


def slider_tables(measures: Mapping[str, Measure], scales: Sequence[float], target: str | None) -> Group:
    """The figures of `evaluation.measures.evaluate_slider` as two tables: shifts per attribute, then the rest.

    Args:
        measures: The figures.
        scales: The scales they were measured at.
        target: What the slider is meant to move, its row is marked; None marks none.
    """
    return Group(shift_table(measures, scales, target), figure_table(measures))


def shift_table(measures: Mapping[str, Measure], scales: Sequence[float], target: str | None) -> Table:
    """Shift of every attribute per scale in standard deviations."""
    labels = [label for _, label in edited_columns(scales)]
    names = list(
        dict.fromkeys(key[len(SHIFT_PREFIX) :].rsplit("/", 1)[0] for key in measures if key.startswith(SHIFT_PREFIX))
    )
    table = Table(title="Shift against scale 0, in standard deviations of the attribute [95 % interval]")
    table.add_column("attribute", no_wrap=True)
    for label in labels:
        table.add_column(label, justify="right")
    table.add_column(f"{labels[0]} to {labels[-1]}", justify="right")
    table.add_column("n", justify="right")
    for name in names:
        row = [measures[f"{SHIFT_PREFIX}{name}/{label}"] for label in labels] + [measures[f"{RANGE_PREFIX}{name}"]]
        style = "bold" if name == (target or "").partition("=")[0] else None
        table.add_row(name, *(figure_text(measure, 2) for measure in row), str(row[-1].n), style=style)
    return table


def figure_table(measures: Mapping[str, Measure]) -> Table:
    """Every figure that is no attribute shift, one per row."""
    table = Table(title="Figures [95 % interval]")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("n", justify="right")
    for name, measure in measures.items():
        if not name.startswith((SHIFT_PREFIX, RANGE_PREFIX)):
            table.add_row(name.removeprefix("eval/"), figure_text(measure, 3), str(measure.n))
    return table
