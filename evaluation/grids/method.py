"""What makes a grid's images: the interface of all methods, and the model itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jaxtyping import Float
from torch import Tensor

from evaluation.grids.spec import GridRow
from slider_lightning.backbone import Backbone, SamplerConfig
from slider_lightning.generation import generate_images


class Method(Protocol):
    """A way to edit images by a scale; scale 0, the model itself, is never asked of it."""

    @property
    def name(self) -> str:
        """Identifier of the method, e.g. "concept_slider"; the name of its folder."""
        ...

    def depends_on(self) -> dict[str, Any]:
        """All that decides its images beside model, sampler, rows and scales, as plain JSON."""
        ...

    def generate(
        self,
        backbone: Backbone,
        rows: Sequence[GridRow],
        scales: Sequence[float],
        sampler: SamplerConfig,
        *,
        batch_size: int,
    ) -> Float[Tensor, "rows scales 3 height width"]:
        """Every row at every scale: images in [0, 1] in main memory, decided by the arguments alone.

        Args:
            backbone: the frozen model; left as it was found.
            rows: prompts and seeds; a seed starts from the same noise under any method.
            scales: none of them 0.
            sampler: steps, guidance and start_timestep.
            batch_size: images per UNet call.
        """
        ...


@dataclass(frozen=True)
class BaseMethod:
    """The model itself: the images at scale 0, shared by all methods."""

    name: str = "base"

    def depends_on(self) -> dict[str, Any]:
        """Nothing but the model."""
        return {}

    def generate(
        self,
        backbone: Backbone,
        rows: Sequence[GridRow],
        scales: Sequence[float],
        sampler: SamplerConfig,
        *,
        batch_size: int,
    ) -> Float[Tensor, "rows 1 3 height width"]:
        """The model's own image of every row, in [0, 1]; start_timestep plays no part.

        Raises:
            ValueError: if the scales are not 0 alone.
        """
        if tuple(scales) != (0,):
            raise ValueError(f"Expected the model itself at scale 0 alone, but got scales {list(scales)}.")
        prompts, seeds = [row.prompt for row in rows], [row.seed for row in rows]
        return generate_images(backbone, None, prompts, seeds, scales, sampler, batch_size=batch_size)
