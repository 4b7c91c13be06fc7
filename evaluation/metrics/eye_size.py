"""Eye size: how much the area of the eyes changes under an edit (REFERENCE.md, Evaluation protocol)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from evaluation.judges.panel import EyeJudge
from evaluation.statistics import Measure, bootstrap
from slider_lightning.errors import InputError


@dataclass(frozen=True)
class EyeAreaChange:
    """Relative change of eye area over pairs of images.

    Args:
        change: (mean edited - mean original) / mean original, over the pairs with eyes; a ratio of means, so that one
            tiny original cannot rule it.
        not_found: Pairs without a figure, because no eye was found in one of their images.
        n: Pairs in all.
    """

    change: Measure
    not_found: int
    n: int


def relative_eye_area(edited: Float[Tensor, " n"], original: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """(edited - original) / original of each pair; NaN where no eye was found in one of the images.

    Args:
        edited: Eye areas, NaN where no eye was found.
        original: Those of the images that they were made from.

    Raises:
        ValueError: If the shapes differ, or an area is negative or infinite.
    """
    if edited.shape != original.shape or edited.ndim != 1:
        raise ValueError(f"Expected paired areas (n,), but got {tuple(edited.shape)} and {tuple(original.shape)}.")
    bad = ((edited < 0) | edited.isinf()) | ((original <= 0) | original.isinf())
    if bad.any():
        raise ValueError(
            f"Expected areas of at least 0, originals above 0, but pairs {bad.nonzero().flatten().tolist()} are not."
        )
    return (edited.double() - original.double()) / original.double()


def eye_area_change(edited: Float[Tensor, " n"], original: Float[Tensor, " n"]) -> EyeAreaChange:
    """Relative change of eye area, with intervals over the pairs.

    Args:
        edited: Eye areas, NaN where no eye was found.
        original: Those of the images that they were made from.

    Raises:
        InputError: If eyes were found in fewer than 2 pairs.
        ValueError: If the shapes differ, or an area is negative or infinite.

    Example:
        >>> nan = float("nan")
        >>> result = eye_area_change(torch.tensor([3.0, 6.0, nan]), torch.tensor([2.0, 4.0, 5.0]))
        >>> result.change.mean, result.not_found, result.n
        (0.5, 1, 3)
    """
    found = relative_eye_area(edited, original).isfinite()
    count = int(found.sum())
    if count < 2:
        raise InputError(
            f"Expected eyes in at least 2 pairs of images, but found them in {count} of {len(found)}; "
            "measure more images, or check the face parser."
        )
    after, before = edited[found].double(), original[found].double()
    return EyeAreaChange(
        change=bootstrap(lambda index: after[index].mean(1) / before[index].mean(1) - 1, count),
        not_found=len(found) - count,
        n=len(found),
    )


class EyeSizeChange(Metric):
    """Change of the mean eye area over its mean in the originals; `eye_area_change` gives it with an interval.

    Pairs in which no eye is found are counted in the state `not_found`.

    Args:
        parser: Who measures the eyes; where it has a detector, both images are cut at the face of the original.
        kwargs: Arguments of torchmetrics' Metric.
    """

    full_state_update = False
    higher_is_better = None
    edited: Tensor
    original: Tensor
    found: Tensor
    not_found: Tensor

    def __init__(self, parser: EyeJudge, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.parser = parser
        for name in ("edited", "original"):
            self.add_state(name, torch.tensor(0.0, dtype=torch.double), dist_reduce_fx="sum")
        for name in ("found", "not_found"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    def update(self, edited: Float[Tensor, "n 3 h w"], original: Float[Tensor, "n 3 h w"]) -> None:
        """Adds pairs of images in [0, 1].

        Raises:
            ValueError: If the shapes differ, or an image leaves [0, 1].
        """
        if edited.shape != original.shape:
            raise ValueError(f"Expected paired images, but got {tuple(edited.shape)} and {tuple(original.shape)}.")
        boxes = self.parser.face_boxes(original)
        after, before = self.parser.eye_area(edited, boxes).double(), self.parser.eye_area(original, boxes).double()
        found = relative_eye_area(after, before).isfinite()
        self.edited += after[found].sum()
        self.original += before[found].sum()
        self.found += found.sum()
        self.not_found += (~found).sum()

    def compute(self) -> Tensor:
        """The change.

        Raises:
            InputError: If no eye was found in any pair.
        """
        if int(self.found) == 0:
            raise InputError(
                f"Expected eyes in at least one pair of images, but found none in {int(self.not_found)}; "
                "measure more images, or check the face parser."
            )
        change: Tensor = self.edited / self.original - 1
        return change
