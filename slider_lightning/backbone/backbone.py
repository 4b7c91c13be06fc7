"""The frozen SDXL: encode prompts, predict noise, decode latents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor, nn

from slider_lightning.backbone.prompts import PromptEmbeds, PromptEncoder
from slider_lightning.errors import InputError

# Pixels decoded or encoded at once, four images of 1024 px: there the VAE's activations set the peak of memory.
_VAE_PIXELS = 4 * 1024 * 1024


class Backbone:
    """A frozen SDXL checkpoint and what it is asked for. Build one with `load_backbone`.

    Args:
        unet: SDXL's UNet, conditioned by `text_time`.
        vae: its autoencoder; it may be held in another dtype than the UNet.
        scheduler: the checkpoint's own scheduler, a template that is never stepped.
        prompt_encoder: tokenizers, text encoders and the cache of prompts.
        name: where the checkpoint came from.
        fingerprint: hash of its configuration and stored weights, the same whatever dtype it is loaded in.
        resolution: image side in pixels; None means the UNet's own size.

    Raises:
        InputError: if the resolution is not a positive multiple of the VAE's downsampling factor.
    """

    def __init__(
        self,
        *,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        scheduler: SchedulerMixin,
        prompt_encoder: PromptEncoder,
        name: str,
        fingerprint: str,
        resolution: int | None = None,
    ) -> None:
        self.unet = unet
        self.vae = vae
        self.scheduler = scheduler
        self.prompt_encoder = prompt_encoder
        self.name = name
        self.fingerprint = fingerprint
        self.vae_scale_factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.resolution = resolution if resolution is not None else unet.config.sample_size * self.vae_scale_factor
        if self.resolution < 1 or self.resolution % self.vae_scale_factor:
            raise InputError(
                f"Expected the resolution to be a positive multiple of {self.vae_scale_factor}, but got "
                f"{self.resolution}; choose {max(1, self.resolution // self.vae_scale_factor) * self.vae_scale_factor}."
            )
        self.sample_forwards = 0
        self._time_ids: dict[torch.device, Tensor] = {}
        for module in self._modules():
            module.requires_grad_(False).eval()

    @property
    def device(self) -> torch.device:
        """Where the UNet lies."""
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        """The UNet's dtype."""
        return self.unet.dtype

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one latent."""
        side = self.resolution // self.vae_scale_factor
        return (self.unet.config.in_channels, side, side)

    def to(self, device: torch.device | str) -> Backbone:
        """Move every part that is still held; returns itself."""
        for module in self._modules():
            module.to(device)
        return self

    def encode_prompts(self, prompts: Sequence[str]) -> PromptEmbeds:
        """Embeddings of the prompts, one row each, on the backbone's device and in its dtype.

        Raises:
            InputError: if a prompt is too long, or unknown after `free_text_encoders`.
        """
        return self.prompt_encoder.encode(prompts).to(self.device, self.dtype)

    def encode_negative_prompt(self, negative_prompt: str | None = None) -> PromptEmbeds:
        """One row for the unconditional half of guidance.

        Without a negative prompt it is what the pipeline takes: zeros where `force_zeros_for_empty_prompt` is set, as
        in SDXL base, else the embedding of "". A prompt given, "" included, is encoded.

        Raises:
            InputError: if the prompt is too long, or unknown after `free_text_encoders`.
        """
        return self.prompt_encoder.encode_negative(negative_prompt).to(self.device, self.dtype)

    def free_text_encoders(self) -> None:
        """Release the text encoders' memory; prompts that were encoded before stay available."""
        self.prompt_encoder.free()

    def predict_noise(
        self,
        latents: Float[Tensor, "batch 4 h w"],
        timestep: Tensor | float,
        embeds: PromptEmbeds,
        time_ids: Float[Tensor, "batch 6"] | None = None,
    ) -> Float[Tensor, "batch 4 h w"]:
        """The UNet's prediction (epsilon, or v where the checkpoint predicts v), in the dtype of `latents`.

        Every row counts into `sample_forwards`. Gradients flow if the caller enables them.

        Args:
            latents: the UNet's input, already scaled by the scheduler.
            timestep: the training timestep the latents are at, one for all or one per row (0..999).
            embeds: prompt embeddings, one per row.
            time_ids: SDXL's size conditioning (original size, crop offset, target size; height before width), one per
                row; None stands for an image of the backbone's resolution, drawn whole.
        """
        if len(embeds) != len(latents):
            raise ValueError(f"Expected one prompt embedding per latent, but got {len(embeds)} for {len(latents)}.")
        self.sample_forwards += len(latents)
        prompt_embeds = embeds.prompt_embeds.to(self.dtype)
        whole = self._add_time_ids(latents.device).expand(len(latents), -1)
        added_cond_kwargs = {
            "text_embeds": embeds.pooled_prompt_embeds.to(self.dtype),
            "time_ids": whole if time_ids is None else time_ids.to(latents.device, torch.float32),
        }
        noise_pred = self.unet(
            latents.to(self.dtype),
            _timestep_rows(timestep, latents),
            encoder_hidden_states=prompt_embeds,
            added_cond_kwargs=added_cond_kwargs,
            return_dict=False,
        )[0]
        return noise_pred.to(latents.dtype)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "batch 4 h w"]) -> Float[Tensor, "batch 3 height width"]:
        """Images in [0, 1], float32, as the pipeline decodes them."""
        shift, divisor = self._latent_statistics()
        latents = (latents.to(self.device, torch.float32) / divisor + shift).to(self.vae.dtype)
        images = [self.vae.decode(part, return_dict=False)[0].float() for part in latents.split(self._vae_batch())]
        return (torch.cat(images) / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def encode_images(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 4 h w"]:
        """Latents (the posterior's mode, so that nothing is drawn), float32, of images in [0, 1]."""
        return self.encode_distribution(images)[0]

    @torch.no_grad()
    def encode_distribution(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, "batch 4 h w"], Float[Tensor, "batch 4 h w"]]:
        """Mean and standard deviation of the latents' posterior, float32 and in the UNet's units.

        Args:
            images: in [0, 1]; sides are multiples of `vae_scale_factor`.
        """
        shift, divisor = self._latent_statistics()
        pixels = (images.to(self.device, torch.float32) * 2 - 1).to(self.vae.dtype)
        batch = max(1, _VAE_PIXELS // (images.shape[-2] * images.shape[-1]))
        found = [self.vae.encode(part).latent_dist for part in pixels.split(batch)]
        mean = torch.cat([posterior.mean.float() for posterior in found])
        std = torch.cat([posterior.std.float() for posterior in found])
        return (mean - shift) * divisor, std * divisor

    def _modules(self) -> Iterator[nn.Module]:
        yield from (self.unet, self.vae, *(self.prompt_encoder.text_encoders or ()))

    def _vae_batch(self) -> int:
        return max(1, _VAE_PIXELS // self.resolution**2)

    def _latent_statistics(self) -> tuple[Tensor, Tensor]:
        """(shift, divisor) with: VAE latents = UNet latents / divisor + shift."""
        config, device = self.vae.config, self.device
        divisor = torch.tensor(config.scaling_factor, device=device)
        if config.latents_mean is None or config.latents_std is None:
            return torch.zeros((), device=device), divisor
        mean = torch.tensor(config.latents_mean, device=device).view(1, -1, 1, 1)
        return mean, divisor / torch.tensor(config.latents_std, device=device).view(1, -1, 1, 1)

    def _add_time_ids(self, device: torch.device) -> Float[Tensor, "1 6"]:
        """Original size, crop offset, target size: SDXL's micro-conditioning, for an image drawn whole.

        In fp32, since bf16 would round sizes, and kept per device: making it anew would wait for the device at every
        forward.
        """
        if device not in self._time_ids:
            size = [self.resolution, self.resolution]
            self._time_ids[device] = torch.tensor([[*size, 0, 0, *size]], dtype=torch.float32, device=device)
        return self._time_ids[device]


def _timestep_rows(timestep: Tensor | float, latents: Float[Tensor, "batch 4 h w"]) -> Tensor:
    """The timestep of every row on the latents' device.

    One number in main memory is filled in there: a copy would wait for the device at every forward. It is also no
    constant of the UNet's forward then, which torch.compile would compile anew for every number.
    """
    if isinstance(timestep, Tensor) and (timestep.ndim > 0 or timestep.device.type != "cpu"):
        return timestep
    number = timestep.item() if isinstance(timestep, Tensor) else timestep
    return torch.full((len(latents),), number, device=latents.device)
