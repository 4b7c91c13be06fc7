"""The Lightning Trainer of a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from slider_lightning.errors import InputError
from slider_lightning.training.checkpoints import AtomicCheckpointIO, LastCheckpoint
from slider_lightning.training.run_folder import RunFolder


@dataclass(frozen=True)
class TrainerConfig:
    """What a researcher chooses of Lightning's Trainer.

    Args:
        max_steps: optimizer steps, at least 1.
        accelerator: "auto", "cpu", "gpu", ...
        devices: processes on this machine.
        num_nodes: machines.
        strategy: Lightning's strategy, e.g. "auto" or "ddp".
        precision: of the training step; a half-precision backbone is chosen by model.dtype instead.
        gradient_clip_val: largest norm of the gradient; null does not clip.
        accumulate_grad_batches: batches per optimizer step.
        log_every_n_steps: optimizer steps between two logged lines.
        checkpoint_every_n_steps: optimizer steps between two checkpoints.
        progress_bar: show the rich progress bar.

    Raises:
        InputError: if a count is below 1.
    """

    max_steps: int = 200
    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    gradient_clip_val: float | None = 1.0
    accumulate_grad_batches: int = 1
    log_every_n_steps: int = 5
    checkpoint_every_n_steps: int = 25
    progress_bar: bool = True

    def __post_init__(self) -> None:
        counts = (
            "max_steps",
            "devices",
            "num_nodes",
            "accumulate_grad_batches",
            "log_every_n_steps",
            "checkpoint_every_n_steps",
        )
        for field in counts:
            if (value := getattr(self, field)) < 1:
                raise InputError(f"Expected trainer.{field} to be 1 or more, but got {value}; raise it.")


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
