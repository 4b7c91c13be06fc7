"""One ablation from one sweep: `python -m experiments.paper.ablation ablation=rank_eta [objective.eta=1,4 ...]`."""

import logging
from typing import Any

from evaluation.evaluate import run_config
from evaluation.grids import SliderMethod
from evaluation.setup import build_setup
from experiments.paper.ablation_records import (
    RECORDS_FILE,
    AblationConfig,
    PointRecord,
    point_of,
    read_records,
    setting_of,
    sweep_folder,
    write_point,
)
from experiments.paper.ablation_report import write_report
from slider_lightning.config import build, portable_path
from slider_lightning.entry import entry_point
from slider_lightning.train import ensure_trained

logger = logging.getLogger(__name__)


def measure_point(config: dict[str, Any]) -> None:
    """Train the slider of one point where it is not trained yet, measure it, and keep the record.

    Args:
        config: the plain, checked config of conf/ablation.yaml.

    Raises:
        InputError: for what training or measuring cannot work with, or an axis that the config lacks.
    """
    ablation: AblationConfig = build(config["ablation"], "ablation.")
    folder, setting = sweep_folder(config, ablation), setting_of(config, ablation)
    if (folder / RECORDS_FILE).exists():
        read_records(folder)  # refused now if it is damaged, not after the training
    run = ensure_trained({key: value for key, value in config.items() if key != "ablation"})
    record = PointRecord(point_of(config, ablation.axes), setting, run=portable_path(str(run.path)))
    # Its own figures stay as they are: these are of other images.
    setup = build_setup(run_config(run, ablation.measure))
    write_point(folder, record, setup.measure(SliderMethod("concept_slider", (str(run.slider),))))
    write_report(folder)
    logger.info("Table and figure so far: %s", folder)


@entry_point("ablation")
def main(config: dict[str, Any]) -> None:
    """Measure one point of the sweep from the command line."""
    measure_point(config)


if __name__ == "__main__":
    main()
