"""Plain prompt editing: the same seed under the edited prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from evaluation.baselines.prompts import concept_prompts, edited_prompt
from evaluation.baselines.sampling import check_request
from evaluation.grids import GridRow
from slider_lightning.backbone import Backbone, SamplerConfig
from slider_lightning.concepts import Concept
from slider_lightning.generation import generate_images


@dataclass(frozen=True)
class PromptEditing:
    """The row's own noise under the concept's edit prompt, drawn from the first step on.

    A prompt has no knob: the sign of a scale chooses the pole and its size has no effect. `start_timestep` is not used.

    Args:
        concept: its target and poles.
    """

    concept: Concept

    @property
    def name(self) -> str:
        """`prompt_editing`."""
        return "prompt_editing"

    def depends_on(self) -> dict[str, Any]:
        """The concept's prompts."""
        return {"concept": concept_prompts(self.concept)}

    def generate(
        self,
        backbone: Backbone,
        rows: Sequence[GridRow],
        scales: Sequence[float],
        sampler: SamplerConfig,
        *,
        batch_size: int,
    ) -> Float[Tensor, "rows scales 3 height width"]:
        """See `evaluation.grids.Method`; a pole is drawn once for all scales of its sign."""
        check_request(rows, scales, batch_size)
        signs = sorted({_sign(scale) for scale in scales})
        images = generate_images(
            backbone,
            None,
            [edited_prompt(row, self.concept, sign) for row in rows for sign in signs],
            [row.seed for row in rows for _ in signs],
            [0.0],
            sampler,
            batch_size=batch_size,
        )
        return images.unflatten(0, (len(rows), len(signs)))[:, [signs.index(_sign(scale)) for scale in scales], 0]


def _sign(scale: float) -> int:
    return (scale > 0) - (scale < 0)
