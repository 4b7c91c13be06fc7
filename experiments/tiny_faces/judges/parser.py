"""Training of the face parser."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import lightning
import torch
import torch.nn.functional as F
from jaxtyping import Float
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from transformers import SegformerImageProcessor, UperNetConfig, UperNetForSemanticSegmentation

from evaluation.judges.preprocess import normalize
from experiments.tiny_faces.dataset import step_generator
from experiments.tiny_faces.fit import adamw_one_cycle, fit
from experiments.tiny_faces.judges.pool import Pool, to_floats, vary
from experiments.tiny_faces.judges.saving import finished_folder
from experiments.tiny_faces.render import PARSE_CLASSES

MEAN_STD = (0.5, 0.5, 0.5)
EYE = PARSE_CLASSES.index("eye")
SKIN = PARSE_CLASSES.index("skin")


@dataclass(frozen=True)
class ParserSettings:
    """Size and length of the training.

    Args:
        widths: Channels of the ConvNeXt backbone's stages; each halves the resolution.
        depths: Blocks of each stage.
        decoder_width: Channels of UperNet's head.
        area_weight: Weight of the relative error of the eye area beside the cross-entropy.
    """

    steps: int = 1000
    batch_size: int = 32
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    widths: tuple[int, ...] = (24, 48, 96)
    depths: tuple[int, ...] = (1, 1, 2)
    decoder_width: int = 32
    area_weight: float = 0.3
    size: int = 64
    precision: str = "bf16-mixed"
    seed: int = 22


class ParserModule(lightning.LightningModule):
    """Cross-entropy with soft coverage as the eyes' target, plus the error of the eye area."""

    def __init__(self, model: UperNetForSemanticSegmentation, settings: ParserSettings) -> None:
        super().__init__()
        self.model = model
        self.settings = settings

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, targets = batch
        size = (self.settings.size, self.settings.size)
        logits = self.model(normalize(images, size, MEAN_STD, MEAN_STD)).logits.float()
        logits = F.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)
        cross_entropy = F.cross_entropy(logits, targets)
        true_area = targets[:, EYE].sum((1, 2)).clamp_min(1)
        area_error = (logits.softmax(1)[:, EYE].sum((1, 2)) / true_area - 1).abs().mean()
        loss = cross_entropy + self.settings.area_weight * area_error
        self.log_dict({"train/loss": loss, "train/eye_area_error": area_error}, prog_bar=True)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        s = self.settings
        return adamw_one_cycle(self.parameters(), s.learning_rate, s.steps, s.weight_decay)


def parse_targets(labels: Tensor, eye_mask: Tensor) -> Float[Tensor, "n classes h w"]:
    """Class shares per pixel: the eyes by their coverage, the rest by the part painted there, skin around an eye."""
    rest = F.one_hot(torch.where(labels == EYE, SKIN, labels.long()), len(PARSE_CLASSES)).movedim(-1, 1).float()
    targets = rest * (1 - eye_mask[:, None])
    targets[:, EYE] += eye_mask
    return targets


def build_parser(settings: ParserSettings) -> UperNetForSemanticSegmentation:
    """The network with random weights that follow from the seed; its logits have the images' resolution."""
    backbone = {
        "model_type": "convnext",
        "patch_size": 2,
        "num_stages": len(settings.widths),
        "hidden_sizes": list(settings.widths),
        "depths": list(settings.depths),
        "layer_scale_init_value": 1.0,
        "out_features": [f"stage{stage + 1}" for stage in range(len(settings.widths))],
    }
    config = UperNetConfig(
        backbone_config=backbone,
        hidden_size=settings.decoder_width,
        pool_scales=[1, 2],
        use_auxiliary_head=False,
        id2label=dict(enumerate(PARSE_CLASSES)),
        label2id={name: index for index, name in enumerate(PARSE_CLASSES)},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return UperNetForSemanticSegmentation(config)


def train_parser(settings: ParserSettings, pool: Pool, out_dir: Path, work_dir: Path) -> None:
    """Trains a parser and saves it as a transformers folder in fp16; resumes in `work_dir`."""
    module = ParserModule(build_parser(settings), settings)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        rows = pool.rows(settings.batch_size, settings.seed, step)
        images = vary(to_floats(pool.images[rows]), step_generator(settings.seed, step))
        return images, parse_targets(pool.labels[rows], to_floats(pool.eye_mask[rows]))

    fit(module, batch, work_dir, settings.steps, precision=settings.precision)
    processor = SegformerImageProcessor(
        size={"height": settings.size, "width": settings.size}, image_mean=list(MEAN_STD), image_std=list(MEAN_STD)
    )
    with finished_folder(out_dir) as folder:
        module.model.cpu().half().save_pretrained(folder)
        processor.save_pretrained(folder)
