"""Training of the small CLIP, in open_clip's own format."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import open_clip
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from evaluation.judges.clip import CONFIG, WEIGHTS
from evaluation.judges.preprocess import normalize
from experiments.tiny_faces.captions import caption
from experiments.tiny_faces.dataset import step_generator
from experiments.tiny_faces.fit import adamw_one_cycle, fit
from experiments.tiny_faces.judges.pool import Pool, to_floats, vary
from experiments.tiny_faces.judges.saving import finished_folder

MEAN_STD = [0.5, 0.5, 0.5]


@dataclass(frozen=True)
class ClipSettings:
    """Size and length of the training.

    Args:
        vision_layers: Bottleneck blocks of each stage of the image ResNet.
        vision_width: Channels of its first stage; the last one has 32 times as many.
        context_length: Tokens of a text.
    """

    steps: int = 2400
    batch_size: int = 128
    learning_rate: float = 1.5e-3
    weight_decay: float = 5e-2
    embed_dim: int = 128
    vision_layers: tuple[int, ...] = (1, 1, 1, 1)
    vision_width: int = 16
    text_width: int = 128
    text_layers: int = 2
    context_length: int = 48
    size: int = 64
    precision: str = "32-true"
    seed: int = 23


class ClipModule(lightning.LightningModule):
    """CLIP's contrastive loss in which images with the same caption count as matches of it alike."""

    def __init__(self, model: torch.nn.Module, settings: ClipSettings) -> None:
        super().__init__()
        self.model = model
        self.settings = settings

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, ids = batch
        pixels = normalize(images, (self.settings.size, self.settings.size), MEAN_STD, MEAN_STD)
        image_embeds, text_embeds, scale = self.model(pixels, ids)[:3]
        loss = contrastive_loss(image_embeds.float(), text_embeds.float(), scale, ids)
        self.log_dict({"train/loss": loss, "train/logit_scale": scale}, prog_bar=True)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        s = self.settings
        return adamw_one_cycle(self.parameters(), s.learning_rate, s.steps, s.weight_decay)


def contrastive_loss(
    image_embeds: Float[Tensor, "n dim"],
    text_embeds: Float[Tensor, "n dim"],
    scale: Tensor,
    ids: Int[Tensor, "n tokens"],
) -> Tensor:
    """Symmetric cross-entropy over a batch (Radford et al. 2021), shared evenly between pairs of equal text."""
    logits = scale.clamp(max=100) * image_embeds @ text_embeds.T
    same = (ids[:, None] == ids[None]).all(-1).float()
    targets = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def open_clip_config(settings: ClipSettings, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The content of open_clip_config.json; the tokenizer is read from the same folder."""
    return {
        "model_cfg": {
            "embed_dim": settings.embed_dim,
            "vision_cfg": {
                "image_size": settings.size,
                "layers": list(settings.vision_layers),
                "width": settings.vision_width,
                "head_width": settings.vision_width * 4,
            },
            "text_cfg": {
                "context_length": settings.context_length,
                "vocab_size": len(tokenizer),
                "width": settings.text_width,
                "heads": max(settings.text_width // 32, 1),
                "layers": settings.text_layers,
                "hf_tokenizer_name": "tokenizer of this folder",
                "pool_type": "eos",
                "eos_id": tokenizer.eos_token_id,
            },
        },
        "preprocess_cfg": {"mean": MEAN_STD, "std": MEAN_STD, "interpolation": "bilinear", "resize_mode": "squash"},
    }


def build_clip(settings: ClipSettings, tokenizer: PreTrainedTokenizerBase) -> torch.nn.Module:
    """The network with random weights that follow from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model: torch.nn.Module = open_clip.CLIP(**open_clip_config(settings, tokenizer)["model_cfg"])
    return model


def batch_captions(pool: Pool, rows: Tensor, seed: int, step: int) -> list[str]:
    """A caption for each row, other words at every step; never the empty one, which describes no image."""
    rng = random.Random(f"{seed}-{step}")
    columns = {name: values[rows].tolist() for name, values in pool.faces.values.items()}
    texts = []
    for row in range(len(rows)):
        text = ""
        while not text:
            text = caption({name: column[row] for name, column in columns.items()}, rng)
        texts.append(text)
    return texts


def train_clip(
    settings: ClipSettings, pool: Pool, tokenizer: PreTrainedTokenizerBase, out_dir: Path, work_dir: Path
) -> None:
    """Trains a CLIP and saves it in open_clip's format with its tokenizer, in fp16; resumes in `work_dir`."""
    module = ClipModule(build_clip(settings, tokenizer), settings)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        rows = pool.rows(settings.batch_size, settings.seed, step)
        texts = batch_captions(pool, rows, settings.seed, step)
        ids = tokenizer(
            texts, padding="max_length", max_length=settings.context_length, truncation=True, return_tensors="pt"
        ).input_ids
        return vary(to_floats(pool.images[rows]), step_generator(settings.seed, step)), ids

    fit(module, batch, work_dir, settings.steps, precision=settings.precision)
    weights = {name: value.detach().cpu().contiguous() for name, value in module.model.state_dict().items()}
    with finished_folder(out_dir) as folder:
        save_file({n: v.half() if v.is_floating_point() else v for n, v in weights.items()}, folder / WEIGHTS)
        (folder / CONFIG).write_text(json.dumps(open_clip_config(settings, tokenizer), indent=2) + "\n")
        tokenizer.save_pretrained(folder)
