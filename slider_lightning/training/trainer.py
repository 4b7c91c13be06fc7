"""The Lightning Trainer of a run."""

from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from slider_lightning.config.training import TrainerConfig
from slider_lightning.errors import InputError
from slider_lightning.training.checkpoints import AtomicCheckpointIO, LastCheckpoint
from slider_lightning.training.progress import ProgressReport
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


class StepProgressBar(ProgressBar):
    """Optimizer step of how many, the loss and the time left.

    Args:
        every_n_steps: optimizer steps between two looks at the loss, each of which waits for the device.
    """

    def __init__(self, every_n_steps: int) -> None:
        super().__init__()
        self._every_n_steps = every_n_steps
        self._report = ProgressReport("Training", "step ")
        self._loss, self._shown = "", -1
        self._enabled = True

    def disable(self) -> None:
        """Show nothing: Lightning calls this in all processes but the first."""
        self._enabled = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begins at the step that training goes on from."""
        self._show(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves on after every optimizer step."""
        if not self._enabled or trainer.global_step == self._shown:
            return
        if trainer.global_step % self._every_n_steps == 0 or trainer.global_step == trainer.max_steps:
            loss = trainer.progress_bar_metrics.get("train/loss")
            self._loss = "" if loss is None else f"loss {float(loss):.3g}"
        self._show(trainer)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Ends the bar, also where training was stopped before its last step."""
        self._report.stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leaves the terminal to the error."""
        self._report.stop()

    def _show(self, trainer: L.Trainer) -> None:
        # A finished run that is looked at again has no step left to show.
        if self._enabled and trainer.global_step > self._shown and self._shown < trainer.max_steps:
            self._shown = trainer.global_step
            self._report.update(self._shown, trainer.max_steps, self._loss)


def cluster_plugins() -> list[SLURMEnvironment]:
    """SLURM without Lightning's requeueing: what submitted the job queues it again."""
    on_slurm = SLURMEnvironment.detect() and not TorchElasticEnvironment.detect()
    return [SLURMEnvironment(auto_requeue=False)] if on_slurm else []
