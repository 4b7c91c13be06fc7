"""One resumable Lightning training: every network of the tiny_faces world is trained through `fit`."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

Batch = TypeVar("Batch")
CHECKPOINT = "last.ckpt"
METRICS = "metrics.jsonl"


class StepBatches(Dataset[Batch], Generic[Batch]):
    """A data set whose item number i is the whole batch of optimizer step i.

    Args:
        make_batch: Pure function of the step: the same step gives the same batch in every run, which is what makes
            a resumed training equal to an uninterrupted one. Noise and noise levels belong into it too.
        steps: Number of steps.
    """

    def __init__(self, make_batch: Callable[[int], Batch], steps: int) -> None:
        self.make_batch = make_batch
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        return self.make_batch(step)


class RemainingSteps(Sampler[int]):
    """The steps from `start` on; its length stays the whole training's, which is what Lightning counts against."""

    def __init__(self, start: int, steps: int) -> None:
        self.start = start
        self.steps = steps

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.steps))

    def __len__(self) -> int:
        return self.steps


class MetricLines(Callback):
    """Appends one JSON line with the logged metrics, the step and the seconds so far every `every` steps."""

    def __init__(self, path: Path, every: int) -> None:
        self.path = path
        self.every = every
        self.started = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.started = time.perf_counter()

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step % self.every and trainer.global_step != trainer.max_steps:
            return
        line: dict[str, float] = {"step": trainer.global_step, "seconds": round(time.perf_counter() - self.started, 2)}
        for name, value in trainer.callback_metrics.items():
            line[name] = round(float(value), 6) if isinstance(value, Tensor) else value
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def adamw_one_cycle(
    parameters: Iterable[torch.nn.Parameter] | list[dict[str, Any]],
    learning_rate: float,
    steps: int,
    weight_decay: float = 1e-2,
    warmup: int = 50,
) -> OptimizerLRScheduler:
    """AdamW under a linear warm-up and a half cosine to 1 % of the learning rate, for Lightning."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))

    optimizer = torch.optim.AdamW(parameters, learning_rate, betas=(0.9, 0.99), weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def checkpoint_step(path: Path) -> int:
    """The optimizer step that a checkpoint was written at; 0 where there is none."""
    if not path.is_file():
        return 0
    return int(torch.load(path, map_location="cpu", weights_only=False, mmap=True)["global_step"])


def fit(
    module: lightning.LightningModule,
    make_batch: Callable[[int], Any],
    work_dir: Path,
    max_steps: int,
    *,
    precision: Any = "32-true",
    checkpoint_every: int = 100,
    log_every: int = 10,
    gradient_clip_val: float | None = None,
    accelerator: str = "auto",
    progress: bool = True,
) -> int:
    """Trains `module` for `max_steps` steps, from `work_dir/last.ckpt` on where a run was cut short.

    A finished training is loaded and returns at once, so a build can call this for every stage. `work_dir` must
    belong to one configuration: whoever changes sizes or data names another folder.

    Args:
        module: What to train; it is trained in place and holds the final weights afterwards.
        make_batch: The batch of a step, see `StepBatches`.
        work_dir: Folder of the checkpoint and of metrics.jsonl; made where missing.
        max_steps: Optimizer steps of the whole training.
        precision: Lightning's precision, e.g. "bf16-mixed".
        checkpoint_every: Steps between two checkpoints.
        log_every: Steps between two lines of metrics.jsonl.
        gradient_clip_val: Largest norm of the gradient.
        accelerator: Lightning's accelerator.
        progress: Whether to show the rich progress bar.

    Returns:
        The step it started from: 0 for a fresh training, `max_steps` for one that was finished before.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    checkpoint = work_dir / CHECKPOINT
    start = checkpoint_step(checkpoint)
    saver = ModelCheckpoint(
        work_dir, filename=checkpoint.stem, every_n_train_steps=checkpoint_every, enable_version_counter=False
    )
    bar = [RichProgressBar(refresh_rate=log_every)] if progress else []
    trainer = lightning.Trainer(
        accelerator=accelerator,
        devices=1,
        max_steps=max_steps,
        max_epochs=1,
        precision=precision,
        logger=False,
        callbacks=[saver, MetricLines(work_dir / METRICS, log_every), *bar],
        gradient_clip_val=gradient_clip_val,
        enable_progress_bar=progress,
        enable_model_summary=False,
        log_every_n_steps=log_every,
        default_root_dir=work_dir,
    )
    loader: DataLoader[Any] = DataLoader(
        StepBatches(make_batch, max_steps),
        batch_size=None,
        sampler=RemainingSteps(start, max_steps),
    )
    with warnings.catch_warnings():
        # RemainingSteps continues where the checkpoint ends; Lightning cannot see that.
        warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
        warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
        trainer.fit(module, loader, ckpt_path=checkpoint if start else None, weights_only=False)
    if start < max_steps:
        trainer.save_checkpoint(checkpoint)
    return start
