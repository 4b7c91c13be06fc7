"""A table written in every format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from evaluation.pages.examples import ConceptImages
from evaluation.report.formats import csv_text, latex, markdown
from evaluation.report.html import html
from evaluation.report.table import Table
from slider_lightning.assets import atomic_path


def write_table(folder: Path, name: str, table: Table, images: Sequence[ConceptImages] = ()) -> tuple[Path, ...]:
    """Writes `name.md`, `name.tex`, `name.csv` and the page `name.html`, each whole or not at all.

    Args:
        folder: where to.
        name: of the files.
        table: what they show.
        images: of the methods, for the page.

    Returns:
        The four files.

    Raises:
        InputError: if the disk refuses.
    """
    writers: dict[str, Callable[[Table], str]] = {
        "md": markdown,
        "tex": latex,
        "csv": csv_text,
        "html": lambda shown: html(shown, images),
    }
    for ending, writer in writers.items():
        with atomic_path(folder / f"{name}.{ending}") as temporary:
            temporary.write_text(writer(table), encoding="utf-8")
    return tuple(folder / f"{name}.{ending}" for ending in writers)
