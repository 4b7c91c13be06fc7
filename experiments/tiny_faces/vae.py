"""Training of the world's AutoencoderKL, and the normalisation of its latents."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from experiments.tiny_faces.dataset import FaceDataset, step_rows
from experiments.tiny_faces.fit import adamw_one_cycle, fit
from experiments.tiny_faces.render import PARSE_CLASSES

FEATURES = tuple(PARSE_CLASSES.index(name) for name in ("eye", "brow", "glasses", "mouth"))


@dataclass(frozen=True)
class VaeSettings:
    """Settings of the training.

    Args:
        steps: optimizer steps of `batch_size` faces.
        kl_weight: weight of the mean KL divergence per latent element.
        feature_weight: weight of a pixel of eyes, brows, glasses or mouth; other pixels weigh 1.
        precision: Lightning's precision.
    """

    steps: int = 1900
    batch_size: int = 32
    learning_rate: float = 1.5e-3
    kl_weight: float = 5e-5
    feature_weight: float = 4.0
    precision: str = "bf16-mixed"
    seed: int = 11


class VaeModule(LightningModule):
    """Weighted L1 + MSE reconstruction with a small KL term."""

    def __init__(self, vae: AutoencoderKL, settings: VaeSettings) -> None:
        super().__init__()
        self.vae, self.settings = vae, settings

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, weights = batch
        posterior = self.vae.encode(images * 2 - 1).latent_dist
        reconstruction = self.vae.decode(posterior.sample()).sample.float()
        error = reconstruction - (images * 2 - 1)
        loss = ((error.abs() + error**2) * weights).mean()
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).float().mean()
        self.log("train/reconstruction", loss, prog_bar=True)
        self.log("train/kl", kl)
        return loss + self.settings.kl_weight * kl

    def configure_optimizers(self) -> OptimizerLRScheduler:
        s = self.settings
        return adamw_one_cycle(self.parameters(), s.learning_rate, s.steps, weight_decay=1e-4)


def pixel_weights(labels: Tensor, feature_weight: float) -> Float[Tensor, "n 1 size size"]:
    """Weight of each pixel in the reconstruction loss, mean about 1."""
    features = torch.isin(labels, torch.tensor(FEATURES, dtype=labels.dtype))
    return torch.where(features, feature_weight, 1.0)[:, None]


def train_vae(vae: AutoencoderKL, data: FaceDataset, settings: VaeSettings, work_dir: Path) -> None:
    """Train `vae` in place and normalise its latents; resumes in `work_dir`."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        rows = step_rows(settings.seed, step, settings.batch_size, len(data))
        return data.floats(rows), pixel_weights(data.labels[rows], settings.feature_weight)

    module = VaeModule(vae, settings)
    fit(module, batch, work_dir, settings.steps, precision=settings.precision, gradient_clip_val=1.0)
    normalise_latents(vae.eval(), data.floats(slice(0, 1000)))


@torch.no_grad()
def normalise_latents(vae: AutoencoderKL, images: Float[Tensor, "n 3 size size"]) -> None:
    """Give the latents mean 0 and deviation 1 per channel, by folding the affine map into the 1x1 quant convolutions.

    Decoding is unchanged up to rounding; the scaling factor becomes 1.
    """
    means = torch.cat([vae.encode(part * 2 - 1).latent_dist.mean for part in images.split(100)])
    mean, std = means.mean((0, 2, 3)), means.std((0, 2, 3))
    into, out = vae.quant_conv, vae.post_quant_conv
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= std[None, :, None, None]
    channels = len(mean)
    into.weight[:channels] /= std[:, None, None, None]
    into.bias[:channels] = (into.bias[:channels] - mean) / std
    into.bias[channels:] -= 2 * std.log()
    vae.register_to_config(scaling_factor=1.0)
