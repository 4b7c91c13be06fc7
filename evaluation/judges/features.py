"""Features of images, for the distances between sets of images (FID and KID)."""

from __future__ import annotations

import importlib.util

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics.image.fid import NoTrainInceptionV3

from evaluation.judges.clip import ClipJudge
from evaluation.judges.preprocess import check_images, in_batches
from evaluation.judges.weights import find_weights, read_weights
from slider_lightning.errors import InputError

INCEPTION = "FID's Inception v3"
INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)


class ClipFeatures(nn.Module):
    """The image embeddings of a CLIP, not scaled to unit length (Kynkaanniemi et al. 2023).

    Args:
        clip: Whose embeddings.
    """

    def __init__(self, clip: ClipJudge) -> None:
        super().__init__()
        self.name = f"{clip.name} features"
        self.clip = clip
        # The attribute by which torchmetrics learns how wide the features are.
        self.num_features = clip.embed_texts([""]).shape[-1]

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n dim"]:
        """Features of images in [0, 1]."""
        return self.clip.encode_images(images)


class InceptionFeatures(nn.Module):
    """The 2048 pooled features of the Inception v3 that FID is defined by, by torchmetrics and torch-fidelity.

    Images are rounded to 8 bits and resized to 299 px as the original TensorFlow code does, without antialiasing, so
    that figures are comparable to published ones.

    Args:
        weights: torch-fidelity's file of weights; None means torch's cache.

    Raises:
        InputError: If torch-fidelity is not installed, or the weights are absent or damaged.
    """

    num_features = 2048

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        self.name = "Inception v3 features"
        if importlib.util.find_spec("torch_fidelity") is None:
            raise InputError(
                f"Expected the package torch-fidelity for {INCEPTION}, but it is not installed; run "
                "`pip install torch-fidelity`."
            )
        path = find_weights(weights, INCEPTION_URL, INCEPTION)
        read_weights(path, INCEPTION)  # torch-fidelity would run code out of the file
        try:
            self.network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(path), antialias=False)
        except RuntimeError as error:
            raise InputError(
                f"Expected {path} to hold the weights of {INCEPTION}, but it holds those of another network; fetch "
                f"them from {INCEPTION_URL}."
            ) from error
        self.requires_grad_(False)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 2048"]:
        """Features of images in [0, 1]."""
        check_images(images)
        return in_batches(self._features, images)

    def _features(self, images: Tensor) -> Tensor:
        features: Tensor = self.network((255 * images).round().to(next(self.network.parameters()).device, torch.uint8))
        return features.float()
