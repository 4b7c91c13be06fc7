"""AdamW's settings, and what a researcher chooses of Lightning's Trainer."""

from __future__ import annotations

import math
from typing import Literal

from slider_lightning.config.base import Settings, setting

Decay = Literal["cosine", "linear", "constant"]


class OptimizerConfig(Settings):
    """AdamW and its learning rate."""

    lr: float = setting(2e-3, "Highest learning rate.", gt=0)
    weight_decay: float = setting(0.0, "AdamW's.", ge=0)
    warmup_steps: int = setting(5, "Optimizer steps until `lr` is reached.", ge=0)
    decay: Decay = setting("cosine", 'How the rate falls to 0 until the end of training; "constant" does not fall.')

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


class TrainerConfig(Settings):
    """What a researcher chooses of Lightning's Trainer."""

    max_steps: int = setting(80, "Optimizer steps.", ge=1)
    accelerator: str = setting("auto", 'Kind of device: "auto", "cpu", "gpu", ...', identity=False)
    devices: int = setting(1, "Processes on this machine; each takes data.batch_size rows of a step.", ge=1)
    num_nodes: int = setting(1, "Machines.", ge=1)
    strategy: str = setting("auto", 'Lightning\'s strategy, e.g. "ddp".', identity=False)
    precision: str = setting("32-true", "Of the training step; a half-precision model is model.dtype's.")
    gradient_clip_val: float | None = setting(1.0, "Largest norm of each slider's gradient; null does not clip.", gt=0)
    accumulate_grad_batches: int = setting(1, "Batches per optimizer step.", ge=1)
    log_every_n_steps: int = setting(5, "Optimizer steps between two logged lines.", ge=1, identity=False)
    checkpoint_every_n_steps: int = setting(25, "Optimizer steps between two checkpoints.", ge=1, identity=False)
    progress_bar: bool = setting(True, "Show steps, loss and time left.", identity=False)
