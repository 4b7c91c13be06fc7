"""The training step of a text slider."""

from torch import Tensor

from slider_lightning.adapters import SliderBank
from slider_lightning.backbone import Backbone, PromptEmbeds
from slider_lightning.data import TeacherBatch
from slider_lightning.objectives import TextObjective, slider_loss
from slider_lightning.training.slider_module import OptimizerConfig, SliderModule


class TextSliderModule(SliderModule):
    """Trains one text slider at both poles (eq. 3 and 4).

    Args:
        backbone: the frozen model; `setup` moves it to the process's device.
        bank: bank of the one slider to train, attached to the backbone's UNet.
        target_embeds: the embedded prompt c_t, one row.
        objective: eta, sum or mean, enhance or erase, projection.
        optimizer: AdamW's settings.
    """

    def __init__(
        self,
        backbone: Backbone,
        bank: SliderBank,
        target_embeds: PromptEmbeds,
        objective: TextObjective,
        optimizer: OptimizerConfig,
    ) -> None:
        super().__init__(backbone, bank, optimizer)
        self.target_embeds = target_embeds
        self.objective = objective

    def setup(self, stage: str) -> None:
        """Moves what Lightning does not know of."""
        super().setup(stage)
        self.target_embeds = self.target_embeds.to(self.backbone.device, self.backbone.dtype)

    def loss(self, batch: TeacherBatch, *, slider_on: bool = True) -> Tensor:
        """The loss of a batch of states, each at +s and at -s in one forward."""
        direction = self.objective.direction(
            batch.eps_target,
            batch.eps_positive,
            batch.eps_negative,
            batch.eps_contrast_positive,
            batch.eps_contrast_negative,
        )
        rows = self.objective.both_poles(batch.latents, batch.timestep, batch.eps_target, direction, batch.scale)
        embeds = self.target_embeds.repeat_interleave(len(rows.latents))
        with self.bank.scales(rows.scale[:, None] * slider_on):
            noise_pred = self.backbone.predict_noise(rows.latents, rows.timestep, embeds)
        return slider_loss(noise_pred, rows.target)
