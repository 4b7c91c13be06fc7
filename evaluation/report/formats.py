"""A table as Markdown, LaTeX, CSV and for a terminal."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from textwrap import wrap

from rich.console import Group
from rich.table import Table as TerminalTable
from rich.text import Text

from evaluation.report.table import ABSENT, Cell, Published, Row, Table
from evaluation.statistics import Measure, PairedTest

CSV_COLUMNS = (
    "block", "group", "row", "column", "mean", "ci_low", "ci_high", "n", "p_value", "test", "text", "published", "mark",
)  # fmt: skip
LATEX_HEADING = 26
LATEX_NAME = 36
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
# A minus sign, as opposed to the hyphen of "sign-flip" or "ViT-B-32".
_MINUS = re.compile(r"(?<![\w-])-(?=\d)")


@dataclass(frozen=True)
class Line:
    """One line of the measured block.

    Args:
        group: heading of its group; empty in all lines of a group but the first.
        name: of the row, or what it is compared with.
        cells: one per column, each in one or two parts: the figure with its interval, then p and n.
        compares: whether it holds differences from the reference row.
        opens: whether a group begins with it.
    """

    group: str
    name: str
    cells: tuple[tuple[str, ...], ...]
    compares: bool = False
    opens: bool = False


def figure_text(measure: Measure, digits: int) -> str:
    """A figure and its 95 % interval, e.g. "1.20 [1.10, 1.31]"."""
    low, high = measure.ci95
    return f"{_fixed(measure.mean, digits)} [{_fixed(low, digits)}, {_fixed(high, digits)}]"


def evidence_text(test: PairedTest) -> str:
    """The p-value and n of a test, e.g. "p < 0.001, n = 102"."""
    p_value = "p < 0.001" if test.p_value < 0.001 else f"p = {test.p_value:.3f}"
    return f"{p_value}, n = {test.difference.n}"


def lines(table: Table) -> Iterator[Line]:
    """The measured block, line by line: under a row its comparison with the reference row, if it has one."""
    group = None
    for row in table.rows:
        opens = row.group != group
        digits = [column.digits for column in table.columns]
        parts = tuple(_cell_parts(cell, count) for cell, count in zip(row.cells, digits, strict=True))
        yield Line(row.group if opens else "", row.name, parts, opens=opens)
        tests = [cell.test if cell.measure else None for cell in row.cells]
        if any(tests):
            parts = tuple(_test_parts(test, count) for test, count in zip(tests, digits, strict=True))
            names = dict.fromkeys(test.test.partition(",")[0] for test in tests if test)
            yield Line("", f"minus {table.reference} ({'; '.join(names)})", parts, compares=True)
        group = row.group


def notes(table: Table) -> tuple[str, ...]:
    """The notes of a table, and the tests that it used."""
    tests = dict.fromkeys(cell.test.test for row in table.rows for cell in row.cells if cell.test)
    return (*table.notes, *([f"Tests: {'; '.join(tests)}."] if tests else []))


def markdown(table: Table) -> str:
    """The table in GitHub's Markdown."""
    heads = [head for head in table.heads if head]
    rows = []
    for line in lines(table):
        texts = [line.name, *(", ".join(parts) for parts in line.cells)]
        rows.append([line.group] * (len(heads) - 1) + [f"*{text}*" if line.compares else text for text in texts])
    page = [f"## {_markdown_text(table.title)}", ""]
    page += _markdown_grid([*heads, *(column.name for column in table.columns)], rows, len(heads))
    page += [f"\n{_markdown_text(note)}" for note in notes(table)]
    for block in table.published:
        page += ["", f"### Published: {_markdown_text(block.source)}", ""]
        page += _markdown_grid(["", *block.columns], _published_rows(block), 1)
        page += [f"\n{_markdown_text(note)}" for note in (block.legend, *block.notes)]
    return "\n".join(page) + "\n"


def latex(table: Table) -> str:
    """The table as a LaTeX float; it needs the packages booktabs and graphicx."""
    heads = [head for head in table.heads if head]
    body = []
    for number, line in enumerate(lines(table)):
        body += [r"\midrule"] if line.opens and number else []
        cells = [_stacked(_wrapped(line.name, LATEX_NAME), "l"), *(_stacked(parts, "r") for parts in line.cells)]
        cells = [rf"{{\itshape {cell}}}" for cell in cells] if line.compares else cells
        body.append(_latex_row([*([_stacked(_wrapped(line.group, LATEX_NAME), "l")] * (len(heads) - 1)), *cells]))
    blocks = [_latex_grid([*heads, *(column.name for column in table.columns)], len(heads), body)]
    for block in table.published:
        rows = [_latex_row(map(escape, row)) for row in _published_rows(block)]
        blocks.append(_latex_grid([f"Published: {block.source}", *block.columns], 1, rows))
    remarks = [*notes(table), *(note for block in table.published for note in (block.legend, *block.notes))]
    return "\n".join(
        [
            r"\begin{table}[t]",
            r"\centering\small",
            rf"\caption{{{escape(table.title)}}}",
            "\n\n\\medskip\n".join(blocks),
            *(
                ["", r"\medskip", rf"\parbox{{\linewidth}}{{\footnotesize {escape(' '.join(remarks))}}}"]
                * bool(remarks)
            ),
            r"\end{table}",
            "",
        ]
    )


def csv_text(table: Table) -> str:
    """One line per cell in full precision: measured figures, comparisons, published figures."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, CSV_COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    for row in table.rows:
        for cell, column in zip(row.cells, table.columns, strict=True):
            writer.writerows(_csv_cell(cell, row, column.name, table.reference))
    for block in table.published:
        writer.writerows(_csv_published(block))
    return stream.getvalue()


def terminal(table: Table) -> Group:
    """The table for rich's console."""
    heads = [head for head in table.heads if head]
    grid = _terminal_grid(table.title, heads, [column.name for column in table.columns])
    for line in lines(table):
        if line.opens and grid.row_count:
            grid.add_section()
        texts = [*([line.group] * (len(heads) - 1)), line.name, *("\n".join(parts) for parts in line.cells)]
        grid.add_row(*map(Text, texts), style="dim" if line.compares else None)
    return Group(grid, *map(Text, notes(table)), *(part for block in table.published for part in _terminal(block)))


def escape(text: str) -> str:
    """A text in which LaTeX reads no command, nor an argument of the line break before it."""
    escaped = _MINUS.sub("$-$", "".join(_LATEX.get(character, character) for character in text))
    return f"{{}}{escaped}" if escaped.startswith(("[", "*")) else escaped


def _cell_parts(cell: Cell, digits: int) -> tuple[str, ...]:
    if cell.measure:
        return figure_text(cell.measure, digits), f"n = {cell.measure.n}"
    return _test_parts(cell.test, digits) if cell.test else (cell.text,)


def _test_parts(test: PairedTest | None, digits: int) -> tuple[str, ...]:
    return (figure_text(test.difference, digits), evidence_text(test)) if test else (ABSENT,)


def _fixed(value: float, digits: int) -> str:
    """Fixed point; what rounds to nothing has no sign."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text


def _published_rows(block: Published) -> list[list[str]]:
    return [[name, *(str(figure or ABSENT) for figure in figures)] for name, figures in block.rows.items()]


def _markdown_grid(heads: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> list[str]:
    rule = [":---"] * left + ["---:"] * (len(heads) - left)
    return [f"| {' | '.join(map(_markdown_text, row))} |" for row in (heads, rule, *rows)]


def _markdown_text(text: str) -> str:
    return text.replace("|", "\\|").replace("_", "\\_").replace("<", "\\<")


def _latex_grid(heads: Sequence[str], left: int, body: Sequence[str]) -> str:
    """A tabular no wider than the page."""
    columns = "l" * left + "r" * (len(heads) - left)
    names = [_stacked(_wrapped(head, LATEX_HEADING), side) for head, side in zip(heads, columns, strict=True)]
    rows = [r"\toprule", _latex_row(names), r"\midrule", *body, r"\bottomrule"]
    tabular = "\n".join([rf"\begin{{tabular}}{{{columns}}}", *rows, r"\end{tabular}"])
    return f"\\resizebox{{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}}{{!}}{{%\n{tabular}}}"


def _wrapped(text: str, width: int) -> list[str]:
    return wrap(text, width, break_long_words=False, break_on_hyphens=False)


def _stacked(parts: Sequence[str], side: str) -> str:
    """Parts of a cell one above the other."""
    text = r"\\".join(map(escape, parts))
    return rf"\begin{{tabular}}[t]{{@{{}}{side}@{{}}}}{text}\end{{tabular}}" if len(parts) > 1 else text


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _csv_cell(cell: Cell, row: Row, column: str, reference: str) -> Iterator[dict[str, str]]:
    place = {"group": row.group, "row": row.name, "column": column}
    if cell.measure or cell.text:
        figure = _csv_measure(cell.measure) if cell.measure else {"text": cell.text}
        yield {"block": "measured", **place, **figure}
    if cell.test:
        figure = {**_csv_measure(cell.test.difference), "p_value": repr(cell.test.p_value), "test": cell.test.test}
        name = f"{row.name} minus {reference}" if cell.measure else row.name
        yield {"block": "comparison", **place, "row": name, **figure}


def _csv_measure(measure: Measure) -> dict[str, str]:
    low, high = measure.ci95
    return {"mean": repr(measure.mean), "ci_low": repr(low), "ci_high": repr(high), "n": str(measure.n)}


def _csv_published(block: Published) -> Iterator[dict[str, str]]:
    for name, figures in block.rows.items():
        for column, figure in zip(block.columns, figures, strict=True):
            if figure:
                value = {"published": repr(figure.value), "mark": figure.mark}
                yield {"block": "published", "group": block.source, "row": name, "column": column, **value}


def _terminal_grid(title: str, left: Sequence[str], right: Sequence[str]) -> TerminalTable:
    grid = TerminalTable(title=title)
    for name in left:
        grid.add_column(name)
    for name in right:
        grid.add_column(name, justify="right")
    return grid


def _terminal(block: Published) -> Iterator[TerminalTable | Text]:
    grid = _terminal_grid(f"Published: {block.source}", [""], block.columns)
    for row in _published_rows(block):
        grid.add_row(*row)
    yield grid
    yield from map(Text, (block.legend, *block.notes))
