"""The training step of an image-pair slider."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from slider_lightning.adapters import SliderBank
from slider_lightning.backbone import Backbone, PromptEmbeds
from slider_lightning.data import ConceptEmbeds, PairBatch
from slider_lightning.objectives import (
    ImagePairObjective,
    odd_targets,
    slider_direction,
    slider_loss,
    slider_target,
    weighted_loss,
)
from slider_lightning.training.slider_module import OptimizerConfig, SliderModule


@dataclass(frozen=True)
class PairEmbeds:
    """What the model is told while an image-pair slider is trained.

    Args:
        prompt: the prompt of eq. 6, one row.
        text: the prompts of eq. 4 where text guides too.
    """

    prompt: PromptEmbeds
    text: ConceptEmbeds | None = None


class PairSliderModule(SliderModule):
    """Trains one slider on twins at both signs (eq. 6).

    Args:
        backbone: the frozen model; `setup` moves it to the process's device.
        bank: bank of the one slider to train, attached to the backbone's UNet.
        embeds: the embedded prompts; those of text are there where the objective asks for it.
        objective: anchor, text guidance.
        optimizer: AdamW's settings.
    """

    def __init__(
        self,
        backbone: Backbone,
        bank: SliderBank,
        embeds: PairEmbeds,
        objective: ImagePairObjective,
        optimizer: OptimizerConfig,
    ) -> None:
        super().__init__(backbone, bank, optimizer)
        self.embeds = embeds
        self.objective = objective

    def setup(self, stage: str) -> None:
        """Moves what Lightning does not know of."""
        super().setup(stage)
        self.embeds = replace(self.embeds, prompt=self.embeds.prompt.to(self.backbone.device, self.backbone.dtype))

    def loss(self, batch: PairBatch, *, slider_on: bool = True) -> Tensor:
        """The loss of a batch of twins, all rows in one forward."""
        if self.objective.anchor:
            batch = self._anchored(batch)
        rows = batch.active()
        noise_pred = self._predict(rows, self.embeds.prompt, slider_on)
        loss = weighted_loss(noise_pred, rows.target, rows.weights)
        if self.objective.text is not None:
            loss = loss + self.objective.text.weight * self._text_loss(rows, slider_on)
        return loss

    def _anchored(self, batch: PairBatch) -> PairBatch:
        with torch.no_grad():
            frozen = self._predict(batch, self.embeds.prompt, slider_on=False)
        low, high = odd_targets(*frozen.chunk(2), *batch.target.chunk(2), *batch.scale.chunk(2))
        return replace(batch, target=torch.cat([low, high]))

    def _text_loss(self, rows: PairBatch, slider_on: bool) -> Tensor:
        """Eq. 4 at the twins' own states and scales."""
        assert self.objective.text is not None
        assert self.embeds.text is not None
        text, embeds = self.objective.text.objective, self.embeds.text
        with torch.no_grad():
            target = self._predict(rows, embeds.target, slider_on=False)
            positive, negative = (
                torch.stack([self._predict(rows, side[i], slider_on=False) for i in range(len(side))], dim=1)
                for side in (embeds.positive, embeds.negative)
            )
            direction = slider_direction(target, positive, negative, text.reduction)
            wanted = slider_target(target, direction, rows.scale, text.eta, text.mode)
        return slider_loss(self._predict(rows, embeds.target, slider_on), wanted)

    def _predict(self, rows: PairBatch, embeds: PromptEmbeds, slider_on: bool) -> Tensor:
        repeated = embeds.to(self.backbone.device, self.backbone.dtype).repeat_interleave(len(rows))
        with self.bank.scales(rows.scale[:, None] * slider_on):
            return self.backbone.predict_noise(rows.latents, rows.timestep, repeated, rows.time_ids)
