"""Training of the world's UNet and its two text encoders, together, on cached latents."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDPMScheduler, StableDiffusionXLPipeline
from diffusers.models.attention_processor import AttnProcessor
from jaxtyping import Float, Int
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from experiments.tiny_faces.captions import captions
from experiments.tiny_faces.dataset import FaceDataset, step_generator
from experiments.tiny_faces.fit import adamw_one_cycle, fit
from slider_lightning.assets import atomic_path

Batch = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class UNetSettings:
    """Settings of the training.

    Args:
        steps: optimizer steps of `batch_size` faces.
        ema_decay: decay of the averaged weights, which are the ones shipped.
        min_snr_gamma: losses are weighted by min(SNR, gamma) / SNR (Hang et al., 2023).
        offset_noise: deviation of the noise that a whole channel shares, as SDXL was trained with, so that
            flat backgrounds keep their variety.
        caption_variants: captions per face, one drawn per step.
        precision: Lightning's precision.
    """

    steps: int = 3000
    batch_size: int = 64
    learning_rate: float = 1e-3
    ema_decay: float = 0.998
    min_snr_gamma: float = 5.0
    offset_noise: float = 0.06
    caption_variants: int = 4
    precision: str = "bf16-mixed"
    seed: int = 12


class Denoiser(nn.Module):
    """UNet and text encoders of a pipeline as one trainable module: tokens in, noise prediction out."""

    add_time_ids: Tensor

    def __init__(self, pipeline: StableDiffusionXLPipeline) -> None:
        super().__init__()
        self.unet, self.text_encoder, self.text_encoder_2 = (
            pipeline.unet,
            pipeline.text_encoder,
            pipeline.text_encoder_2,
        )
        # On a CPU the backward of fused attention takes three times as long as that of plain matrix products.
        self.unet.set_attn_processor(AttnProcessor())
        for encoder in (self.text_encoder, self.text_encoder_2):
            encoder.set_attn_implementation("eager")
        size = float(pipeline.default_sample_size * pipeline.vae_scale_factor)
        self.register_buffer("add_time_ids", torch.tensor([[size, size, 0.0, 0.0, size, size]]), persistent=False)

    def forward(self, latents: Tensor, timestep: Tensor, input_ids: Tensor, input_ids_2: Tensor) -> Tensor:
        first = self.text_encoder(input_ids, output_hidden_states=True)
        second = self.text_encoder_2(input_ids_2, output_hidden_states=True)
        prompt_embeds = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        added = {"text_embeds": second.text_embeds, "time_ids": self.add_time_ids.expand(len(latents), -1)}
        return self.unet(latents, timestep, encoder_hidden_states=prompt_embeds, added_cond_kwargs=added).sample


class UNetModule(LightningModule):
    """Noise prediction with min-SNR weights and an exponential moving average of all weights."""

    alphas_cumprod: Tensor

    def __init__(self, denoiser: Denoiser, settings: UNetSettings) -> None:
        super().__init__()
        self.denoiser, self.settings = denoiser, settings
        self.average = AveragedModel(denoiser, multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay))
        scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
        self.register_buffer("alphas_cumprod", scheduler.alphas_cumprod, persistent=False)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        latents, noise, timestep, input_ids, input_ids_2 = batch
        alpha = self.alphas_cumprod[timestep][:, None, None, None]
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        noise_pred = self.denoiser(noisy, timestep, input_ids, input_ids_2).float()
        error = ((noise_pred - noise) ** 2).mean((1, 2, 3))
        snr = (alpha / (1 - alpha)).flatten()
        loss = (error * snr.clamp(max=self.settings.min_snr_gamma) / snr).mean()
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/noise_error", error.mean(), prog_bar=True)
        return loss

    def on_train_batch_end(self, *_: object) -> None:
        self.average.update_parameters(self.denoiser)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        s = self.settings
        return adamw_one_cycle(self.denoiser.parameters(), s.learning_rate, s.steps, warmup=150)


@torch.no_grad()
def encode_faces(path: Path, pipeline: StableDiffusionXLPipeline, data: FaceDataset) -> Float[Tensor, "n 4 h w"]:
    """Posterior means of all faces in the pipeline's latent scale, read from `path` or computed and written there."""
    if not path.is_file():
        vae = pipeline.vae.eval()
        rows = track(torch.arange(len(data)).split(200), description=f"encoding {len(data)} faces")
        means = [vae.encode(data.floats(part) * 2 - 1).latent_dist.mean for part in rows]
        with atomic_path(path) as temporary:
            save_file({"latents": torch.cat(means) * vae.config.scaling_factor}, temporary)
    return load_file(path)["latents"]


def tokenized(pipeline: StableDiffusionXLPipeline, data: FaceDataset, variants: int) -> Int[Tensor, "2 variants n 77"]:
    """Tokens of several captions per face for both tokenizers."""

    def ids(texts: list[str]) -> Tensor:
        options = {"padding": "max_length", "truncation": True, "max_length": 77, "return_tensors": "pt"}
        return torch.stack([t(texts, **options).input_ids for t in (pipeline.tokenizer, pipeline.tokenizer_2)])

    return torch.stack([ids(captions(data.faces, seed)) for seed in range(variants)], dim=1)


def train_unet(pipeline: StableDiffusionXLPipeline, data: FaceDataset, settings: UNetSettings, work_dir: Path) -> None:
    """Train the UNet and text encoders of `pipeline` in place; its VAE must be trained. Resumes in `work_dir`."""
    latents = encode_faces(work_dir / "latents.safetensors", pipeline, data)
    tokens = tokenized(pipeline, data, settings.caption_variants)

    def batch(step: int) -> Batch:
        n, generator = settings.batch_size, step_generator(settings.seed, step)
        rows = torch.randint(len(data), (n,), generator=generator)
        variants = torch.randint(settings.caption_variants, (n,), generator=generator)
        stratified = (torch.arange(n) + torch.rand(n, generator=generator)) / n
        noise = torch.randn(n, *latents.shape[1:], generator=generator)
        noise += settings.offset_noise * torch.randn(n, latents.shape[1], 1, 1, generator=generator)
        timestep = (stratified * 1000).long().clamp(max=999)
        return latents[rows], noise, timestep, tokens[0, variants, rows], tokens[1, variants, rows]

    denoiser = Denoiser(pipeline)
    module = UNetModule(denoiser, settings)
    fit(
        module,
        batch,
        work_dir,
        settings.steps,
        precision=settings.precision,
        gradient_clip_val=1.0,
        checkpoint_every=200,
    )
    denoiser.load_state_dict(module.average.module.state_dict())
