"""Train sliders: `python -m slider_lightning.train experiment=age [adapter.rank=8 grid.eta=[1,2,4] ...]`."""

import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from slider_lightning.config import typed
from slider_lightning.entry import entry_point, sweeping
from slider_lightning.errors import InputError
from slider_lightning.grid import axes_of, grid_points, train_grid
from slider_lightning.runs import finished, only_here, same_config, train_sliders
from slider_lightning.training import RunFolder

logger = logging.getLogger(__name__)

# Of joblib, and of submitit on this machine: what they start is no command that Lightning could start again.
ONE_PROCESS_LAUNCHERS = ("JoblibLauncher", "LocalLauncher")


def train(config: dict[str, Any]) -> RunFolder:
    """Train the slider that a checked config describes and fill its run folder.

    Args:
        config: the plain, checked config of conf/train.yaml.

    Raises:
        InputError: for a config, model, checkpoint or disk that training cannot work with.
    """
    run = RunFolder(Path(config["run"]))
    return train_sliders([config], run, resume=typed(config["resume"], bool, "resume"))[0]


def ensure_trained(config: dict[str, Any]) -> RunFolder:
    """The finished run of a config: the one that lies in its folder, else trained now.

    A run of the same config that was killed goes on from its last checkpoint; one of another config is replaced.

    Args:
        config: the plain, checked config of conf/train.yaml.

    Raises:
        InputError: as `train`.
    """
    run = RunFolder(Path(config["run"]))
    with only_here(run.path, "run"):
        same = same_config(run, config)
        if same and finished(run):
            logger.info("Run folder: %s (finished before)", run.path)
            return run
        return train({**config, "resume": same})


def check_launcher(config: dict[str, Any], launcher: str) -> None:
    """Refuse trainings of several processes under launchers that start one process for each.

    Args:
        config: the plain, checked config of conf/train.yaml.
        launcher: `_target_` of Hydra's launcher.

    Raises:
        InputError: if the training would have to start processes in a job of this machine.
    """
    trainer = config["trainer"]
    if trainer["devices"] * trainer["num_nodes"] > 1 and launcher.rpartition(".")[2] in ONE_PROCESS_LAUNCHERS:
        raise InputError(
            f"Expected one process per point under {launcher.rpartition('.')[2]}, but the trainer asks for "
            f"{trainer['devices']} devices on {trainer['num_nodes']} nodes; sweep without hydra/launcher, or on SLURM."
        )


@entry_point("train")
def main(config: dict[str, Any]) -> None:
    """Train from the command line."""
    axes = axes_of(config)
    if axes:
        train_grid(grid_points(axes, HydraConfig.get().overrides.task), Path(config["paths"]["outputs"]))
        with suppress(OSError):  # Hydra has made the folder of a run that is no point
            Path(config["run"]).rmdir()
    elif sweeping():
        check_launcher(config, HydraConfig.get().launcher._target_)
        ensure_trained(config)
    else:
        with only_here(Path(config["run"]), "run"):
            train(config)


if __name__ == "__main__":
    main()
