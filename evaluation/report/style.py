"""How figures look, and how they are written: the same bytes whenever the same figure is drawn."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from slider_lightning.assets import atomic_path

Parameters = ParamSpec("Parameters")

# Okabe and Ito's palette, told apart with any kind of colour vision, without black and yellow; then two more.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#6B6B6B")
MARKERS = ("o", "s", "^", "D", "v", "P")
GREY = "#8C8C8C"
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "figure.dpi": 100,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,
}
TEXT_WIDTH = 6.75
PNG_METADATA = {"Software": None}
PDF_METADATA = {"Creator": None, "Producer": None, "CreationDate": None}


def styled(draw: Callable[Parameters, Figure]) -> Callable[Parameters, Figure]:
    """Has a function draw its figure in this style, whatever the session's own."""

    @wraps(draw)
    def drawn(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Figure:
        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(STYLE)
            return draw(*args, **kwargs)

    return drawn


def new_figure(width: float, height: float) -> Figure:
    """An empty figure in inches, apart from pyplot's state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(folder: Path, name: str, figure: Figure) -> tuple[Path, Path]:
    """Writes `name.png` and `name.pdf`, each whole or not at all; the same figure gives the same bytes.

    Returns:
        The two files.

    Raises:
        InputError: if the disk refuses.
    """
    files = folder / f"{name}.png", folder / f"{name}.pdf"
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        for path, metadata in zip(files, (PNG_METADATA, PDF_METADATA), strict=True):
            with atomic_path(path) as temporary:
                figure.savefig(temporary, metadata=metadata)
    return files


def zero_lines(axes: Axes) -> None:
    """Thin lines through the origin, under everything."""
    axes.axhline(0, color="#BDBDBD", linewidth=0.8, zorder=0.5)
    axes.axvline(0, color="#BDBDBD", linewidth=0.8, zorder=0.5)
