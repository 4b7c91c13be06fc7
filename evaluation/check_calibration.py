"""Check calibrated units on held-out seeds: `python -m evaluation.check_calibration runs=[RUN,RUN ...]`."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from evaluation.calibrate import METHOD
from evaluation.calibration_check import CALIBRATED, RAW, Knob, check_figure, check_record, check_table
from evaluation.config import EvaluationConfig
from evaluation.dose import Response, UsefulRule
from evaluation.evaluate import SECTIONS, laid_over, run_config
from evaluation.grids import GridSpec, SliderMethod
from evaluation.report import save_figure, terminal, write_table
from evaluation.scale_sweeps import check_scales
from evaluation.setup import build_setup
from slider_lightning.adapters import Calibration, check_settings, common_unit, load_slider
from slider_lightning.config import build, typed
from slider_lightning.entry import entry_point
from slider_lightning.errors import InputError
from slider_lightning.training import RunFolder
from slider_lightning.training.run_folder import write_json

logger = logging.getLogger(__name__)
NAME = "calibration_check"


def calibration_in(run: RunFolder) -> Calibration:
    """The calibration of a run's slider.

    Raises:
        InputError: if the slider is missing or damaged, or has none.
    """
    calibration = load_slider(run.slider)[1].calibration
    if calibration is None:
        raise InputError(
            f"Expected a calibrated slider in {run.path}, but it has no calibration; make it with python -m "
            f"evaluation.calibrate run={run.path}."
        )
    return calibration


def check_slider(
    run: RunFolder, calibration: Calibration, places: Sequence[float], first_seed: int, changes: Mapping[str, Any]
) -> dict[str, Knob]:
    """Turn a run's slider to `places`, once as slider scales and once as units, on seeds that it was not calibrated on.

    Args:
        run: its folder.
        calibration: of its slider.
        places: increasing in equal steps, 0 among them.
        first_seed: of the held-out seeds.
        changes: nested values laid over the sections of the run's config.

    Returns:
        `RAW` and `CALIBRATED` to what the slider did.

    Raises:
        InputError: if the model, a judge or an image is missing or damaged, or the run is measured in another unit.
    """
    low, high = calibration.useful_effects
    asked = tuple(units for units in places if low <= units <= high)
    scales = tuple(calibration.scale_of(units) for units in asked)
    measured = sorted({*places, *scales})
    held_out = {"evaluation": {"prompts": {"first_seed": first_seed}, "scales": measured}}
    setup = build_setup(run_config(run, laid_over(changes, held_out)))
    check_apart(run, setup.settings.prompts)
    sampler = vars(setup.gallery.sampler)
    if warning := check_settings(calibration, setup.gallery.backbone.fingerprint, sampler):
        logger.warning("%s", warning)
    method = SliderMethod(METHOD, (str(run.slider),))
    response = Response.of(setup.measure(method), setup.settings.target, UsefulRule())
    if response.unit != calibration.unit:
        raise InputError(
            f"Expected judges that measure {calibration.unit}, but these measure {response.unit}; give the judges "
            "of the calibration, or calibrate again."
        )
    turned = {RAW: (tuple(places), places), CALIBRATED: (asked, scales)}
    position = {scale: number for number, scale in enumerate(response.scales)}
    return {
        kind: Knob(at, response.changes[:, [position[scale] for scale in where]])
        for kind, (at, where) in turned.items()
    }


def check_apart(run: RunFolder, held_out: GridSpec) -> None:
    """Refuse seeds that the run itself is measured on.

    Raises:
        InputError: if there are any.
    """
    own: EvaluationConfig = build(run_config(run, {})["evaluation"], "evaluation.")
    known = {row.seed for row in own.prompts.rows}
    if known & {row.seed for row in held_out.rows}:
        raise InputError(
            f"Expected first_seed to begin seeds apart from the run's {min(known)}..{max(known)}, but got "
            f"{held_out.first_seed}; raise it."
        )


@entry_point("check_calibration")
def main(config: dict[str, Any]) -> None:
    """Check from the command line."""
    runs = [RunFolder.open(place) for place in typed(config["runs"], tuple[str, ...], "runs")]
    places = typed(config["places"], tuple[float, ...], "places")
    check_scales(places)
    first_seed = typed(config["first_seed"], int, "first_seed")
    changes = {section: config[section] for section in SECTIONS}
    calibrations = [calibration_in(run) for run in runs]
    unit = common_unit(calibrations)
    checked = {
        f"{calibration.target} ({run.path.name})": check_slider(run, calibration, places, first_seed, changes)
        for run, calibration in zip(runs, calibrations, strict=True)
    }
    rows = len(next(iter(checked.values()))[RAW].changes)
    table, out = check_table(checked, unit, rows), Path(config["out"])
    Console().print(terminal(table))
    write_table(out, NAME, table)
    write_json(out / f"{NAME}.json", check_record(checked))
    save_figure(out, NAME, check_figure(checked, unit))
    logger.info("Table, figures and picture: %s", out)


if __name__ == "__main__":
    main()
