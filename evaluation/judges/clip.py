"""CLIP as a judge, through open_clip: from a folder in its format, or one of its named models."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from huggingface_hub import snapshot_download
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn

from evaluation.judges.preprocess import check_images, in_batches, normalize
from evaluation.metrics.clip_score import clip_score
from slider_lightning.assets import verify_folder
from slider_lightning.errors import InputError

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"


class ClipJudge(nn.Module):
    """How well a text describes an image.

    Args:
        model: An open_clip CLIP model.
        tokenizer: Its tokenizer: a list of n texts -> (n, tokens) ids.
        name: What records and tables call it.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, name: str) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        preprocess = open_clip.get_model_preprocess_cfg(model)
        size = preprocess["size"]
        self.size: tuple[int, int] = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        self.interpolation = str(preprocess["interpolation"])
        self.image_mean = list(preprocess["mean"])
        self.image_std = list(preprocess["std"])

    @property
    def logit_scale(self) -> Float[Tensor, ""]:
        """The factor that the model learned for cosines before a softmax, e.g. 100."""
        scale = self.model.logit_scale
        assert isinstance(scale, Tensor)
        return scale.exp()

    def encode_images(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n dim"]:
        """Embeddings of images in [0, 1], of the length that the model gives them."""
        check_images(images)
        return in_batches(self._encode_images, images)

    def embed_images(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n dim"]:
        """Unit-length embeddings of images in [0, 1]."""
        return F.normalize(self.encode_images(images), dim=-1)

    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "n dim"]:
        """Unit-length embeddings of texts."""
        return in_batches(self._embed_ids, self.tokenizer(list(texts)))

    def score(self, images: Float[Tensor, "n 3 h w"], texts: Sequence[str]) -> Float[Tensor, " n"]:
        """CLIP score of each image with its text, see `evaluation.metrics.clip_score.clip_score`.

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
        return clip_score(self.embed_images(images), self.embed_texts(texts).to(images.device))

    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _encode_images(self, images: Tensor) -> Tensor:
        pixels = normalize(images.to(self._device()), self.size, self.image_mean, self.image_std, self.interpolation)
        embeddings: Tensor = self.model.encode_image(pixels)  # type: ignore[operator]
        return embeddings

    def _embed_ids(self, ids: Tensor) -> Tensor:
        embeddings: Tensor = self.model.encode_text(ids.to(self._device()), normalize=True)  # type: ignore[operator]
        return embeddings


def load_clip(folder: str | Path, name: str) -> ClipJudge:
    """Loads an open_clip model with its tokenizer from a folder, in fp32 and frozen.

    Args:
        folder: Folder in open_clip's format, with a `hashes.json`.
        name: What records and tables call the judge.

    Raises:
        InputError: If the folder is missing, damaged or not in open_clip's format.
    """
    folder = Path(folder)
    verify_folder(folder)
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise InputError(f"Expected an open_clip folder with {CONFIG} and {WEIGHTS} at {folder}; give such a folder.")
    source = f"local-dir:{folder}"
    model = open_clip.create_model(source, precision="fp32", device="cpu")
    return _frozen(ClipJudge(model, open_clip.get_tokenizer(source), name))


def open_clip_judge(model: str, pretrained: str, name: str) -> ClipJudge:
    """One of open_clip's named models, in fp32 and frozen.

    Args:
        model: Its name in open_clip. OpenAI's weights need the activation of the "-quickgelu" names; for a tag it is
            set as the tag says, for a file the name decides.
        pretrained: A tag of open_clip, whose weights are downloaded once into the hub's cache, or a file of weights.
        name: What records and tables call the judge.

    Raises:
        InputError: If open_clip knows no such model or tag, or the weights are absent, cannot be fetched or do not fit.
    """
    if model not in open_clip.list_models():
        raise InputError(f"Expected the name of a model of open_clip, but got {model!r}; see open_clip.list_models().")
    tag = open_clip.get_pretrained_cfg(model, pretrained)
    if not tag and not Path(pretrained).expanduser().is_file():
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise InputError(
            f"Expected `pretrained` as a file of weights or a tag of open_clip's {model} ({tags}), but got "
            f"{pretrained!r}; give one of them."
        )
    weights = _fetch(model, pretrained, tag) if tag else Path(pretrained).expanduser()
    try:
        network = open_clip.create_model(
            model,
            pretrained=str(weights),
            precision="fp32",
            device="cpu",
            force_quick_gelu=bool(tag.get("quick_gelu")),
            force_preprocess_cfg=tag,
        )
        return _frozen(ClipJudge(network, open_clip.get_tokenizer(model), name))
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError, pickle.UnpicklingError) as error:
        raise InputError(
            f"Expected {weights} to hold the weights of open_clip's {model}, but they do not load: {_line(error)}; "
            "fetch them again."
        ) from error


def _fetch(model: str, tag_name: str, tag: Mapping[str, Any]) -> Path:
    """The weights of a tag: from the cache, or downloaded."""
    try:
        if not tag.get("hf_hub"):
            return Path(open_clip.download_pretrained(dict(tag)))
        repository, _, file = str(tag["hf_hub"]).rpartition("/")
        # Unlike a download of one file, that of a folder does not try again and again where there is no network.
        weights = Path(snapshot_download(repository, allow_patterns=[file or WEIGHTS])) / (file or WEIGHTS)
        if weights.is_file():
            return weights
        reason = f"{repository} has no {weights.name}"
    except (OSError, RuntimeError, ValueError) as error:
        reason = _line(error)
        raise _absent(model, tag_name, reason) from error
    raise _absent(model, tag_name, reason)


def _absent(model: str, tag_name: str, reason: str) -> InputError:
    return InputError(
        f"Expected the weights {tag_name!r} of open_clip's {model}, but they are not in the cache and could not be "
        f"fetched ({reason}); connect once to fetch them, or give a file of weights as `pretrained`."
    )


def _frozen(judge: ClipJudge) -> ClipJudge:
    return judge.eval().requires_grad_(False)


def _line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
