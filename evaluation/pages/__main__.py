"""One page over many runs: `python -m evaluation.pages OUTPUTS [seeds=3 run_pages=true]`."""

import logging
import sys
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from evaluation.pages.document import write_page
from evaluation.pages.gallery_page import gallery_page
from evaluation.pages.gallery_view import read_gallery, run_folders
from evaluation.pages.run_page import write_run_page
from evaluation.pages.run_view import MEASUREMENTS_FILE
from evaluation.sweep import folder_first
from slider_lightning.config import typed
from slider_lightning.entry import entry_point
from slider_lightning.generation import ProgressCallback

logger = logging.getLogger(__name__)


def write_gallery(config: dict[str, Any]) -> Path:
    """Writes the gallery of a folder of outputs, and where asked the pages of its runs.

    Args:
        config: the plain, checked config of conf/pages.yaml.

    Raises:
        InputError: if there is no run below the folder, a file of one is damaged, or the disk refuses.
    """
    folder, out = Path(config["folder"]), Path(config["out"])
    if typed(config["run_pages"], bool, "run_pages"):
        measured = [run for run in run_folders(folder) if (run.path / MEASUREMENTS_FILE).is_file()]
        with ProgressCallback("pages of runs") as progress:
            for number, run in enumerate(measured, 1):
                write_run_page(run)
                progress(number, len(measured))
    with ProgressCallback("cards") as progress:
        cards = read_gallery(folder, out.parent, typed(config["seeds"], int, "seeds"), progress)
    return write_page(out, gallery_page(cards))


@entry_point("pages")
def main(config: dict[str, Any]) -> None:
    """Write a gallery from the command line."""
    out = write_gallery(config)
    logger.info("Gallery: %s (%s)", out, decimal(out.stat().st_size))


if __name__ == "__main__":
    sys.argv[1:] = folder_first(sys.argv[1:])
    main()
