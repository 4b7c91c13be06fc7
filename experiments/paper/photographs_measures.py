"""What edits do to faces whose true attributes are known: pure functions of images and readings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from evaluation.attributes import Attribute
from evaluation.judges.panel import AttributeJudge, ImageDistance
from evaluation.statistics import Measure, bootstrap, bootstrap_mean
from slider_lightning.data import Cost

Truth = Mapping[str, Tensor]


@dataclass(frozen=True)
class Edits:
    """Faces at a negative scale, at 0 and at a positive one.

    Args:
        images: in [0, 1].
        cost: of all of them.
    """

    images: Float[Tensor, "faces 3 channels height width"]
    cost: Cost


@dataclass(frozen=True)
class Readings:
    """How far what a judge reads lies from the truth.

    Args:
        off: attribute -> deviation, (faces, scales): of a continuous attribute signed, in standard deviations of the
            world; of a class 1 where another one is read, else 0.
    """

    off: Mapping[str, Float[Tensor, "faces scales"]]

    @classmethod
    def of(cls, judge: AttributeJudge, images: Float[Tensor, "faces scales 3 h w"], truth: Truth) -> Readings:
        """What the judge reads of images of faces with these attributes.

        Args:
            judge: of the attributes.
            images: in [0, 1].
            truth: attribute -> value, or index of the class, of every face.
        """
        read, stds = judge(images.flatten(0, 1)), judge.standard_deviations()
        shape = images.shape[:2]
        off = {}
        for attribute in judge.schema:
            values, true = read[attribute.name].cpu(), truth[attribute.name][:, None]
            std = stds[attribute.name].cpu()
            off[attribute.name] = _off(attribute, values.unflatten(0, shape), true, std)
        return cls(off)

    def shift(self, name: str) -> Float[Tensor, " faces"]:
        """Change of a continuous attribute from the lowest to the highest scale."""
        return self.off[name][:, -1] - self.off[name][:, 0]

    def flips(self, name: str) -> Bool[Tensor, " faces"]:
        """Where a class is not the true one at the lowest or the highest scale."""
        return self.off[name][:, [0, -1]].any(1)

    def drift(self, name: str) -> Measure:
        """Mean size of the deviation over the lowest and the highest scale."""
        return bootstrap_mean(self.off[name][:, [0, -1]].abs())


def _off(attribute: Attribute, values: Tensor, true: Tensor, std: Tensor) -> Float[Tensor, "faces scales"]:
    if attribute.kind == "continuous":
        return (values - true).double() / std.double()
    return (values.argmax(-1) != true).double()


def squared_error_ratio(
    images: Float[Tensor, "faces 3 h w"],
    round_trip: Float[Tensor, "faces 3 h w"],
    photographs: Float[Tensor, "faces 3 h w"],
) -> Measure:
    """Mean squared error of images to their photographs over that of the VAE's round trip."""
    first, second = ((each - photographs).square().flatten(1).mean(1).double() for each in (images, round_trip))
    return _ratio(first, second)


def distance_ratio(
    distance: ImageDistance,
    images: Float[Tensor, "faces 3 h w"],
    round_trip: Float[Tensor, "faces 3 h w"],
    photographs: Float[Tensor, "faces 3 h w"],
) -> Measure:
    """The same of a perceptual distance."""
    first, second = (distance(each, photographs).cpu().double() for each in (images, round_trip))
    return _ratio(first, second)


def _ratio(first: Float[Tensor, " faces"], second: Float[Tensor, " faces"]) -> Measure:
    return bootstrap(lambda index: first[index].mean(1) / second[index].mean(1), len(first))
