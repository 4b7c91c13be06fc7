"""One method on one concept: `python -m evaluation.run_baseline experiment=age baseline=prompt_to_prompt`."""

import logging
from pathlib import Path
from typing import Any

from rich.console import Console

from evaluation.config import EvaluationConfig
from evaluation.gallery import Gallery
from evaluation.grids import Method
from evaluation.judges.panel import Judges
from evaluation.measures import check_request, slider_measures
from evaluation.measuring import EditPrompts, Examiner
from evaluation.tables import slider_tables
from slider_lightning.backbone import Backbone
from slider_lightning.config import build
from slider_lightning.entry import entry_point

logger = logging.getLogger(__name__)


@entry_point("run_baseline")
def main(config: dict[str, Any]) -> None:
    """Make the image grid of a method, have it measured, and print the figures."""
    settings: EvaluationConfig = build(config["evaluation"], "evaluation.")
    method: Method = build(config["baseline"], "baseline.")
    judges: Judges = build(config["judges"], "judges.")
    check_request(judges.classifier.schema, settings.scales, settings.target, settings.protected)
    backbone: Backbone = build(config["model"], "model.")
    judges.to(backbone.device)
    sampler = build(config["sampler"], "sampler.")
    gallery = Gallery(backbone, settings.prompts, sampler, Path(settings.grids), settings.batch_size)
    texts = EditPrompts(settings.edit_prompt, settings.opposite_prompt)
    examiner = Examiner(judges, config["judges"], config["concept"]["name"], texts, backbone.name)
    measurements = gallery.measure(method, settings.scales, examiner)
    measures = slider_measures(measurements, settings.target, settings.protected)
    Console().print(slider_tables(measures, measurements.header.scales, settings.target or ""))
    logger.info("Images: %s", gallery.grid(method, settings.scales).folder)


if __name__ == "__main__":
    main()
