"""A table as a self-contained page: sortable, its intervals drawn, published figures and images beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.pages.document import render
from evaluation.pages.examples import ConceptImages
from evaluation.report.formats import evidence_text, figure_text, notes
from evaluation.report.table import ABSENT, Cell, Table
from evaluation.statistics import Measure


@dataclass(frozen=True)
class Span:
    """An interval within the range of its column, in percent of its width.

    Args:
        low: left end.
        high: right end.
    """

    low: float
    high: float


@dataclass(frozen=True)
class HtmlCell:
    """A cell of the page.

    Args:
        key: what it is sorted by; empty where it has no figure.
        text: the figure with its interval, or what stands in its place.
        evidence: n, or p and n of a comparison.
        span: its interval; None without a figure.
        compared: how it compares with the reference row; empty where it does not.
    """

    key: str
    text: str
    evidence: str = ""
    span: Span | None = None
    compared: str = ""


def html(table: Table, images: Sequence[ConceptImages] = ()) -> str:
    """The page of a table.

    Args:
        table: what it shows.
        images: of the methods, with a control of the scale for each concept.
    """
    return render(
        "table.html",
        title=table.title,
        table=table,
        heads=[head for head in table.heads if head],
        rows=html_rows(table),
        notes=notes(table),
        absent=ABSENT,
        images=images,
        data={
            "images": [{"scales": each.scales, "methods": [m.scales for m in each.methods]} for each in images],
        },
    )


def html_rows(table: Table) -> list[tuple[str, str, tuple[HtmlCell, ...]]]:
    """Group, name and cells of every row."""
    ranges = [column_range([row.cells[number] for row in table.rows]) for number in range(len(table.columns))]
    return [
        (
            row.group,
            row.name,
            tuple(
                html_cell(cell, column.digits, range_, table.reference)
                for cell, column, range_ in zip(row.cells, table.columns, ranges, strict=True)
            ),
        )
        for row in table.rows
    ]


def column_range(cells: Sequence[Cell]) -> tuple[float, float]:
    """The ends of all intervals of a column, 0 among them, so that its sign is seen."""
    ends = [end for cell in cells if (measure := shown(cell)) for end in measure.ci95]
    return min([0.0, *ends]), max([0.0, *ends])


def shown(cell: Cell) -> Measure | None:
    """The figure of a cell, or the difference that stands alone."""
    return cell.measure or (cell.test.difference if cell.test else None)


def html_cell(cell: Cell, digits: int, within: tuple[float, float], reference: str) -> HtmlCell:
    """One cell, its interval placed within the range of its column."""
    measure, (least, most) = shown(cell), within
    if measure is None:
        return HtmlCell("", cell.text)

    def place(value: float) -> float:
        return round(100 * (value - least) / (most - least), 2) if most > least else 0.0

    compared = ""
    if cell.measure and cell.test:
        compared = f"minus {reference}: {figure_text(cell.test.difference, digits)}, {evidence_text(cell.test)}"
    return HtmlCell(
        key=repr(measure.mean),
        text=figure_text(measure, digits),
        evidence=f"n = {measure.n}" if cell.measure or not cell.test else evidence_text(cell.test),
        span=Span(place(measure.ci95[0]), place(measure.ci95[1])),
        compared=compared,
    )
