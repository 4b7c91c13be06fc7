"""Grids of several methods on the same prompts and seeds, made when they are asked for, and their measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from evaluation.grids import GridSpec, ImageGrid, Method, base_grid, make_grid
from evaluation.measurements import Measurements
from evaluation.measuring import Examiner
from slider_lightning.backbone import Backbone, SamplerConfig
from slider_lightning.generation import ProgressCallback


@dataclass(frozen=True)
class Gallery:
    """Where methods are compared: one model, one sampler, the same rows for all.

    Args:
        backbone: the frozen model.
        prompts: prompts and seeds.
        sampler: steps, guidance and start_timestep.
        root: folder of all grids.
        batch_size: images per UNet call.
    """

    backbone: Backbone
    prompts: GridSpec
    sampler: SamplerConfig
    root: Path
    batch_size: int

    @cached_property
    def base(self) -> ImageGrid:
        """The images of the model itself."""
        with ProgressCallback("images of the model itself") as progress:
            return base_grid(
                self.root, self.backbone, self.prompts, self.sampler, batch_size=self.batch_size, progress=progress
            )

    def grid(self, method: Method, scales: Sequence[float]) -> ImageGrid:
        """The images of a method; scale 0 among the scales is left to the base grid."""
        edited = tuple(scale for scale in scales if scale != 0)
        with ProgressCallback(f"images of {method.name}") as progress:
            return make_grid(
                self.root,
                self.backbone,
                method,
                self.prompts,
                edited,
                self.sampler,
                batch_size=self.batch_size,
                progress=progress,
            )

    def measure(self, method: Method, scales: Sequence[float], examiner: Examiner) -> Measurements:
        """The readings of a method's images and of the base images.

        Raises:
            InputError: if an image is missing or damaged, or a setting does not fit the method.
        """
        base = self.base
        grid = self.grid(method, scales)
        with ProgressCallback(f"judging images of {method.name}") as progress:
            return examiner.measure(grid, base, progress)
