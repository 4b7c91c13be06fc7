"""One method on one concept: `python -m evaluation.run_baseline experiment=age baseline=prompt_to_prompt`."""

import logging
from typing import Any

from rich.console import Console

from evaluation.grids import Method
from evaluation.measures import slider_measures
from evaluation.setup import build_setup
from evaluation.tables import slider_tables
from slider_lightning.config import build
from slider_lightning.entry import entry_point

logger = logging.getLogger(__name__)


@entry_point("run_baseline")
def main(config: dict[str, Any]) -> None:
    """Make the image grid of a method, have it measured, and print the figures."""
    method: Method = build(config["baseline"], "baseline.")
    setup = build_setup(config)
    measurements = setup.measure(method)
    measures = slider_measures(measurements, setup.settings.target, setup.settings.protected)
    Console().print(slider_tables(measures, measurements.header.scales, setup.settings.target))
    logger.info("Images: %s", setup.gallery.grid(method, setup.settings.scales).folder)


if __name__ == "__main__":
    main()
