"""The judges of an evaluation, together, and what each must be able to do. Panels are files in conf/judges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from evaluation.attributes import Schema
from evaluation.judges.clip import ClipJudge
from slider_lightning.errors import InputError


@runtime_checkable
class ImageDistance(Protocol):
    """A perceptual distance; `name` is what tables print, e.g. "LPIPS (AlexNet, 64 px)"."""

    name: str

    def __call__(self, first: Float[Tensor, "n 3 h w"], second: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
        """Distance of each pair of images in [0, 1]."""
        ...


@runtime_checkable
class AttributeJudge(Protocol):
    """A classifier of the attributes that `schema` lists."""

    name: str
    schema: Schema

    def standard_deviations(self) -> dict[str, Tensor]:
        """Per attribute the standard deviation of each of its labels that shifts are stated in."""
        ...

    def __call__(self, images: Float[Tensor, "n 3 h w"]) -> dict[str, Tensor]:
        """Per attribute (n,) values if it is continuous, (n, classes) probabilities if not, of images in [0, 1]."""
        ...


@runtime_checkable
class EyeJudge(Protocol):
    """What measures the eyes of a face."""

    name: str

    def face_boxes(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 4"] | None:
        """Where the faces are, NaN where none was found; None if the whole images are read."""
        ...

    def eye_area(
        self, images: Float[Tensor, "n 3 h w"], boxes: Float[Tensor, "n 4"] | None = None
    ) -> Float[Tensor, " n"]:
        """Area of the eyes in pixels, NaN where none was found."""
        ...


@runtime_checkable
class FeatureJudge(Protocol):
    """What maps images to the features that FID and KID compare."""

    name: str

    def __call__(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n dim"]:
        """Features of images in [0, 1]."""
        ...


@dataclass(frozen=True)
class Judges:
    """Who measures generated images. Every judge has a `name`, which records and tables print.

    Args:
        clip: Fit to a text.
        distance: Distance to the unedited image, in the protocol's way.
        classifier: Attributes.
        parser: Eye area; None where nothing with eyes is measured.
        features: What FID and KID compare; None where neither is asked for.
        distance_native: Distance to the unedited image at the images' own size.
    """

    clip: ClipJudge
    distance: ImageDistance
    classifier: AttributeJudge
    parser: EyeJudge | None
    features: FeatureJudge | None
    distance_native: ImageDistance | None = None

    @property
    def required_features(self) -> FeatureJudge:
        """The features, for what cannot do without.

        Raises:
            InputError: If the panel has none.
        """
        if self.features is None:
            raise InputError(
                "Expected judges with features for FID and KID, but these have none; choose others, e.g. "
                "judges=sdxl_fid."
            )
        return self.features

    def to(self, device: torch.device | str) -> Judges:
        """Moves all networks to a device, in place; images may stay where they are."""
        for judge in vars(self).values():
            if isinstance(judge, nn.Module):
                judge.to(device)
        return self
