"""Training images: from a folder, of any size and mode, and those that the frozen model makes for a prior."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from evaluation.grids import GridSpec, PromptSet, base_grid, image_files
from slider_lightning.assets import sha256_file
from slider_lightning.backbone import Backbone, SamplerConfig, pil_to_images
from slider_lightning.data.pairs import open_picture
from slider_lightning.errors import InputError

# Far from the seeds of evaluations, so that no image is judged that was trained on.
_FIRST_PRIOR_SEED = 500_000


@dataclass(frozen=True)
class PriorConfig:
    """Prior preservation: images of the class, without the token, keep the model from forgetting it.

    Args:
        prompt: the class prompt, e.g. "a photo of a person".
        folder: images of the class; None has the frozen model make them.
        num_images: how many it makes, at least 1.
        weight: of their loss beside that of the training images, above 0; 1.0 as published.
        batch_size: images per UNet call while they are made.

    Raises:
        InputError: if a value is out of range.
    """

    prompt: str
    folder: str | None = None
    num_images: int = 200
    weight: float = 1.0
    batch_size: int = 8

    def __post_init__(self) -> None:
        for field in ("num_images", "batch_size"):
            if (value := getattr(self, field)) < 1:
                raise InputError(f"Expected the prior's {field} to be 1 or more, but got {value}; raise it.")
        if not self.weight > 0:
            raise InputError(
                f"Expected the prior's weight to be above 0, but got {self.weight}; for none set the prior to null."
            )


def read_training_images(folder: str | Path, resolution: int) -> Float[Tensor, "n 3 resolution resolution"]:
    """The images of a folder in [0, 1], sorted by name: scaled until the shorter side fits, then cut from the middle.

    Args:
        folder: holds png, jpg or webp files of any size and mode; what is transparent is laid on white.
        resolution: side in pixels.

    Raises:
        InputError: if the folder is missing or empty, or a file cannot be read as an image.
    """
    return torch.cat([fit_square(pil_to_images([open_picture(path)]), resolution) for path in image_files(folder)])


def folder_digest(folder: str | Path) -> str:
    """SHA-256 over names and bytes of the image files of a folder; InputError if it is missing or empty."""
    digest = hashlib.sha256()
    for path in image_files(folder):
        digest.update(f"{path.name}\0{sha256_file(path)}\0".encode())
    return digest.hexdigest()


def fit_square(image: Float[Tensor, "1 3 height width"], side: int) -> Float[Tensor, "1 3 side side"]:
    """An image, its proportions kept: scaled (bicubic, antialiased) to cover the square, the rest cut off."""
    height, width = image.shape[-2:]
    if min(height, width) != side:
        size = [max(side, round(length * side / min(height, width))) for length in (height, width)]
        image = F.interpolate(image, size=size, mode="bicubic", antialias=True).clamp(0, 1)
    top, left = ((length - side) // 2 for length in image.shape[-2:])
    return image[..., top : top + side, left : left + side]


def prior_images(
    backbone: Backbone,
    prior: PriorConfig,
    sampler: SamplerConfig,
    cache_dir: Path,
    progress: Callable[[int, int], None] | None = None,
) -> Float[Tensor, "n 3 height width"]:
    """The prior's images in [0, 1]: those of its folder, or made ahead by the frozen model and kept in the cache.

    Args:
        backbone: the frozen model.
        prior: prompt, and folder or number.
        sampler: how they are made.
        cache_dir: folder of all caches; what is made there is found again, image by image.
        progress: told of (images there, all images).

    Raises:
        InputError: if a folder or file is missing or damaged, or the prompt is too long.
    """
    if prior.folder is not None:
        return read_training_images(prior.folder, backbone.resolution)
    spec = GridSpec(PromptSet("prior", (prior.prompt,), ("{}",)), prior.num_images, _FIRST_PRIOR_SEED)
    grid = base_grid(cache_dir / "prior", backbone, spec, sampler, batch_size=prior.batch_size, progress=progress)
    return grid.images(0.0)
