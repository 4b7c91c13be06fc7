"""What the training of every slider shares: AdamW's settings, and a module that trains one slider on a frozen model."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, get_args

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from slider_lightning.adapters import SliderBank
from slider_lightning.backbone import Backbone
from slider_lightning.errors import InputError

Decay = Literal["cosine", "linear", "constant"]


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its learning rate.

    Args:
        lr: highest learning rate, above 0.
        weight_decay: AdamW's, at least 0.
        warmup_steps: optimizer steps until `lr` is reached, at least 0.
        decay: how it falls to 0 until the end of training; "constant" does not fall.

    Raises:
        InputError: if a value is outside its range.
    """

    lr: float = 2e-3
    weight_decay: float = 0.0
    warmup_steps: int = 5
    decay: Decay = "cosine"

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise InputError(f"Expected optimizer.lr to be above 0, but got {self.lr}; raise it.")
        for field in ("weight_decay", "warmup_steps"):
            if not (value := getattr(self, field)) >= 0:
                raise InputError(f"Expected optimizer.{field} to be 0 or more, but got {value}; raise it.")
        if self.decay not in (known := get_args(Decay)):
            names = ", ".join(known)
            raise InputError(f"Expected optimizer.decay to be one of {names}, but got {self.decay!r}; choose one.")

    def lr_factor(self, step: int, max_steps: int) -> float:
        """The learning rate of an optimizer step as a share of `lr`, in (0, 1] for steps before `max_steps`."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        progress = (step - self.warmup_steps) / max(1, max_steps - self.warmup_steps)
        match self.decay:
            case "cosine":
                return 0.5 * (1 + math.cos(math.pi * progress))
            case "linear":
                return 1 - progress
            case _:
                return 1.0


class SliderModule(L.LightningModule):
    """Trains one slider.

    The backbone is no submodule: checkpoints and distributed training hold the slider alone.

    Args:
        backbone: the frozen model; `setup` moves it to the process's device.
        bank: bank of the one slider to train, attached to the backbone's UNet.
        optimizer: AdamW's settings.
    """

    def __init__(self, backbone: Backbone, bank: SliderBank, optimizer: OptimizerConfig) -> None:
        super().__init__()
        self.backbone = backbone
        self.bank = bank
        self.optimizer_config = optimizer

    @abstractmethod
    def loss(self, batch: Any, *, slider_on: bool = True) -> Tensor:
        """The loss of a batch; with the slider off that of the frozen model, which training must beat."""

    def setup(self, stage: str) -> None:
        """Moves what Lightning does not know of."""
        self.backbone.to(self.trainer.strategy.root_device)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss, logged."""
        loss = self.loss(batch)
        self.log("train/loss", loss, prog_bar=True, sync_dist=True)
        return loss

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW on the slider's fp32 weights, fused on a GPU, with the learning rate set anew every step."""
        config = self.optimizer_config
        optimizer = torch.optim.AdamW(
            self.bank.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=self.device.type == "cuda"
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: config.lr_factor(step, self.trainer.max_steps)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
