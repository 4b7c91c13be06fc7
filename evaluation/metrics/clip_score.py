"""CLIP score, and how far an edit shifts it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from slider_lightning.errors import InputError


class TextImageJudge(Protocol):
    """What scores images against texts, e.g. `evaluation.judges.clip.ClipJudge`."""

    def score(self, images: Float[Tensor, "n 3 h w"], texts: Sequence[str]) -> Float[Tensor, " n"]:
        """CLIP score of images in [0, 1] with n texts, or with one text for all."""
        ...


def clip_score(image_embeds: Float[Tensor, "*n dim"], text_embeds: Float[Tensor, "*n dim"]) -> Float[Tensor, "*n"]:
    """100 x cosine of image and text (REFERENCE.md, Evaluation protocol), in [-100, 100].

    A negative cosine stays negative: torchmetrics' CLIPScore clamps at 0 (and so does Hessel et al. 2021), which would
    make the shift of an edit depend on where the clamp lies.

    Args:
        image_embeds: CLIP embeddings of images, of any length.
        text_embeds: CLIP embeddings of texts; shapes broadcast.

    Example:
        >>> import torch
        >>> clip_score(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, -2.0]]))
        tensor([-80.])
    """
    return 100.0 * F.cosine_similarity(image_embeds, text_embeds, dim=-1)


def clip_score_shift(edited: Float[Tensor, "*n"], original: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Change of each image's CLIP score by an edit; its mean is the paper's dCLIP, mean(edited) - mean(original).

    Args:
        edited: CLIP scores of edited images with the edit prompt.
        original: CLIP scores of the unedited images of the same prompts and seeds with the same edit prompt.

    Raises:
        ValueError: If the scores are not paired.
    """
    if edited.shape != original.shape:
        raise ValueError(
            f"Expected one edited score per original score, but got {tuple(edited.shape)} and {tuple(original.shape)}."
        )
    return edited - original


class CLIPScoreShift(Metric):
    """Mean shift of the CLIP score over pairs of edited and original images.

    Args:
        clip: Who scores.
        kwargs: Of `torchmetrics.Metric`.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    shifts: list[Tensor]

    def __init__(self, clip: TextImageJudge, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.clip = clip
        self.add_state("shifts", default=[], dist_reduce_fx="cat")

    def update(
        self,
        edited: Float[Tensor, "n 3 h w"],
        original: Float[Tensor, "n 3 h w"],
        texts: Sequence[str],
    ) -> None:
        """Adds pairs of images in [0, 1].

        Args:
            edited: Edited images.
            original: The images that they were made from, in the same order.
            texts: The edit prompt of each pair, or one for all.

        Raises:
            ValueError: If the images are not paired, leave [0, 1] or hold NaN.
        """
        self.shifts.append(clip_score_shift(self.clip.score(edited, texts), self.clip.score(original, texts)))

    def per_image(self) -> Float[Tensor, " n"]:
        """The shift of every pair so far.

        Raises:
            InputError: If there is none.
        """
        if not len(self.shifts):
            raise InputError("Expected pairs of images to measure the CLIP score of, but got none; give at least one.")
        return dim_zero_cat(self.shifts)

    def compute(self) -> dict[str, Tensor]:
        """`clip_score_shift`, the mean over all pairs, and `n`, their number."""
        shifts = self.per_image()
        return {"clip_score_shift": shifts.mean(), "n": shifts.new_tensor(len(shifts)).long()}
