"""What one slider of a training learns: the rows that it asks the model for, and the loss of the answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from slider_lightning.backbone import Backbone, PromptEmbeds
from slider_lightning.config.training import OptimizerConfig
from slider_lightning.objectives import weighted_loss


@dataclass(frozen=True)
class TrainRows:
    """Rows of one UNet forward, and what should come out of it.

    Args:
        latents: x_t.
        timestep: 0..999.
        embeds: one prompt per row.
        scale: signed slider scale of every row, in main memory: the bank plans the forward by it.
        target: what the model with the slider at that scale should predict.
        time_ids: SDXL's size conditioning; None is an image of the backbone's resolution, drawn whole.
        weights: of the loss's pixels; None where all count alike.
        share: of this loss in the slider's.
    """

    latents: Float[Tensor, "rows 4 h w"]
    timestep: Int[Tensor, " rows"]
    embeds: PromptEmbeds
    scale: Float[Tensor, " rows"]
    target: Float[Tensor, "rows 4 h w"]
    time_ids: Float[Tensor, "rows 6"] | None = None
    weights: Float[Tensor, "rows 1 h w"] | None = None
    share: float = 1.0

    def __len__(self) -> int:
        return len(self.latents)

    def loss(self, noise_pred: Float[Tensor, "rows 4 h w"]) -> Float[Tensor, ""]:
        """The mean squared error of a prediction, times `share`."""
        return self.share * weighted_loss(noise_pred, self.target, self.weights)


class SliderTask(ABC):
    """What one slider learns.

    Args:
        backbone: the frozen model.
        optimizer: AdamW's settings for this slider.
    """

    def __init__(self, backbone: Backbone, optimizer: OptimizerConfig) -> None:
        self.backbone = backbone
        self.optimizer = optimizer

    @abstractmethod
    def move(self) -> None:
        """Moves the prompts to the backbone's device."""

    @abstractmethod
    def rows(self, batch: Any) -> tuple[TrainRows, ...]:
        """The rows of a batch; what the frozen model says of them is asked for here."""


def joint_forwards(parts: Sequence[tuple[int, TrainRows]]) -> Iterator[list[tuple[int, TrainRows]]]:
    """Rows of several sliders that fit into one forward: latents of one size, with or without size conditioning.

    Args:
        parts: (number of the slider, its rows).
    """
    kinds = dict.fromkeys(_kind(rows) for _, rows in parts)
    for kind in kinds:
        yield [(number, rows) for number, rows in parts if _kind(rows) == kind]


def _kind(rows: TrainRows) -> tuple[tuple[int, ...], bool]:
    return tuple(rows.latents.shape[1:]), rows.time_ids is None
