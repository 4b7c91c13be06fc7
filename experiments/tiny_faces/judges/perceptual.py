"""Training of the perceptual distance.

LPIPS learns its weights from people who say which of two images is closer to a third. Here the answer is known by
construction: of two changes of one face along the same path, the one that goes further is further away. The trunk
learns the attributes of the world, so that its features respond to what matters in a face; the weights learn the order.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import lightning
import torch
import torch.nn.functional as F
from jaxtyping import Float
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from safetensors.torch import save_file
from torch import Tensor, nn

from evaluation.attributes import Schema, schema_labels
from evaluation.judges.perceptual import CONFIG, WEIGHTS, PerceptualDistance
from experiments.tiny_faces.dataset import step_generator
from experiments.tiny_faces.fit import adamw_one_cycle, fit
from experiments.tiny_faces.judges.pool import Pool, blur, label_targets, to_floats, vary
from experiments.tiny_faces.judges.probe import attribute_losses, standardize
from experiments.tiny_faces.judges.saving import finished_folder

NAME = "tiny_faces perceptual distance"
CALIBRATION_PAIRS = 1024
SHARPNESS = 8.0


@dataclass(frozen=True)
class PerceptualSettings:
    """Size and length of the training.

    Args:
        widths: Channels of the trunk's stages; each halves the resolution.
        size: Side in pixels at which images are compared.
    """

    steps: int = 400
    batch_size: int = 48
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    widths: tuple[int, ...] = (32, 64, 96, 128)
    size: int = 64
    precision: str = "bf16-mixed"
    seed: int = 24


@dataclass(frozen=True)
class Triplet:
    """Three images in [0, 1] of which `near` is closer to `reference` than `far` is, and the reference's targets."""

    reference: Float[Tensor, "n 3 h w"]
    near: Float[Tensor, "n 3 h w"]
    far: Float[Tensor, "n 3 h w"]
    targets: Float[Tensor, "n labels"]


class PerceptualModule(lightning.LightningModule):
    """Attribute losses train the trunk; the ranking of triplets trains the weights of its frozen features."""

    def __init__(self, distance: PerceptualDistance, schema: Schema, settings: PerceptualSettings) -> None:
        super().__init__()
        self.distance = distance
        self.head = nn.Linear(settings.widths[-1], len(schema_labels(schema)))
        self.schema = schema
        self.settings = settings

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        reference, near, far, targets = batch
        pooled = self.distance.trunk(reference * 2 - 1)[-1].mean((2, 3))
        attributes = attribute_losses(self.head(pooled).float(), targets, self.schema).mean()
        with torch.no_grad():
            features = [self.distance.features(images) for images in (reference, near, far)]
        ranking, right = ranking_loss(self.distance, *features)
        self.log_dict({"train/attributes": attributes, "train/ranking": ranking, "train/order": right}, prog_bar=True)
        return attributes + ranking

    def on_train_batch_end(self, *_: object) -> None:
        with torch.no_grad():
            for weight in self.distance.weights:
                weight.clamp_(min=0)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        s = self.settings
        return adamw_one_cycle(self.parameters(), s.learning_rate, s.steps, s.weight_decay)


def ranking_loss(
    distance: PerceptualDistance, reference: list[Tensor], near: list[Tensor], far: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Logistic loss of the relative margin between both distances, and the share of triplets in the right order."""
    to_near, to_far = distance.compare(reference, near).float(), distance.compare(reference, far).float()
    margin = (to_far - to_near) / (to_far + to_near).clamp_min(1e-6)
    return F.softplus(-SHARPNESS * margin).mean(), (margin > 0).float().mean()


def make_triplet(reference: Tensor, other: Tensor, targets: Tensor, generator: torch.Generator) -> Triplet:
    """Near and far images on one of four paths per row: towards another face, blur, noise, or a shift sideways.

    Args:
        reference: Images in [0, 1].
        other: As many other faces.
        targets: Targets of the reference.
        generator: Where all chance comes from.
    """
    n = len(reference)
    amounts = torch.rand(n, 2, generator=generator).sort(1).values
    noise = torch.randn(reference.shape, generator=generator)
    kind = torch.randint(4, (n,), generator=generator)[:, None, None, None]
    blurred = blur(reference, 2.5)
    images = []
    for column in (0, 1):
        amount = amounts[:, column, None, None, None]
        paths = (
            torch.lerp(reference, other, amount * 0.6),
            torch.lerp(reference, blurred, amount),
            reference + 0.2 * amount * noise,
            roll_sideways(reference, amounts[:, column]),
        )
        images.append(
            torch.stack([torch.where(kind == i, path, 0.0) for i, path in enumerate(paths)]).sum(0).clamp(0, 1)
        )
    return Triplet(reference, images[0], images[1], targets)


def roll_sideways(images: Tensor, amount: Float[Tensor, " n"], reach: float = 0.1) -> Tensor:
    """Images moved to the right by `amount` times `reach` of their width, edges replicated."""
    n = len(images)
    theta = torch.eye(2, 3).repeat(n, 1, 1)
    theta[:, 0, 2] = -2 * reach * amount
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


@torch.no_grad()
def calibrate(distance: PerceptualDistance, pool: Pool) -> None:
    """Scales the weights so that two unrelated faces of the world are 1.0 apart on average."""
    pairs = min(CALIBRATION_PAIRS, len(pool) // 2)
    first, second = to_floats(pool.images[:pairs]), to_floats(pool.images[pairs : 2 * pairs])
    mean = distance(first, second).mean()
    for weight in distance.weights:
        weight /= mean


def train_perceptual(settings: PerceptualSettings, pool: Pool, schema: Schema, out_dir: Path, work_dir: Path) -> None:
    """Trains a perceptual distance and saves it as safetensors and config.json in fp16; resumes in `work_dir`."""
    targets = label_targets(pool.faces, schema)
    standard = standardize(targets, schema, targets.mean(0), targets.std(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        distance = PerceptualDistance(settings.widths, settings.size, NAME)
        module = PerceptualModule(distance, schema, settings)

    def batch(step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        generator = step_generator(settings.seed, step)
        rows = pool.rows(settings.batch_size, settings.seed, step)
        reference = vary(to_floats(pool.images[rows]), generator)
        other = to_floats(pool.images[rows.roll(1)])
        triplet = make_triplet(reference, other, standard[rows], generator)
        return triplet.reference, triplet.near, triplet.far, triplet.targets

    fit(module, batch, work_dir, settings.steps, precision=settings.precision)
    distance.cpu().eval()
    calibrate(distance, pool)
    weights = {name: value.detach().half().contiguous() for name, value in distance.state_dict().items()}
    with finished_folder(out_dir) as folder:
        save_file(weights, folder / WEIGHTS)
        (folder / CONFIG).write_text(json.dumps(distance.config(), indent=2) + "\n")
