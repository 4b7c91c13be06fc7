"""Three ways to generate the same images under many sliders, and what they are given."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.utils import is_peft_available
from jaxtyping import Float
from torch import Tensor

from slider_lightning.adapters import AdapterConfig, Slider, SliderBank, SliderMetadata, save_slider
from slider_lightning.backbone import Backbone, SamplerConfig, initial_noise, sample, step_generators
from slider_lightning.backbone.schedule import fresh_scheduler
from slider_lightning.errors import InputError

# How strong the random sliders are: fifty of them change every image visibly and none beyond recognition.
_LORA_UP_STD = 0.02


@dataclass(frozen=True)
class ComposeConfig:
    """What is generated, and how often.

    Args:
        counts: numbers of sliders; the first is 0.
        images: seeds, all in one batch.
        repetitions: of every measurement.
        num_inference_steps: steps of the scheduler.
        guidance_scale: classifier-free guidance.
        rank: of every slider.
        prompt: of every image.

    Raises:
        InputError: if a value is out of range, or peft is missing.
    """

    counts: tuple[int, ...] = (0, 1, 10, 50)
    images: int = 32
    repetitions: int = 5
    num_inference_steps: int = 16
    guidance_scale: float = 4.0
    rank: int = 4
    prompt: str = "a photo of a person"

    def __post_init__(self) -> None:
        if self.counts[:1] != (0,) or sorted(set(self.counts)) != list(self.counts):
            raise InputError(f"Expected counts to rise from 0, but got {list(self.counts)}; try [0, 1, 10, 50].")
        if min(self.images, self.repetitions) < 1:
            raise InputError(
                f"Expected at least one image and one repetition, but got {self.images} and {self.repetitions}; raise "
                "them."
            )
        if not is_peft_available():
            raise InputError("Expected peft for diffusers' adapters, but it is not installed; pip install peft.")


class Composition:
    """The backbone, random sliders on it, and a pipeline of diffusers with the same sliders as PEFT adapters.

    Args:
        backbone: the frozen model, without sliders.
        config: what is generated.
    """

    def __init__(self, backbone: Backbone, config: ComposeConfig) -> None:
        self.backbone = backbone
        self.config = config
        self.embeds = backbone.encode_prompts([config.prompt] * config.images)
        self.negative_embeds = backbone.encode_negative_prompt()
        self.noise = initial_noise(backbone.latent_shape, range(config.images))
        adapter = AdapterConfig(rank=config.rank, alpha=1.0)
        self.sliders = [random_slider(backbone, adapter, seed) for seed in range(max(config.counts))]
        # Bare pipelines have no PEFT layers; the one with adapters has its own copy of the UNet.
        self._bare = _pipeline(backbone, deepcopy(backbone.unet))
        self._adapted = _pipeline(backbone, deepcopy(backbone.unet))
        self._pipeline_rows = 0
        self._names = [f"slider_{k}" for k in range(len(self.sliders))]
        self._load_adapters()
        for pipeline in (self._bare, self._adapted):
            pipeline.unet.register_forward_pre_hook(self._count)
        self.bank = SliderBank(backbone.unet, self.sliders)
        self.bank.detach()

    def row(self, count: int) -> Float[Tensor, " sliders"]:
        """The scales of the first `count` sliders, 1 and -1 in turn; 0 for the others."""
        signs = torch.tensor([1.0, -1.0]).repeat(len(self.sliders))[: len(self.sliders)]
        return signs * (torch.arange(len(self.sliders)) < count)

    def folded(self, count: int) -> Tensor:
        """Ours, all images with the same scales, which are folded into the weights."""
        return self._ours(self.row(count).repeat(self.config.images, 1), count, fold="always")

    def per_sample(self, count: int) -> Tensor:
        """Ours, every image with scales of its own: the first with those of the other ways, later ones weaker."""
        strengths = torch.linspace(1, 0.5, self.config.images)[:, None]
        return self._ours(self.row(count) * strengths, count, fold="never")

    def diffusers(self, count: int) -> Tensor:
        """The pipeline of diffusers with `count` active PEFT adapters."""
        pipeline = self._adapted if count else self._bare
        if count:
            pipeline.set_adapters(self._names[:count], self.row(count)[:count].tolist())
        rows = self.config.images
        negative = self.negative_embeds.repeat_interleave(rows)
        return pipeline(
            prompt_embeds=self.embeds.prompt_embeds,
            pooled_prompt_embeds=self.embeds.pooled_prompt_embeds,
            negative_prompt_embeds=negative.prompt_embeds,
            negative_pooled_prompt_embeds=negative.pooled_prompt_embeds,
            latents=self.noise.to(self.backbone.device, self.backbone.dtype),
            height=self.backbone.resolution,
            width=self.backbone.resolution,
            num_inference_steps=self.config.num_inference_steps,
            guidance_scale=self.config.guidance_scale,
            generator=step_generators(self.backbone.latent_shape, range(rows)),
            output_type="pt",
        ).images

    @property
    def sample_forwards(self) -> int:
        """Rows that passed a UNet so far, ours and diffusers' together."""
        return self.backbone.sample_forwards + self._pipeline_rows

    def sides(self) -> dict[str, Callable[[int], Tensor]]:
        """The three ways by name: from a number of sliders to images in [0, 1]."""
        return {"folded": self.folded, "per_sample": self.per_sample, "diffusers": self.diffusers}

    def _ours(self, scales: Tensor, count: int, fold: str) -> Tensor:
        config = SamplerConfig(self.config.num_inference_steps, self.config.guidance_scale, 1000, fold)
        noise, generators = self.noise, step_generators(self.backbone.latent_shape, range(self.config.images))
        given = (self.backbone, self.bank if count else None, self.embeds, self.negative_embeds, noise)
        if count == 0:
            latents = sample(*given, None, config, generators=generators)
        else:
            with self.bank:
                latents = sample(*given, scales, config, generators=generators)
        return self.backbone.decode(latents)

    def _load_adapters(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name, slider in zip(self._names, self.sliders, strict=True):
                save_slider(Path(folder, f"{name}.safetensors"), slider, SliderMetadata.of(slider.config))
                self._adapted.load_lora_weights(folder, weight_name=f"{name}.safetensors", adapter_name=name)

    def _count(self, unet: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
        self._pipeline_rows += len(args[0])


def random_slider(backbone: Backbone, config: AdapterConfig, seed: int) -> Slider:
    """A slider that changes images at random."""
    slider, generator = Slider(backbone.unet, config, seed=seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for path in slider.layer_paths:
            up = slider.adapter(path).lora_up
            up.copy_(torch.randn(up.shape, generator=generator) * _LORA_UP_STD)
    return slider


def _pipeline(backbone: Backbone, unet: torch.nn.Module) -> StableDiffusionXLPipeline:
    """A pipeline that takes embeddings of prompts, around another UNet."""
    pipeline = StableDiffusionXLPipeline(
        vae=backbone.vae,
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=unet,
        scheduler=fresh_scheduler(backbone.scheduler, 1),
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
