"""Images behind the repair's distances: their features at every scale, and good faces to compare with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from evaluation.grids import ImageGrid
from evaluation.judges.panel import FeatureJudge
from experiments.tiny_faces.pairs import sample_well_drawn
from experiments.tiny_faces.render import render
from slider_lightning.errors import InputError

CHUNK = 64


def well_drawn_faces(count: int, seed: int, size: int) -> Float[Tensor, "count 3 size size"]:
    """Faces of the embedded world, drawn by the renderer and none of them badly.

    Args:
        count: how many, at least 2.
        seed: the faces are a function of (count, seed).
        size: side of the pictures in pixels.

    Raises:
        InputError: if there are too few.
    """
    if count < 2:
        raise InputError(f"Expected reference.count to be 2 or more, but got {count}; raise it.")
    faces = sample_well_drawn(count, seed)
    return torch.cat([render(faces[slice(start, start + CHUNK)], size).images for start in range(0, count, CHUNK)])


def features_by_scale(
    grid: ImageGrid, base: ImageGrid, judge: FeatureJudge, progress: Callable[[int, int], None]
) -> dict[float, Float[Tensor, "rows dim"]]:
    """The features of a slider's images at every scale, and of the base images at 0.

    Args:
        grid: of the slider.
        base: of the model itself, with the same prompts and seeds.
        judge: whose features.
        progress: called as (scales done, all scales).

    Raises:
        InputError: if an image is missing or damaged.
    """
    scales = sorted({0.0, *grid.scales})
    features = {}
    for done, scale in enumerate(scales, start=1):
        features[scale] = image_features(base if scale == 0 else grid, scale, judge)
        progress(done, len(scales))
    return features


def image_features(grid: ImageGrid, scale: float, judge: FeatureJudge) -> Float[Tensor, "rows dim"]:
    """The features of all images of a grid at one scale, a few images in memory at a time."""
    starts: Sequence[int] = range(0, len(grid.rows), CHUNK)
    return torch.cat([judge(grid.images(scale, slice(start, start + CHUNK))).cpu() for start in starts])
