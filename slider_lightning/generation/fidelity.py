"""How near images are to the photographs that they were made from."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

# The window of structural similarity (Wang et al. 2004) has 11 pixels a side.
_SMALLEST_SIDE = 11


@dataclass(frozen=True)
class Fidelity:
    """Of one image.

    Args:
        squared_error: mean over pixels and channels in [0, 1].
        similarity: structural similarity, at most 1.
    """

    squared_error: float
    similarity: float


def fidelity(
    images: Float[Tensor, "images 3 height width"], photographs: Float[Tensor, "images 3 height width"]
) -> list[Fidelity]:
    """Of every image to its photograph, both in [0, 1].

    Raises:
        ValueError: if they differ in shape or have a side below 11 pixels.
    """
    if images.shape != photographs.shape or min(images.shape[-2:]) < _SMALLEST_SIDE:
        raise ValueError(
            f"Expected images as large as the photographs and of 11 pixels or more, but got {tuple(images.shape)} and "
            f"{tuple(photographs.shape)}."
        )
    errors = (images - photographs).square().flatten(1).mean(1)
    similarities = structural_similarity_index_measure(images, photographs, data_range=1.0, reduction="none")
    assert isinstance(similarities, Tensor)
    return [Fidelity(*pair) for pair in zip(errors.tolist(), similarities.reshape(-1).tolist(), strict=True)]
