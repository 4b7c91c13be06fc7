"""Lightning's logger for one slider on Weights & Biases, where several may be trained at once."""

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from slider_lightning.training.wandb_run import WandbRun


class WandbSliderLogger(Logger):
    """Draws the loss of one slider over `global_step`.

    Args:
        run: of the slider.
        number: of the slider in the training.
        key: under which its loss is logged.
    """

    def __init__(self, run: WandbRun, number: int, key: str) -> None:
        super().__init__()
        self.run = run
        self.number = number
        self.key = key

    @property
    def name(self) -> str:
        """Its project."""
        return self.run.config.project

    @property
    def version(self) -> str:
        """Its id."""
        return self.run.card.id

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run began with its config."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs its loss."""
        if self.key in metrics:
            self.run.log({"train/loss": metrics[self.key], "epoch": metrics["epoch"]}, step)
