"""Measure a run: `python -m evaluation.evaluate run=RUN [+evaluation.prompts.seeds_per_prompt=128 ...]`."""

import hashlib
import logging
from collections.abc import Mapping
from typing import Any

import yaml
from rich.console import Console

from evaluation.grids import SliderMethod
from evaluation.measures import slider_measures
from evaluation.pages.images import image_places
from evaluation.pages.run_page import write_run_page
from evaluation.pages.run_view import MEASUREMENTS_FILE, PAGE_FILE
from evaluation.setup import build_setup
from evaluation.statistics import Measure, to_record
from evaluation.stored import check_stored
from evaluation.tables import slider_tables
from evaluation.wandb_report import log_evaluation
from slider_lightning.config import canonical_text
from slider_lightning.data import measured_cost
from slider_lightning.entry import entry_point
from slider_lightning.errors import InputError
from slider_lightning.training import RunFolder

logger = logging.getLogger(__name__)
SECTIONS = ("model", "sampler", "evaluation", "judges")
MEASURED_WITH = "eval/settings/measured_with"


def evaluate(run: RunFolder, changes: Mapping[str, Any] | None = None) -> dict[str, Measure]:
    """Make the image grid of a run's slider, judge it, and merge the figures into the run's summary.json.

    The readings are kept beside it as measurements.jsonl, and all of it is shown in page.html. A run that was logged on
    W&B goes on there.

    Args:
        run: a run whose slider is trained.
        changes: nested values laid over the sections "evaluation", "sampler", "model" and "judges" of the run's config.

    Returns:
        The figures of `evaluation.measures.slider_measures`.

    Raises:
        InputError: if the run, its slider, the model or a judge is missing or damaged, or a key is unknown.
    """
    config = run_config(run, changes or {})
    setup = build_setup(config)
    with measured_cost(setup.gallery.backbone) as cost:
        measurements = setup.measure(SliderMethod("concept_slider", (str(run.slider),)))
    measures = slider_measures(measurements, setup.settings.target, setup.settings.protected)
    settled = {f"eval/settings/{section}": config[section] for section in ("evaluation", "sampler")}
    settled["eval/settings/judges"] = measurements.header.judges
    settled[MEASURED_WITH] = measured_with(config)
    settled |= image_places(run.path, setup.gallery.root, measurements.header.settings)
    measurements.write(run.path / MEASUREMENTS_FILE)
    run.update_summary(to_record(measures) | settled | cost.summary("evaluation"), replace="eval/")
    write_run_page(run)
    log_evaluation(run, setup, measurements, measures)
    return measures


def measured_with(config: Mapping[str, Any]) -> str:
    """Twelve hex digits that change with the model or the judges."""
    text = canonical_text({section: config[section] for section in ("model", "judges")})
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def run_config(run: RunFolder, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of a run's config that an evaluation needs, with changes laid over them.

    Raises:
        InputError: if a section is missing, or names code, a hub id or a folder that nobody chose.
    """
    try:
        stored = yaml.safe_load(run.config.read_text())
    except yaml.YAMLError as error:
        raise InputError(f"Expected {run.config} to be YAML, but it is damaged; train the run again.") from error
    stored = stored if isinstance(stored, Mapping) else {}
    missing = [section for section in ("concept", *SECTIONS) if not stored.get(section)]
    if missing:
        raise InputError(
            f"Expected {run.config} to say how the run is measured, but it has no {', '.join(missing)}; train it again."
        )
    config = {
        "concept": stored["concept"],
        **{section: laid_over(stored[section], changes.get(section) or {}) for section in SECTIONS},
    }
    check_stored(run, config, changes)
    return config


def laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` with the values of `above`, mapping by mapping."""
    merged = dict(below)
    for key, value in above.items():
        known = merged.get(key)
        if isinstance(value, Mapping) and isinstance(known, Mapping):
            merged[key] = laid_over(known, value)
        else:
            merged[key] = value
    return merged


@entry_point("evaluate")
def main(config: dict[str, Any]) -> None:
    """Evaluate from the command line."""
    run = RunFolder.open(config["run"])
    changes = {section: config[section] for section in SECTIONS}
    measures = evaluate(run, changes)
    settings = run_config(run, changes)["evaluation"]
    Console().print(slider_tables(measures, settings["scales"], settings["target"]))
    logger.info("All figures: %s\nPage: %s", run.summary, run.path / PAGE_FILE)


if __name__ == "__main__":
    main()
