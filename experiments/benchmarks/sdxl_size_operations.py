"""Operations of a forward and of a training step, counted on the meta device: shapes alone, on any machine."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from experiments.benchmarks.sdxl_size_model import UNetSize, random_backbone
from experiments.benchmarks.sdxl_size_step import SliderStep
from slider_lightning.adapters import AdapterConfig
from slider_lightning.backbone import Backbone, SpeedConfig
from slider_lightning.concepts import Concept

_CONCEPT = Concept("counted", "a person", "an old person", "a young person")


@dataclass(frozen=True)
class Operations:
    """Floating-point operations of one row: two for every multiply-add of a matrix product, others not counted.

    A training step spends them on every row it holds, two for a state. Attention is counted by its products, without
    what a fused kernel computes again in the backward pass.

    Args:
        forward: of the frozen UNet.
        step: of a training step: forward, and backward to the adapters through frozen weights.
        checkpointed_step: of one with gradient checkpointing.
    """

    forward: int
    step: int
    checkpointed_step: int

    def of_step(self, speed: SpeedConfig) -> int:
        """Of a step as it runs; what checkpointing computes again is work, but brings training no further."""
        return self.checkpointed_step if speed.gradient_checkpointing else self.step


def count_operations(size: UNetSize, resolution: int, adapter: AdapterConfig) -> Operations:
    """The operations per row at an image side, from a step of one state."""
    forward = counted_forward(meta_backbone(size, resolution))
    steps = [
        counted_step(meta_backbone(size, resolution, SpeedConfig(gradient_checkpointing=checkpointing)), adapter)
        for checkpointing in (False, True)
    ]
    return Operations(forward, *(step // 2 for step in steps))


def meta_backbone(size: UNetSize, resolution: int, speed: SpeedConfig | None = None) -> Backbone:
    """A backbone of shapes without values."""
    return random_backbone(size, resolution=resolution, dtype=torch.float32, device="meta", speed=speed)


@torch.no_grad()
def counted_forward(backbone: Backbone, rows: int = 1) -> int:
    """Operations of a frozen forward of some rows."""
    latents = torch.zeros(rows, *backbone.latent_shape, device=backbone.device)
    embeds = backbone.encode_prompts(["a person"] * rows)
    return counted(lambda: backbone.predict_noise(latents, 500, embeds))


def counted_step(backbone: Backbone, adapter: AdapterConfig, states: int = 1) -> int:
    """Operations of a training step of some states, two rows each, without the optimizer's."""
    step = SliderStep(backbone, _CONCEPT, adapter)
    batch = replace(step.batch(step.empty_states(states), range(states)), scale=torch.ones(states))
    with step.bank:
        return counted(lambda: step.loss(batch).backward())


def counted(run: Callable[[], Any]) -> int:
    """Operations of a call, attention by its products."""
    # As products of matrices, whatever fused kernel would be chosen: the counter knows both passes of these.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return counter.get_total_flops()
