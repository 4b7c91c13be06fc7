"""An evaluation on Weights & Biases: in the run that the slider's training was logged to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.grids import ImageGrid, SliderMethod
from evaluation.measurements import Measurements
from evaluation.report.figures import dose_response_figure
from evaluation.setup import Setup
from evaluation.statistics import Measure
from slider_lightning.backbone import images_to_pil
from slider_lightning.generation import format_scales
from slider_lightning.training import RunFolder, WandbRun
from slider_lightning.training.wandb_run import open_again

COLUMNS = ("figure", "mean", "ci95_low", "ci95_high", "n")
SHOWN_ROWS = 3
# What the service shows of a table by default.
MOST_LINES = 10_000


def log_evaluation(run: RunFolder, setup: Setup, measurements: Measurements, measures: Mapping[str, Measure]) -> None:
    """Log figures, tables, the dose-response and images; nothing if the run's training was not logged on W&B.

    Args:
        run: whose slider was measured.
        setup: what measured it.
        measurements: the readings of its images.
        measures: the figures.
    """
    with open_again(run) as logged:
        if logged is None:
            return
        logged.log({name: measure.mean for name, measure in measures.items()})
        log_dose_response(logged, measurements, setup.settings.target)
        method = SliderMethod(measurements.header.method, (str(run.slider),))
        log_images(logged, setup.gallery.grid(method, setup.settings.scales), setup.gallery.base)
        log_tables(logged, measurements, measures)  # last, since only tables wait where the service has gone away


def log_tables(run: WandbRun, measurements: Measurements, measures: Mapping[str, Measure]) -> None:
    """Two tables: every figure with its interval, and every reading of every image."""
    import wandb  # here, since it takes a second and most evaluations log nothing

    lines = [[name, each.mean, *each.ci95, each.n] for name, each in measures.items()]
    frame = measurements.frame.head(MOST_LINES)
    tables = {
        "eval/figures": wandb.Table(columns=list(COLUMNS), data=lines),
        "eval/measurements": wandb.Table(dataframe=frame),
    }
    run.log(tables)


def log_dose_response(run: WandbRun, measurements: Measurements, target: str | None) -> None:
    """How far the target moves at every scale; nothing without a target."""
    import wandb

    if target is not None:
        name = measurements.header.concept
        figure = dose_response_figure({name: measurements}, {name: target})
        run.log({"eval/dose_response": wandb.Image(figure, caption=f"{name}: shift of {target} by slider scale")})


def log_images(run: WandbRun, grid: ImageGrid, base: ImageGrid) -> None:
    """The first rows of the grid, an image per scale, the unedited one among them."""
    import wandb

    rows = slice(0, SHOWN_ROWS)
    scales = sorted({0.0, *grid.scales})
    columns = {scale: images_to_pil((base if scale == 0 else grid).images(scale, rows)) for scale in scales}
    shown: Sequence[Any] = [
        wandb.Image(columns[scale][number], caption=f"{format_scales(scale)} | {row.prompt} | seed {row.seed}")
        for number, row in enumerate(grid.rows[rows])
        for scale in scales
    ]
    run.log({"eval/images": shown})
