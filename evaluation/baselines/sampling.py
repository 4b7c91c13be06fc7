"""The sampling loop of the baselines: the pipeline's own, with a prediction of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from evaluation.grids import GridRow
from slider_lightning.backbone import (
    Backbone,
    PromptEmbeds,
    SamplerConfig,
    classifier_free_guidance,
    initial_noise,
    step_arguments,
    step_generators,
)
from slider_lightning.errors import InputError

Predict = Callable[[Tensor, Tensor, float], Tensor]
"""Guided noise of (the UNet's input, the timestep, the share of the steps that are done)."""


@torch.no_grad()
def denoise(
    backbone: Backbone, seeds: Sequence[int], sampler: SamplerConfig, predict: Predict
) -> Float[Tensor, "batch 4 h w"]:
    """Final latents, float32, of one image per seed; equal seeds share all the noise that is drawn.

    The steps are those of `slider_lightning.backbone.sample`; what a baseline changes is the prediction alone.
    """
    scheduler = sampler.scheduler_for(backbone.scheduler)
    generators = step_generators(backbone.latent_shape, seeds)
    step_kwargs = step_arguments(scheduler, generators, sampler.ddim_eta)
    latents = initial_noise(backbone.latent_shape, seeds).to(backbone.device) * scheduler.init_noise_sigma
    for index, timestep in enumerate(scheduler.timesteps):
        model_input = scheduler.scale_model_input(latents, timestep)
        noise_pred = predict(model_input, timestep, index / len(scheduler.timesteps))
        latents = scheduler.step(noise_pred, timestep, latents, **step_kwargs, return_dict=False)[0]
    return latents


def guided_noise(
    backbone: Backbone,
    model_input: Float[Tensor, "batch 4 h w"],
    timestep: Tensor,
    embeds: PromptEmbeds,
    negative_embeds: PromptEmbeds,
    guidance_scale: float,
) -> Float[Tensor, "batch 4 h w"]:
    """Noise under classifier-free guidance in one UNet call [uncond, cond]; at a guidance of 1 or below cond alone.

    Args:
        backbone: the frozen model.
        model_input: latents, scaled by the scheduler.
        timestep: where they are.
        embeds: one prompt per row.
        negative_embeds: the unconditional prompt, one for all.
        guidance_scale: strength of the guidance.
    """
    if guidance_scale <= 1:
        return backbone.predict_noise(model_input, timestep, embeds)
    both = PromptEmbeds.cat([negative_embeds.repeat_interleave(len(embeds)), embeds])
    noise_uncond, noise_cond = backbone.predict_noise(torch.cat([model_input] * 2), timestep, both).chunk(2)
    return classifier_free_guidance(noise_uncond, noise_cond, guidance_scale)


def check_request(rows: Sequence[GridRow], scales: Sequence[float], batch_size: int) -> None:
    """Refuse what no images can be made of.

    Raises:
        InputError: if there is no row or scale, a scale is not finite, or the batch is below 1.
    """
    if not rows or not scales or not all(math.isfinite(scale) for scale in scales) or batch_size < 1:
        raise InputError(
            f"Expected at least one row, finite scales and a batch of 1 or more, but got {len(rows)} rows, scales "
            f"{list(scales)} and a batch of {batch_size}; change them."
        )
