"""Measure a run: `python -m evaluation.evaluate run=RUN [+evaluation.num_seeds=128 ...]`."""

import logging
from collections.abc import Mapping
from typing import Any

import yaml
from rich.console import Console

from evaluation.config import EvaluationConfig
from evaluation.judges.panel import load_judges
from evaluation.measures import check_request, evaluate_slider
from evaluation.statistics import Measure, to_record
from evaluation.tables import slider_tables
from slider_lightning.adapters import SliderBank, load_slider
from slider_lightning.backbone import Backbone
from slider_lightning.config import build
from slider_lightning.data import measured_cost
from slider_lightning.entry import entry_point
from slider_lightning.errors import InputError
from slider_lightning.generation import ProgressCallback, generate_images
from slider_lightning.training import RunFolder

logger = logging.getLogger(__name__)
SECTIONS = ("model", "sampler", "evaluation")


def evaluate(run: RunFolder, changes: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Measure]:
    """Generate the images of a run's slider, judge them, and merge the figures into its summary.json.

    Args:
        run: a run whose slider is trained.
        changes: section ("evaluation", "sampler", "model") -> keys laid over the run's own config.

    Returns:
        The figures of `evaluation.measures.evaluate_slider`.

    Raises:
        InputError: if the run, its slider, the model or a judge is missing or damaged, or a key is unknown.
    """
    config = run_config(run, changes or {})
    settings: EvaluationConfig = build(config["evaluation"], "evaluation.")
    judges = load_judges(settings.judges)
    check_request(judges.probe.schema, settings.scales, settings.target, settings.protected)
    backbone: Backbone = build(config["model"], "model.")
    slider, _ = load_slider(run.slider, backbone.unet)
    bank = SliderBank(backbone.unet, [slider])
    with measured_cost(backbone) as generation, ProgressCallback("images to measure") as on_batch:
        images = generate_images(
            backbone,
            bank,
            settings.prompt,
            list(settings.seeds),
            list(settings.scales),
            build(config["sampler"], "sampler."),
            batch_size=settings.batch_size,
            on_batch=on_batch,
        )
    with measured_cost(backbone) as judging:
        measures = evaluate_slider(
            images, settings.scales, settings.target, settings.protected, judges, settings.edit_prompt
        )
    settled = {f"eval/settings/{section}": config[section] for section in ("evaluation", "sampler")}
    costs = generation.summary("generation") | judging.summary("judging")
    run.update_summary(to_record(measures) | settled | costs, replace="eval/")
    return measures


def run_config(run: RunFolder, changes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The sections of a run's config that an evaluation needs, with changes laid over them.

    Raises:
        InputError: if a section is missing.
    """
    try:
        stored = yaml.safe_load(run.config.read_text())
    except yaml.YAMLError as error:
        raise InputError(f"Expected {run.config} to be YAML, but it is damaged; train the run again.") from error
    stored = stored if isinstance(stored, Mapping) else {}
    missing = [section for section in SECTIONS if not stored.get(section)]
    if missing:
        raise InputError(
            f"Expected {run.config} to say how the run is measured, but it has no {', '.join(missing)}; train it again."
        )
    return {section: {**stored[section], **changes.get(section, {})} for section in SECTIONS}


@entry_point("evaluate")
def main(config: dict[str, Any]) -> None:
    """Evaluate from the command line."""
    run = RunFolder.open(config["run"])
    changes = {section: config[section] for section in SECTIONS}
    measures = evaluate(run, changes)
    settings = run_config(run, changes)["evaluation"]
    Console().print(slider_tables(measures, settings["scales"], settings["target"]))
    logger.info("All figures: %s", run.summary)


if __name__ == "__main__":
    main()
