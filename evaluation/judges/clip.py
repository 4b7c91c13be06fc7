"""CLIP score by a model in open_clip's own format, loaded from a local folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from jaxtyping import Float
from torch import Tensor, nn

from evaluation.judges.preprocess import check_images, in_batches, normalize
from slider_lightning.assets import verify_folder
from slider_lightning.errors import InputError

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"


class ClipJudge(nn.Module):
    """How well a text describes an image.

    Args:
        model: An open_clip CLIP model.
        tokenizer: Its tokenizer: a list of n texts -> (n, tokens) ids.
    """

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        preprocess = open_clip.get_model_preprocess_cfg(model)
        size = preprocess["size"]
        self.size: tuple[int, int] = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        self.image_mean = list(preprocess["mean"])
        self.image_std = list(preprocess["std"])

    def embed_images(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n dim"]:
        """Unit-length embeddings of images in [0, 1]."""
        check_images(images)
        return in_batches(self._embed_images, images)

    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "n dim"]:
        """Unit-length embeddings of texts."""
        return in_batches(self._embed_ids, self.tokenizer(list(texts)))

    def score(self, images: Float[Tensor, "n 3 h w"], texts: Sequence[str]) -> Float[Tensor, " n"]:
        """CLIP score of each image with its text: 100 x cosine of their embeddings (REFERENCE.md, Evaluation protocol).

        Args:
            images: n images in [0, 1].
            texts: n texts, or one text for all images.

        Raises:
            ValueError: If there are neither n texts nor one.
        """
        if len(texts) not in (1, len(images)):
            raise ValueError(
                f"Expected one text or {len(images)} texts for {len(images)} images, but got {len(texts)}."
            )
        return 100.0 * (self.embed_images(images) * self.embed_texts(texts).to(images.device)).sum(-1)

    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _embed_images(self, images: Tensor) -> Tensor:
        pixels = normalize(images.to(self._device()), self.size, self.image_mean, self.image_std)
        embeddings: Tensor = self.model.encode_image(pixels, normalize=True)  # type: ignore[operator]
        return embeddings

    def _embed_ids(self, ids: Tensor) -> Tensor:
        embeddings: Tensor = self.model.encode_text(ids.to(self._device()), normalize=True)  # type: ignore[operator]
        return embeddings


def load_clip(folder: str | Path) -> ClipJudge:
    """Loads an open_clip model with its tokenizer from a folder, in fp32 and frozen.

    Raises:
        InputError: If the folder is missing, damaged or not in open_clip's format.
    """
    folder = Path(folder)
    verify_folder(folder)
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise InputError(f"Expected an open_clip folder with {CONFIG} and {WEIGHTS} at {folder}; give such a folder.")
    source = f"local-dir:{folder}"
    model = open_clip.create_model(source, precision="fp32", device="cpu")
    judge = ClipJudge(model, open_clip.get_tokenizer(source))
    return judge.eval().requires_grad_(False)
