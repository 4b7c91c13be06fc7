"""Checkpoints a killed run goes on from: the slider, its optimizer and where training stands, whole or absent."""

import zipfile
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

from slider_lightning.assets import atomic_path
from slider_lightning.errors import InputError

LAST = "last"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Trainer plugin that writes a checkpoint beside its place and moves it there.

    Lightning's own writing goes through the system's temporary folder; where that is another disk, a kill during the
    copy leaves half a checkpoint in place of the last good one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Writes the checkpoint.

        Raises:
            InputError: if the disk refuses; the checkpoint before stays.
        """
        with atomic_path(Path(path)) as temporary, temporary.open("wb") as file:
            torch.save(checkpoint, file)


class LastCheckpoint(ModelCheckpoint):
    """Keeps `last.ckpt` in a folder: every `every_n_steps` optimizer steps and at the end of training.

    Use it with `AtomicCheckpointIO` in the trainer's plugins.

    Args:
        folder: where `last.ckpt` lies.
        every_n_steps: optimizer steps between two checkpoints, at least 1.

    Raises:
        InputError: if every_n_steps is below 1.
    """

    def __init__(self, folder: Path, every_n_steps: int = 50) -> None:
        if every_n_steps < 1:
            raise InputError(f"Expected checkpoint.every_n_steps to be 1 or more, but got {every_n_steps}; raise it.")
        super().__init__(
            dirpath=folder,
            every_n_train_steps=every_n_steps,
            save_top_k=0,
            save_last=True,
            enable_version_counter=False,
        )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves the end of training, wherever it fell between two checkpoints."""
        super().on_train_end(trainer, pl_module)
        trainer.save_checkpoint(last_checkpoint_path(Path(str(self.dirpath))), weights_only=False)


def last_checkpoint_path(folder: Path) -> Path:
    """Where `LastCheckpoint` writes."""
    return folder / f"{LAST}.ckpt"


def resumed_step(path: Path) -> int:
    """Optimizer steps that a sound checkpoint holds."""
    return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"])


def check_checkpoint(path: Path) -> None:
    """Reads every byte of a checkpoint once.

    Raises:
        InputError: if it is missing or damaged.
    """
    advice = "take another one, or train from the beginning with resume=false"
    if not path.is_file():
        raise InputError(f"Expected a checkpoint at {path}, but there is none; {advice}.")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"Expected {path} to be a checkpoint, but it cannot be read ({error}); {advice}.") from error
    if damaged is not None:
        raise InputError(f"Expected {path} to be a checkpoint, but its part {damaged} is damaged; {advice}.")
