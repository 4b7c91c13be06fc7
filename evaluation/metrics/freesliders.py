"""The three scores of FreeSliders (arXiv 2511.00103): Range, Preservation, Smoothness."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from evaluation.metrics.dose_response import SweepMetric


def conceptual_range(
    positive: Float[Tensor, "rows scales"], negative: Float[Tensor, "rows scales"]
) -> Float[Tensor, " rows"]:
    """FreeSliders' Range: mean of CLIP+(max) - CLIP+(min) and CLIP-(min) - CLIP-(max); more is better.

    Args:
        positive: CLIP score of each image with the prompt of the upper pole, scales increasing.
        negative: CLIP score of the same images with the prompt of the lower pole.
    """
    return ((positive[:, -1] - positive[:, 0]) + (negative[:, 0] - negative[:, -1])).double() / 2


def preservation(distances: Float[Tensor, "rows scales"], scales: Sequence[float]) -> Float[Tensor, " rows"]:
    """FreeSliders' Preservation: mean distance (LPIPS) of the edited images to that at scale 0; less is better."""
    edited = [column for column, scale in enumerate(scales) if scale != 0]
    return distances[:, edited].double().mean(1)


def smoothness(
    positive: Float[Tensor, "rows scales"], negative: Float[Tensor, "rows scales"], scales: Sequence[float]
) -> Float[Tensor, " rows"]:
    """FreeSliders' Smoothness: standard deviation of the gaps between consecutive scales; less is better.

    The gaps are those of CLIP+ from 0 up and of CLIP- from 0 down, all of them: the released code drops negative gaps,
    which hides a slider that turns back, and adds gaps to the bounds 0 and 100 of the score, which no image reaches.

    Args:
        positive: CLIP score of each image with the prompt of the upper pole.
        negative: CLIP score of the same images with the prompt of the lower pole.
        scales: Strictly increasing, 0 among them.
    """
    zero = list(scales).index(0)
    up, down = positive[:, zero:].double().diff(dim=1), -negative[:, : zero + 1].double().diff(dim=1)
    return torch.cat([down, up], 1).std(1, correction=0)


class FreeSlidersScores(SweepMetric):
    """Means over rows of FreeSliders' Range, Preservation and Smoothness."""

    higher_is_better = None
    names = ("positive", "negative", "distances")

    def update(
        self,
        positive: Float[Tensor, "rows scales"],
        negative: Float[Tensor, "rows scales"],
        distances: Float[Tensor, "rows scales"],
        scales: Sequence[float],
    ) -> None:
        """Adds rows.

        Args:
            positive: CLIP score of each image with the prompt of the upper pole.
            negative: CLIP score of the same images with the prompt of the lower pole.
            distances: Distance of each image to that of its row at scale 0.
            scales: Strictly increasing, 0 among them; the same in every update.

        Raises:
            InputError: If the scales do not increase, lack 0 or differ from an earlier update's.
            ValueError: If the values do not fit the scales, or are not finite.
        """
        self._gather(scales, positive, negative, distances)

    def compute(self) -> dict[str, Tensor]:
        """The means of `range`, `preservation` and `smoothness` over the rows."""
        positive, negative, distances = self._gathered()
        scales = self.scales or ()
        return {
            "range": conceptual_range(positive, negative).mean(),
            "preservation": preservation(distances, scales).mean(),
            "smoothness": smoothness(positive, negative, scales).mean(),
        }
