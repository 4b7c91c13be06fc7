"""Attributes by CLIP alone: the class whose prompt fits an image best."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from evaluation.attributes import Attribute, schema_slices
from evaluation.judges.clip import ClipJudge
from slider_lightning.errors import InputError


class ZeroShotClassifier(nn.Module):
    """Reads class attributes of an image without any training: softmax of CLIP's logits over one prompt per class.

    The way of Radford et al. 2021, section 3.1. It knows no shares of the classes, so it states changes against the
    standard deviation of a class's indicator under a uniform prior, sqrt(p (1 - p)) with p = 1 / classes.

    Args:
        clip: Who compares images with prompts.
        attributes: Attribute name -> class name -> prompt, e.g. {"gender": {"man": "a photo of a man", ...}}.

    Raises:
        InputError: If there is no attribute, or one has fewer than two classes.
    """

    text_embeds: Tensor

    def __init__(self, clip: ClipJudge, attributes: Mapping[str, Mapping[str, str]]) -> None:
        super().__init__()
        if not attributes:
            raise InputError("Expected attributes for the zero-shot classifier, but got none; give one or more.")
        self.name = f"zero-shot {clip.name}"
        self.schema = tuple(Attribute(name, "class", tuple(prompts)) for name, prompts in attributes.items())
        self.clip = clip
        prompts = [prompt for classes in attributes.values() for prompt in classes.values()]
        self.register_buffer("text_embeds", clip.embed_texts(prompts))

    def standard_deviations(self) -> dict[str, Tensor]:
        """Per attribute the standard deviation of each class's indicator under a uniform prior, (classes,)."""
        return {
            attribute.name: torch.full((attribute.width,), math.sqrt(attribute.width - 1) / attribute.width)
            for attribute in self.schema
        }

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> dict[str, Tensor]:
        """Per attribute (n, classes) probabilities of images in [0, 1]."""
        embeds = self.clip.embed_images(images)
        logits = self.clip.logit_scale.to(embeds) * embeds @ self.text_embeds.to(embeds).T
        return {name: logits[:, columns].softmax(-1) for name, columns in schema_slices(self.schema).items()}
