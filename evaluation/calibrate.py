"""Calibrate a run's slider: `python -m evaluation.calibrate run=RUN [calibration.scales=[-2,-1,0,1,2] ...]`."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from rich.console import Console

from evaluation.calibration import CalibrationConfig, calibration_of, measure_response, sampler_facts
from evaluation.calibration_report import calibration_figure, calibration_table, record_of
from evaluation.dose import Response
from evaluation.evaluate import SECTIONS, run_config
from evaluation.grids import SliderMethod
from evaluation.report import save_figure, terminal
from evaluation.setup import build_setup
from slider_lightning.adapters import Calibration, load_slider, save_slider
from slider_lightning.config import build
from slider_lightning.data import measured_cost
from slider_lightning.entry import entry_point
from slider_lightning.training import RunFolder

logger = logging.getLogger(__name__)
PREFIX = "calibration/"
METHOD = "concept_slider"


def calibrate(run: RunFolder, config: CalibrationConfig, changes: Mapping[str, Any] | None = None) -> Calibration:
    """Measure the dose-response of a run's slider by the run's own judges, and store it where the slider is.

    It goes into slider.safetensors, whose weights stay the same bits, into summary.json under `calibration/`, and into
    calibration.png and .pdf.

    Args:
        run: a run whose slider is trained.
        config: which scales are measured, and what is useful.
        changes: nested values laid over the sections "evaluation", "sampler", "model" and "judges" of the run's config.

    Raises:
        InputError: if the run, its slider, the model or a judge is missing or damaged, or the slider has no effect.
    """
    setup = build_setup(run_config(run, changes or {}))
    backbone, target = setup.gallery.backbone, setup.settings.target
    with measured_cost(backbone) as cost:
        measurements = measure_response(setup, SliderMethod(METHOD, (str(run.slider),)), config)
    facts = {
        "prompts": tuple(dict.fromkeys(row.prompt for row in setup.settings.prompts.rows)),
        "sampler": sampler_facts(setup.gallery.sampler),
        "model": backbone.fingerprint,
    }
    calibration = calibration_of(Response.of(measurements, target, config.rule), config.rule, facts)
    store(run, calibration)
    rule = {f"{PREFIX}rule": asdict(config.rule)}
    run.update_summary(record_of(calibration, PREFIX) | rule | cost.summary("calibration"), replace=PREFIX)
    save_figure(run.path, "calibration", calibration_figure(calibration))
    return calibration


def store(run: RunFolder, calibration: Calibration) -> None:
    """Write the calibration, and the useful scales that it found, into the run's slider file.

    Raises:
        InputError: if the file is missing or damaged, or the disk refuses.
    """
    slider, metadata = load_slider(run.slider)
    useful = calibration.useful_scales
    save_slider(run.slider, slider, replace(metadata, calibration=calibration, useful_scales=useful))


@entry_point("calibrate")
def main(config: dict[str, Any]) -> None:
    """Calibrate from the command line."""
    run = RunFolder.open(config["run"])
    settings: CalibrationConfig = build(config["calibration"], "calibration.")
    calibration = calibrate(run, settings, {section: config[section] for section in SECTIONS})
    Console().print(terminal(calibration_table(calibration)))
    logger.info("The slider with its calibration: %s", run.slider)


if __name__ == "__main__":
    main()
