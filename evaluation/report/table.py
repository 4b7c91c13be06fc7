"""A table of measured figures, with the published ones in a second block; it knows nothing of any file format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluation.statistics import Measure, PairedTest, check_units
from slider_lightning.errors import InputError

ABSENT = "-"
MARKS = {
    "P": "read in the released code, an abstract or an author's reply",
    "2": "read in second-hand digests of the paper only",
    "M": "remembered, seen nowhere",
}


@dataclass(frozen=True)
class Column:
    """A column of figures.

    Args:
        name: its heading, with the unit and the judge where it has one.
        digits: digits behind the point.
    """

    name: str
    digits: int = 2


@dataclass(frozen=True)
class Cell:
    """A measured figure, with its paired comparison with the reference row; or a comparison alone; or a text.

    Args:
        measure: the figure.
        test: its row minus the reference row, on the same prompts and seeds.
        text: what stands here where there is no figure.

    Raises:
        InputError: if the figure was measured on a single sample, which has no interval.
        ValueError: if there is both or neither of figure and text.
    """

    measure: Measure | None = None
    test: PairedTest | None = None
    text: str = ""

    def __post_init__(self) -> None:
        figures = [f for f in (self.measure, self.test and self.test.difference) if f]
        if bool(figures) == bool(self.text):
            raise ValueError(f"Expected a cell with figures or with a text, but got {self!r}.")
        for figure in figures:
            check_units(figure.n)


@dataclass(frozen=True)
class Row:
    """One line of a table, e.g. one method on one concept.

    Args:
        name: e.g. the method.
        cells: one per column.
        group: what it belongs to, e.g. the concept; lines of a group stand together.
    """

    name: str
    cells: tuple[Cell, ...]
    group: str = ""


@dataclass(frozen=True)
class PublishedFigure:
    """A figure of a paper.

    Args:
        value: the figure.
        mark: where it was read, one of `MARKS`.
        digits: digits behind the point, as published.

    Raises:
        ValueError: if the mark is unknown.
    """

    value: float
    mark: str
    digits: int = 2

    def __post_init__(self) -> None:
        if self.mark not in MARKS:
            raise ValueError(f"Expected a mark out of {', '.join(MARKS)}, but got {self.mark!r}.")

    def __str__(self) -> str:
        return f"{self.value:.{self.digits}f} ({self.mark})"


@dataclass(frozen=True)
class Published:
    """Figures of a paper in its own rows and columns.

    Args:
        source: what is cited, e.g. "Concept Sliders (ECCV 2024), Table 1".
        columns: headings.
        rows: name of the row -> one figure per column; None where the paper has none.
        notes: what a reader must know of them.

    Raises:
        ValueError: if a row does not fit the columns.
    """

    source: str
    columns: tuple[str, ...]
    rows: Mapping[str, Sequence[PublishedFigure | None]]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, figures in self.rows.items():
            if len(figures) != len(self.columns):
                raise ValueError(f"Expected {len(self.columns)} published figures of {name!r}, but got {len(figures)}.")

    @property
    def legend(self) -> str:
        """What the marks mean that these figures carry."""
        used = {figure.mark for figures in self.rows.values() for figure in figures if figure}
        return f"Marks: {'; '.join(f'{mark} = {text}' for mark, text in MARKS.items() if mark in used)}."


@dataclass(frozen=True)
class Table:
    """Measured figures, and published ones beside them.

    Args:
        title: what it shows.
        columns: of the measured figures.
        rows: of the measured figures.
        heads: what the names of groups and rows are, e.g. ("concept", "method").
        reference: name of the row that the others are compared with; given where a cell has figure and comparison.
        notes: what a reader must know, one sentence or more each.
        published: the second block.

    Raises:
        InputError: if there is no row.
        ValueError: if a row does not fit the columns, or there are comparisons and no reference.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    heads: tuple[str, str] = ("", "method")
    reference: str = ""
    notes: tuple[str, ...] = ()
    published: tuple[Published, ...] = ()

    def __post_init__(self) -> None:
        if not self.rows:
            raise InputError(f"Expected measurements for the table '{self.title}', but got none; measure a grid first.")
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                raise ValueError(
                    f"Expected {len(self.columns)} cells in row {row.name!r} of '{self.title}', "
                    f"but got {len(row.cells)}."
                )
        if not self.reference and any(cell.measure and cell.test for row in self.rows for cell in row.cells):
            raise ValueError(f"Expected the name of the row that rows of '{self.title}' are compared with.")
