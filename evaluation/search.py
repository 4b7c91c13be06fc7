"""One trial of a search: `python -m evaluation.search experiment=age [hydra.sweeper.n_trials=40 study=NAME ...]`."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import reduce
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser

from evaluation.evaluate import evaluate
from evaluation.statistics import Measure
from slider_lightning.assets import atomic_path, locked
from slider_lightning.entry import entry_point
from slider_lightning.errors import InputError
from slider_lightning.grid import axes_of
from slider_lightning.multirun import CONFIG_FILE
from slider_lightning.runs import deciding
from slider_lightning.train import ensure_trained

logger = logging.getLogger(__name__)

SETTINGS_FILE = "settings.sha256"


def objectives(measures: Mapping[str, Measure], target: str) -> tuple[float, float]:
    """What a search trades: the target's shift from the lowest to the highest scale, and interference.

    Args:
        measures: the figures of a slider.
        target: what the slider should move.
    """
    shift = measures[f"eval/attribute_range/{target.partition('=')[0]}"]
    return shift.mean, measures["eval/interference"].mean


def check_study(folder: Path, config: Mapping[str, Any], searched: Sequence[str]) -> None:
    """Refuse trials whose settings differ from those of the study beside what is searched.

    Args:
        folder: of the study.
        config: of a trial.
        searched: keys of the config.

    Raises:
        InputError: if they do.
    """
    fixed: dict[str, Any] = deepcopy({key: value for key, value in config.items() if key != "name"})  # follows others
    for key in searched:
        *parents, last = key.split(".")
        reduce(lambda node, name: node[name], parents, fixed).pop(last, None)
    digest = hashlib.sha256(deciding(fixed, "strip").encode()).hexdigest()
    with locked(folder, "study"):
        path = folder / SETTINGS_FILE
        if not path.is_file():
            with atomic_path(path) as temporary:
                temporary.write_text(f"{digest}\n")
        if path.read_text().strip() != digest:
            raise InputError(
                f"Expected the study in {folder} to go on with the settings that it began with, but they differ; name "
                "another with study=NAME."
            )


def swept(folder: Path) -> list[str]:
    """The keys that the command line of a search gives several values, e.g. seed=1,2, from the folder of its study."""
    listed = yaml.safe_load((folder / CONFIG_FILE).read_text())["hydra"]["overrides"]["task"]
    overrides = OverridesParser.create().parse_overrides(list(listed))
    return [override.get_key_element() for override in overrides if override.is_sweep_override()]


def search_trial(config: dict[str, Any]) -> tuple[float, float]:
    """Train the slider of a trial where it is not trained yet, measure it, and say how good it is.

    Args:
        config: the plain, checked config of conf/search.yaml.

    Raises:
        InputError: for what training or measuring cannot work with.
    """
    trainer = config["trainer"]
    if trainer["devices"] * trainer["num_nodes"] > 1:
        raise InputError("Expected one process per trial, since each would search alone; set trainer.devices=1.")
    if axes_of(config):
        raise InputError(
            "Expected one slider per trial, but got a grid; leave out grid.*, or train it without a search."
        )
    target, protected = config["evaluation"]["target"], config["evaluation"]["protected"]
    if not target or not protected:
        raise InputError(
            "Expected evaluation.target and evaluation.protected for a search, but one is empty; set both."
        )
    run = ensure_trained({key: value for key, value in config.items() if key not in ("study", "measure")})
    shift, interference = objectives(evaluate(run, config["measure"]), target)
    logger.info("Target shift %.3f, interference %.3f: %s", shift, interference, run.path)
    return shift, interference


@entry_point("search")
def main(config: dict[str, Any]) -> tuple[float, float]:
    """Train and measure one trial from the command line."""
    hydra = HydraConfig.get()
    folder = Path(hydra.sweep.dir)
    check_study(folder, config, [*hydra.sweeper.params, *swept(folder)])
    return search_trial(config)


if __name__ == "__main__":
    main()
