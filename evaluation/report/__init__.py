"""Tables and figures as pure functions of measurements, and how they are written."""

from evaluation.report.formats import csv_text, latex, markdown, terminal
from evaluation.report.html import html
from evaluation.report.style import save_figure
from evaluation.report.table import Cell, Column, Published, PublishedFigure, Row, Table
from evaluation.report.writing import write_table

__all__ = [
    "Cell",
    "Column",
    "Published",
    "PublishedFigure",
    "Row",
    "Table",
    "csv_text",
    "html",
    "latex",
    "markdown",
    "save_figure",
    "terminal",
    "write_table",
]
