"""One trial of a sweep of W&B: `python -m evaluation.wandb_trial experiment=age adapter.rank=4`, as its agent says."""

import logging
from typing import Any

from evaluation.evaluate import evaluate
from slider_lightning.entry import entry_point
from slider_lightning.errors import InputError
from slider_lightning.grid import axes_of
from slider_lightning.train import ensure_trained
from slider_lightning.training import RunFolder

logger = logging.getLogger(__name__)


def wandb_trial(config: dict[str, Any]) -> RunFolder:
    """Train the slider of a trial where it is not trained yet, and measure it; W&B reads the figures from its run.

    Args:
        config: the plain, checked config of conf/wandb_trial.yaml.

    Raises:
        InputError: for what training or measuring cannot work with.
    """
    trainer = config["trainer"]
    if trainer["devices"] * trainer["num_nodes"] > 1:
        raise InputError("Expected one process per trial, since each would measure alone; set trainer.devices=1.")
    if axes_of(config):
        raise InputError("Expected one slider per trial of a sweep of W&B, but got a grid; leave out grid.*.")
    run = ensure_trained({key: value for key, value in config.items() if key != "measure"})
    evaluate(run, config["measure"])
    return run


@entry_point("wandb_trial")
def main(config: dict[str, Any]) -> None:
    """Train and measure one trial from the command line."""
    run = wandb_trial(config)
    logger.info("Measured: %s", run.summary)


if __name__ == "__main__":
    main()
