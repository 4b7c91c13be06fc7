"""Training of the attribute probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning
import torch
import torch.nn.functional as F
from jaxtyping import Float
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from evaluation.attributes import Schema, schema_labels, schema_slices
from evaluation.judges.preprocess import normalize
from evaluation.judges.probe import set_probe_config
from experiments.tiny_faces.dataset import step_generator
from experiments.tiny_faces.fit import adamw_one_cycle, fit
from experiments.tiny_faces.judges.pool import Pool, label_targets, mirror_and_shift, to_floats, vary
from experiments.tiny_faces.judges.saving import finished_folder

MEAN_STD = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class ProbeSettings:
    """Size and length of the training.

    Args:
        widths: Channels of the ResNet's stages.
        depths: Basic blocks of each stage.
        stem: Channels of the stem, which shrinks the image by 4.
        size: Side in pixels that images are resized to before the stem.
    """

    steps: int = 2400
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 2e-2
    widths: tuple[int, ...] = (32, 64, 128, 224)
    depths: tuple[int, ...] = (2, 2, 2, 2)
    stem: int = 48
    size: int = 96
    precision: str = "bf16-mixed"
    seed: int = 21


class ProbeModule(lightning.LightningModule):
    """Squared error of standardized continuous attributes plus cross-entropy of every class attribute."""

    def __init__(self, model: ResNetForImageClassification, schema: Schema, settings: ProbeSettings) -> None:
        super().__init__()
        self.model = model
        self.schema = schema
        self.settings = settings

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, targets = batch
        size = (self.settings.size, self.settings.size)
        logits = self.model(normalize(images, size, MEAN_STD, MEAN_STD)).logits.float()
        losses = attribute_losses(logits, targets, self.schema)
        self.log("train/loss", losses.mean(), prog_bar=True)
        return losses.mean()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        s = self.settings
        return adamw_one_cycle(self.parameters(), s.learning_rate, s.steps, s.weight_decay)


def attribute_losses(
    logits: Float[Tensor, "n labels"], targets: Float[Tensor, "n labels"], schema: Schema
) -> Float[Tensor, " attributes"]:
    """One loss per attribute: squared error of a continuous one (standardized), cross-entropy of a class."""
    slices = schema_slices(schema)
    losses = []
    for attribute in schema:
        rows, truth = logits[:, slices[attribute.name]], targets[:, slices[attribute.name]]
        losses.append(F.mse_loss(rows, truth) if attribute.kind == "continuous" else F.cross_entropy(rows, truth))
    return torch.stack(losses)


def standardize(
    targets: Float[Tensor, "n labels"], schema: Schema, mean: Tensor, std: Tensor
) -> Float[Tensor, "n labels"]:
    """Continuous columns in standard units; one-hot columns as they are."""
    slices = schema_slices(schema)
    standard = targets.clone()
    for attribute in schema:
        if attribute.kind == "continuous":
            columns = slices[attribute.name]
            standard[:, columns] = (targets[:, columns] - mean[columns]) / std[columns]
    return standard


def build_probe(settings: ProbeSettings, labels: Sequence[str]) -> ResNetForImageClassification:
    """The network with random weights that follow from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return ResNetForImageClassification(
            ResNetConfig(
                num_channels=3,
                embedding_size=settings.stem,
                hidden_sizes=list(settings.widths),
                depths=list(settings.depths),
                layer_type="basic",
                id2label=dict(enumerate(labels)),
                label2id={label: index for index, label in enumerate(labels)},
            )
        )


def train_probe(settings: ProbeSettings, pool: Pool, schema: Schema, out_dir: Path, work_dir: Path) -> None:
    """Trains a probe and saves it as a transformers folder in fp16; resumes in `work_dir`."""
    targets = label_targets(pool.faces, schema)
    mean, std = targets.mean(0), targets.std(0)
    standard = standardize(targets, schema, mean, std)
    module = ProbeModule(build_probe(settings, schema_labels(schema)), schema, settings)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        rows = pool.rows(settings.batch_size, settings.seed, step)
        generator = step_generator(settings.seed, step)
        return mirror_and_shift(vary(to_floats(pool.images[rows]), generator), generator), standard[rows]

    fit(module, batch, work_dir, settings.steps, precision=settings.precision)
    set_probe_config(module.model.config, schema, mean, std)
    processor = ViTImageProcessor(
        size={"height": settings.size, "width": settings.size}, image_mean=list(MEAN_STD), image_std=list(MEAN_STD)
    )
    with finished_folder(out_dir) as folder:
        module.model.cpu().half().save_pretrained(folder)
        processor.save_pretrained(folder)
