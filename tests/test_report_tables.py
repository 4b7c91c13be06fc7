"""Tables: every format holds every figure, and nothing that has no interval gets in."""

import csv
import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from evaluation.report import (
    Cell,
    Column,
    Published,
    PublishedFigure,
    Row,
    Table,
    csv_text,
    latex,
    markdown,
    terminal,
    write_table,
)
from evaluation.report.formats import escape
from evaluation.statistics import Measure, PairedTest
from slider_lightning.errors import InputError

TEST = PairedTest(Measure(-0.5, (-0.75, -0.25), 12), 0.03125, "paired sign-flip test, two-sided, exact")
SMALL = PairedTest(Measure(-0.0004, (-0.001, 0.0002), 12), 0.00001, "paired sign-flip test, two-sided, exact")
TABLE = Table(
    title="Sliders & 50 % of_all",
    columns=(Column("dCLIP at +2"), Column("distance_64", 3)),
    rows=(
        Row("slider", (Cell(Measure(2.0, (1.5, 2.5), 12)), Cell(Measure(0.0625, (0.05, 0.075), 12))), "age"),
        Row(
            "rival", (Cell(Measure(1.5, (1.25, 1.75), 12), TEST), Cell(Measure(0.062, (0.05, 0.07), 12), SMALL)), "age"
        ),
        Row("rival", (Cell(text="-"), Cell(test=TEST)), "smile"),
    ),
    heads=("concept", "method"),
    reference="slider",
    notes=("A note.",),
    published=(Published("A paper", ("dCLIP", "LPIPS"), {"Theirs": [PublishedFigure(1.1, "2"), None]}, ("Another.",)),),
)


def test_markdown_holds_figures_comparisons_and_published_figures() -> None:
    assert markdown(TABLE) == (
        "## Sliders & 50 % of\\_all\n\n"
        "| concept | method | dCLIP at +2 | distance\\_64 |\n"
        "| :--- | :--- | ---: | ---: |\n"
        "| age | slider | 2.00 [1.50, 2.50], n = 12 | 0.062 [0.050, 0.075], n = 12 |\n"
        "|  | rival | 1.50 [1.25, 1.75], n = 12 | 0.062 [0.050, 0.070], n = 12 |\n"
        "|  | *minus slider (paired sign-flip test)* | *-0.50 [-0.75, -0.25], p = 0.031, n = 12* "
        "| *0.000 [-0.001, 0.000], p \\< 0.001, n = 12* |\n"
        "| smile | rival | - | -0.500 [-0.750, -0.250], p = 0.031, n = 12 |\n\n"
        "A note.\n\n"
        "Tests: paired sign-flip test, two-sided, exact.\n\n"
        "### Published: A paper\n\n"
        "|  | dCLIP | LPIPS |\n"
        "| :--- | ---: | ---: |\n"
        "| Theirs | 1.10 (2) | - |\n\n"
        "Marks: 2 = read in second-hand digests of the paper only.\n\n"
        "Another.\n"
    )


def test_csv_gives_every_figure_back_exactly() -> None:
    lines = list(csv.DictReader(io.StringIO(csv_text(TABLE))))
    measured = [line for line in lines if line["block"] == "measured" and line["mean"]]
    cells = [cell.measure for row in TABLE.rows for cell in row.cells if cell.measure]
    read = [Measure(float(x["mean"]), (float(x["ci_low"]), float(x["ci_high"])), int(x["n"])) for x in measured]
    assert read == cells
    compared = [line for line in lines if line["block"] == "comparison"]
    assert [line["row"] for line in compared] == ["rival minus slider", "rival minus slider", "rival"]
    assert [float(line["p_value"]) for line in compared] == [0.03125, 0.00001, 0.03125]
    assert {line["test"] for line in compared} == {TEST.test}
    assert [(x["row"], x["column"], x["published"], x["mark"]) for x in lines if x["block"] == "published"] == [
        ("Theirs", "dCLIP", "1.1", "2")
    ]
    assert [line["text"] for line in lines if line["text"]] == ["-"]


def test_latex_is_escaped_and_balanced() -> None:
    text = latex(TABLE)
    assert r"\caption{Sliders \& 50 \% of\_all}" in text
    assert r"p \textless{} 0.001" in text
    assert r"$-$0.50 [$-$0.75, $-$0.25]" in text
    assert "sign-flip" in text, "a hyphen is no minus"
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}")
    assert text.count("{") == text.count("}")
    assert len(re.findall(r"\\(?:toprule|bottomrule)", text)) == 4
    body = text.split(r"\toprule")[1].split(r"\bottomrule")[0]
    rows = [line for line in body.strip().splitlines() if line.endswith(r" \\")]
    assert [line.count(" & ") for line in rows] == [3] * 5, "four columns: concept, method and two figures"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b & 5% #1 $x {y}", r"a\_b \& 5\% \#1 \$x \{y\}"),
        (r"\cmd ~ ^", r"\textbackslash{}cmd \textasciitilde{} \textasciicircum{}"),
        ("-1 to ±2, ViT-B-32, [-3, 1 - 2]", r"$-$1 to $\pm$2, ViT-B-32, [$-$3, 1 - 2]"),
        ("[0.1, 0.2]", "{}[0.1, 0.2]"),
    ],
)
def test_escape(text: str, expected: str) -> None:
    assert escape(text) == expected


def test_the_terminal_shows_the_same_figures() -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(terminal(TABLE))
    shown = console.export_text()
    for text in ("2.00 [1.50, 2.50]", "minus slider", "p < 0.001, n = 12", "1.10 (2)", "A note."):
        assert text in shown


def test_writing_twice_gives_the_same_four_files(tmp_path: Path) -> None:
    first = [path.read_bytes() for path in write_table(tmp_path / "a", "table1", TABLE)]
    files = write_table(tmp_path / "b", "table1", TABLE)
    assert [path.name for path in files] == ["table1.md", "table1.tex", "table1.csv", "table1.html"]
    assert [path.read_bytes() for path in files] == first
    assert len(list((tmp_path / "b").iterdir())) == 4


def test_a_figure_of_one_sample_is_refused() -> None:
    with pytest.raises(InputError, match="at least 2 prompts or seeds"):
        Cell(Measure(1.0, (1.0, 1.0), 1))


def test_a_table_without_rows_is_refused() -> None:
    with pytest.raises(InputError, match="'Nothing', but got none"):
        Table("Nothing", (Column("x"),), ())


@pytest.mark.parametrize("cell", [{}, {"measure": Measure(1.0, (0.5, 1.5), 4), "text": "-"}])
def test_a_cell_is_figure_or_text(cell: dict) -> None:
    with pytest.raises(ValueError, match="with figures or with a text"):
        Cell(**cell)


def test_rows_and_published_rows_must_fit_their_columns() -> None:
    with pytest.raises(ValueError, match="2 cells in row 'r'"):
        Table("T", (Column("a"), Column("b")), (Row("r", (Cell(text="-"),)),))
    with pytest.raises(ValueError, match="2 published figures of 'r'"):
        Published("P", ("a", "b"), {"r": [None]})
    with pytest.raises(ValueError, match="mark"):
        PublishedFigure(1.0, "X")
    with pytest.raises(ValueError, match="name of the row"):
        Table("T", (Column("a"),), (Row("r", (Cell(Measure(1.0, (0.5, 1.5), 4), TEST),)),))
