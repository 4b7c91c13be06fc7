"""One table and heat maps from a sweep: `python -m evaluation.sweep DIR [evaluate=false ...]`."""

import logging
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from evaluation.evaluate import SECTIONS
from evaluation.report import save_figure, terminal, write_table
from evaluation.sweep_figures import sweep_figures
from evaluation.sweep_points import measured_points, read_sweep
from evaluation.sweep_report import sweep_table
from slider_lightning.config import typed
from slider_lightning.entry import entry_point
from slider_lightning.generation import ProgressCallback

logger = logging.getLogger(__name__)


def report_sweep(config: dict[str, Any]) -> Path:
    """Measure what is not measured yet of a sweep, and write its table (md, tex, csv) and figures into its folder.

    Args:
        config: the plain, checked config of conf/sweep.yaml.

    Raises:
        InputError: if the folder is no sweep's, or the disk refuses.
    """
    folder = Path(config["folder"])
    sweep, changes = read_sweep(folder), {section: config[section] for section in SECTIONS if config[section]}
    with ProgressCallback("runs") as progress:
        points = measured_points(sweep, changes, typed(config["evaluate"], bool, "evaluate"), progress)
    table = sweep_table(f"Sweep {folder.name} over {', '.join(sweep.axes) or 'one point'}", points)
    Console().print(terminal(table))
    write_table(folder, "table", table)
    for name, figure in sweep_figures(points).items():
        save_figure(folder, name, figure)
    logger.info("Table and figures: %s", folder)
    return folder


@entry_point("sweep")
def main(config: dict[str, Any]) -> None:
    """Report a sweep from the command line."""
    report_sweep(config)


def folder_first(arguments: list[str]) -> list[str]:
    """The arguments with a folder that stands alone as `folder=`; what Hydra understands stays as it is."""
    return [each if "=" in each or each.startswith("-") else f"folder='{each}'" for each in arguments]


if __name__ == "__main__":
    sys.argv[1:] = folder_first(sys.argv[1:])
    main()
