"""Concept sliders as a method of a grid."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from evaluation.grids.spec import GridRow
from slider_lightning.adapters import SliderBank, load_slider
from slider_lightning.adapters.base import SliderBase
from slider_lightning.backbone import Backbone, SamplerConfig
from slider_lightning.errors import InputError
from slider_lightning.generate import load_sliders
from slider_lightning.generation import generate_images
from slider_lightning.training import RunFolder


@dataclass(frozen=True)
class SliderMethod:
    """One slider at scale s, or several, all of them at s or at weights times s.

    Args:
        name: identifier, e.g. "concept_slider".
        files: slider files or run folders, in the order of the bank.
        weights: one finite factor of the scale for each slider; None means 1.

    Raises:
        InputError: if there is no file, or the weights are not one for each.
    """

    name: str
    files: tuple[str, ...]
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.weights is not None and (
            len(self.weights) != len(self.files) or not all(map(math.isfinite, self.weights))
        ):
            raise InputError(
                f"Expected one finite weight for each of {len(self.files)} sliders of {self.name}, but got "
                f"{list(self.weights)}; change them."
            )
        if not self.files:
            raise InputError(f"Expected at least one slider file or run folder for {self.name}, but got none; add one.")

    def depends_on(self) -> dict[str, Any]:
        """What decides the images: the SHA-256 of every slider's weights, which two trainings that agree share whatever
        their files also say, and the factors of the scale where they are not 1.

        Raises:
            InputError: if a file is missing, damaged or no slider.
        """
        sliders = [_weights_sha256(load_slider(RunFolder.slider_of(place))[0]) for place in self.files]
        return {"sliders": sliders} | ({} if self.weights is None else {"weights": list(self.weights)})

    def generate(
        self,
        backbone: Backbone,
        rows: Sequence[GridRow],
        scales: Sequence[float],
        sampler: SamplerConfig,
        *,
        batch_size: int,
    ) -> Float[Tensor, "rows scales 3 height width"]:
        """Every row at every scale, images in [0, 1]; the UNet carries no trace of the sliders afterwards.

        Raises:
            InputError: if a slider is damaged or does not fit the backbone.
        """
        sliders = [slider for slider, _ in load_sliders(self.files, backbone)]
        prompts, seeds = [row.prompt for row in rows], [row.seed for row in rows]
        weights = self.weights or (1.0,) * len(sliders)
        columns = [[scale * weight for weight in weights] for scale in scales]
        with SliderBank(backbone.unet, sliders) as bank:
            return generate_images(backbone, bank, prompts, seeds, columns, sampler, batch_size=batch_size)


def _weights_sha256(slider: SliderBase) -> str:
    digest = hashlib.sha256(slider.config.kind.encode())
    for path in sorted(slider.layer_paths):
        for name, tensor in slider.file_tensors(path).items():
            digest.update(f"{path}.{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
