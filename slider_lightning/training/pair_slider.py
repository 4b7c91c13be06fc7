"""What an image-pair slider learns."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from slider_lightning.backbone import Backbone, PromptEmbeds
from slider_lightning.config.training import OptimizerConfig
from slider_lightning.data import ConceptEmbeds, PairBatch
from slider_lightning.objectives import (
    ImagePairObjective,
    odd_targets,
    slider_direction,
    slider_target,
)
from slider_lightning.training.tasks import SliderTask, TrainRows


@dataclass(frozen=True)
class PairEmbeds:
    """What the model is told while an image-pair slider is trained.

    Args:
        prompt: the prompt of eq. 6, one row.
        text: the prompts of eq. 4 where text guides too.
    """

    prompt: PromptEmbeds
    text: ConceptEmbeds | None = None


class PairTask(SliderTask):
    """Eq. 6 on twins at both signs.

    Args:
        backbone: the frozen model.
        embeds: the embedded prompts; those of text are there where the objective asks for it.
        objective: anchor, text guidance.
        optimizer: AdamW's settings.
    """

    def __init__(
        self, backbone: Backbone, embeds: PairEmbeds, objective: ImagePairObjective, optimizer: OptimizerConfig
    ) -> None:
        super().__init__(backbone, optimizer)
        self.embeds = embeds
        self.objective = objective

    def move(self) -> None:
        """Moves the prompt of eq. 6 to the backbone's device."""
        self.embeds = replace(self.embeds, prompt=self.embeds.prompt.to(self.backbone.device, self.backbone.dtype))

    def rows(self, batch: PairBatch) -> tuple[TrainRows, ...]:
        """The twins of a batch; where text guides, once more with eq. 4's targets."""
        if self.objective.anchor:
            batch = self._anchored(batch)
        active = batch.active()
        embeds = self._repeated(self.embeds.prompt, active)
        rows = TrainRows(
            active.latents, active.timestep, embeds, active.scale, active.target, active.time_ids, active.weights
        )
        return (rows,) if self.objective.text is None else (rows, self._text_rows(active))

    def _anchored(self, batch: PairBatch) -> PairBatch:
        frozen = self._frozen(batch, self.embeds.prompt)
        low, high = odd_targets(*frozen.chunk(2), *batch.target.chunk(2), *batch.scale.chunk(2))
        return replace(batch, target=torch.cat([low, high]))

    def _text_rows(self, batch: PairBatch) -> TrainRows:
        """Eq. 4 at the twins' own states and scales."""
        assert self.objective.text is not None
        assert self.embeds.text is not None
        text, embeds = self.objective.text.objective, self.embeds.text
        target = self._frozen(batch, embeds.target)
        positive, negative = (
            torch.stack([self._frozen(batch, side[i]) for i in range(len(side))], dim=1)
            for side in (embeds.positive, embeds.negative)
        )
        direction = slider_direction(target, positive, negative, text.reduction)
        return TrainRows(
            batch.latents,
            batch.timestep,
            self._repeated(embeds.target, batch),
            batch.scale,
            slider_target(target, direction, batch.scale, text.eta, text.mode),
            batch.time_ids,
            share=self.objective.text.weight,
        )

    @torch.no_grad()
    def _frozen(self, batch: PairBatch, embeds: PromptEmbeds) -> Tensor:
        """What the model says without any slider."""
        rows = self._repeated(embeds, batch)
        return self.backbone.predict_noise(batch.latents, batch.timestep, rows, batch.time_ids)

    def _repeated(self, embeds: PromptEmbeds, batch: PairBatch) -> PromptEmbeds:
        return embeds.to(self.backbone.device, self.backbone.dtype).repeat_interleave(len(batch))
