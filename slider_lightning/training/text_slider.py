"""What a text slider learns."""

from slider_lightning.backbone import Backbone, PromptEmbeds
from slider_lightning.config.training import OptimizerConfig
from slider_lightning.data import TeacherBatch
from slider_lightning.objectives import TextObjective, both_poles, text_direction
from slider_lightning.training.tasks import SliderTask, TrainRows


class TextTask(SliderTask):
    """Eq. 3 and 4 at both poles.

    Args:
        backbone: the frozen model.
        target_embeds: the embedded prompt c_t, one row.
        objective: eta, sum or mean, enhance or erase, projection.
        optimizer: AdamW's settings.
    """

    def __init__(
        self, backbone: Backbone, target_embeds: PromptEmbeds, objective: TextObjective, optimizer: OptimizerConfig
    ) -> None:
        super().__init__(backbone, optimizer)
        self.target_embeds = target_embeds
        self.objective = objective

    def move(self) -> None:
        """Moves c_t to the backbone's device."""
        self.target_embeds = self.target_embeds.to(self.backbone.device, self.backbone.dtype)

    def rows(self, batch: TeacherBatch) -> tuple[TrainRows, ...]:
        """Every state of a batch at +s and at -s."""
        direction = text_direction(
            self.objective,
            batch.eps_target,
            batch.eps_positive,
            batch.eps_negative,
            batch.eps_contrast_positive,
            batch.eps_contrast_negative,
        )
        rows = both_poles(self.objective, batch.latents, batch.timestep, batch.eps_target, direction, batch.scale)
        embeds = self.target_embeds.repeat_interleave(len(rows.latents))
        return (TrainRows(rows.latents, rows.timestep, embeds, rows.scale, rows.target),)
