"""AdamW's settings, and how the learning rate goes over a training."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

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
