"""The Lightning Trainer of a run."""

from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from slider_lightning.config.training import TrainerConfig
from slider_lightning.errors import InputError
from slider_lightning.training.checkpoints import AtomicCheckpointIO, LastCheckpoint
from slider_lightning.training.run_folder import RunFolder


def build_trainer(
    config: TrainerConfig, run: RunFolder, loggers: Sequence[Logger], callbacks: Sequence[Callback]
) -> L.Trainer:
    """A Trainer that writes its checkpoints into the run folder.

    Raises:
        InputError: if this machine has no such accelerator, or Lightning refuses another choice.
    """
    bar: list[Callback] = [StepProgressBar(config.log_every_n_steps)] if config.progress_bar else []
    try:
        return L.Trainer(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.num_nodes,
            strategy=config.strategy,
            precision=config.precision,  # type: ignore[arg-type]
            max_steps=config.max_steps,
            max_epochs=-1,
            gradient_clip_val=config.gradient_clip_val,
            accumulate_grad_batches=config.accumulate_grad_batches,
            log_every_n_steps=config.log_every_n_steps,
            logger=list(loggers),
            callbacks=[LastCheckpoint(run.checkpoints, config.checkpoint_every_n_steps), *bar, *callbacks],
            plugins=[AtomicCheckpointIO(), *cluster_plugins()],
            enable_progress_bar=config.progress_bar,
            enable_model_summary=False,
            default_root_dir=run.path,
        )
    except (ValueError, RuntimeError, MisconfigurationException) as error:
        raise InputError(f"Expected trainer settings that Lightning takes, but it answers: {error}") from error


class StepProgressBar(RichProgressBar):
    """Lightning's bar, but the figures beside it are read every `every_n_steps` steps: each look waits for the device.

    Args:
        every_n_steps: optimizer steps between two looks.
    """

    def __init__(self, every_n_steps: int) -> None:
        super().__init__()
        self._every_n_steps = every_n_steps
        self._told: dict[str, Any] = {}

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """The figures beside the bar."""
        if not self._told or trainer.global_step % self._every_n_steps == 0:
            self._told = dict(super().get_metrics(trainer, pl_module))
        return self._told


def cluster_plugins() -> list[SLURMEnvironment]:
    """SLURM without Lightning's requeueing: what submitted the job queues it again."""
    on_slurm = SLURMEnvironment.detect() and not TorchElasticEnvironment.detect()
    return [SLURMEnvironment(auto_requeue=False)] if on_slurm else []
