"""Sampling with sliders: the pipeline's own loop, with slider scales per image and a delayed start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from slider_lightning.adapters.bank import SliderBank
from slider_lightning.backbone.backbone import Backbone
from slider_lightning.backbone.guidance import classifier_free_guidance
from slider_lightning.backbone.prompts import PromptEmbeds
from slider_lightning.backbone.schedule import fresh_scheduler, takes_generator
from slider_lightning.errors import InputError

# Rows from which on folding sliders into the weights and out again costs less than their hooks.
_FOLDED_ROWS = 8


@dataclass(frozen=True)
class SamplerConfig:
    """How images are sampled.

    Args:
        num_inference_steps: steps of the scheduler, at least 1.
        guidance_scale: classifier-free guidance; at 1 or below no unconditional half is computed.
        start_timestep: the slider is off while the timestep is above it, and on from there; 1000 means always on.

    Raises:
        InputError: if a value is out of range.
    """

    num_inference_steps: int = 25
    guidance_scale: float = 4.0
    start_timestep: int = 750

    def __post_init__(self) -> None:
        if self.num_inference_steps < 1:
            raise InputError(
                f"Expected num_inference_steps to be at least 1, but got {self.num_inference_steps}; raise it."
            )
        if self.guidance_scale < 0:
            raise InputError(f"Expected guidance_scale to be 0 or more, but got {self.guidance_scale}; raise it.")
        if not 0 <= self.start_timestep <= 1000:
            raise InputError(
                f"Expected start_timestep to lie in 0..1000, but got {self.start_timestep}; 750 is common."
            )


@dataclass(frozen=True)
class _Batch:
    """Rows that pass the UNet together.

    Args:
        rows: their positions.
        embeds: both halves of guidance.
        slider_scales: both halves; None where the slider is off, one row of scales where they are folded.
    """

    rows: slice
    embeds: PromptEmbeds
    slider_scales: Float[Tensor, "rows sliders"] | Float[Tensor, " sliders"] | None


@torch.no_grad()
def sample(
    backbone: Backbone,
    bank: SliderBank | None,
    embeds: PromptEmbeds,
    negative_embeds: PromptEmbeds,
    noise: Float[Tensor, "batch 4 h w"],
    slider_scales: Float[Tensor, "batch sliders"] | None,
    config: SamplerConfig,
    *,
    branches: int = 1,
    batch_size: int | None = None,
    generators: Sequence[torch.Generator] | None = None,
    on_batch: Callable[[], None] | None = None,
) -> Float[Tensor, "batch 4 h w"]:
    """Denoise latents; at scale zero the result is that of `StableDiffusionXLPipeline` for the same noise.

    All rows take a step together, so any scheduler keeps its state; the UNet sees them in batches of `batch_size`.
    Scales that enough rows share are folded into the weights for their batches, which costs less than the hooks.

    Args:
        backbone: the frozen model.
        bank: the sliders on its UNet, attached; None samples the model itself.
        embeds: one prompt per row.
        negative_embeds: the unconditional prompt, one per row or one for all.
        noise: standard normal, one per row.
        slider_scales: one row per latent, one column per slider; None exactly when `bank` is None.
        config: steps, guidance and start_timestep.
        branches: rows come in groups of this size that share prompt and noise and differ in scales alone. While the
            slider is off a group is computed once.
        batch_size: latents per UNet call (guidance doubles the rows of the call); None means all at once.
        generators: one per row, for schedulers that draw noise at every step; equal within a group.
        on_batch: called after every UNet call.

    Returns:
        Final latents, float32, on the backbone's device.

    Raises:
        ValueError: if the rows of the arguments do not match.
    """
    _check_rows(bank, embeds, negative_embeds, noise, slider_scales, branches)
    size = batch_size or len(noise)
    off = _batches(embeds[::branches], negative_embeds[::branches], None, size, config)
    on = _batches(embeds, negative_embeds, slider_scales, size, config, _columns(backbone, slider_scales, branches))
    scheduler = fresh_scheduler(backbone.scheduler, config.num_inference_steps)
    step_kwargs = {"generator": list(generators)} if generators is not None and takes_generator(scheduler) else {}
    latents = noise.to(backbone.device, torch.float32) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        model_input = scheduler.scale_model_input(latents, timestep)
        if bank is not None and timestep <= config.start_timestep:
            noise_pred = _predict(backbone, bank, model_input, timestep, on, config, on_batch)
        else:
            noise_pred = _predict(backbone, bank, model_input[::branches], timestep, off, config, on_batch)
            noise_pred = noise_pred.repeat_interleave(branches, 0)
        latents = scheduler.step(noise_pred, timestep, latents, **step_kwargs, return_dict=False)[0]
    return latents


def count_unet_calls(backbone: Backbone, config: SamplerConfig, rows: int, branches: int, batch_size: int) -> int:
    """How often `sample` calls the UNet (and `on_batch`) for that many rows.

    It counts with a bank, and with groups of rows that all have the same `branches` rows of scales.
    """
    timesteps = fresh_scheduler(backbone.scheduler, config.num_inference_steps).timesteps
    on = int((timesteps <= config.start_timestep).sum())
    columns = branches if _may_fold(backbone, rows, branches) else 1
    calls_on = len(_slices(rows, batch_size, columns))
    return on * calls_on + (len(timesteps) - on) * len(_slices(rows // branches, batch_size))


def _predict(
    backbone: Backbone,
    bank: SliderBank | None,
    model_input: Tensor,
    timestep: Tensor,
    batches: Sequence[_Batch],
    config: SamplerConfig,
    on_batch: Callable[[], None] | None,
) -> Tensor:
    """Guided noise of all rows, batch by batch, under the scales of each batch."""
    result = torch.empty_like(model_input)
    for batch in batches:
        latents = model_input[batch.rows]
        guided = len(batch.embeds) > len(latents)
        latents = torch.cat([latents, latents]) if guided else latents
        with _under_scales(bank, batch.slider_scales):
            noise_pred = backbone.predict_noise(latents, timestep, batch.embeds)
        if guided:
            noise_uncond, noise_cond = noise_pred.chunk(2)
            noise_pred = classifier_free_guidance(noise_uncond, noise_cond, config.guidance_scale)
        result[batch.rows] = noise_pred
        if on_batch is not None:
            on_batch()
    return result


def _under_scales(bank: SliderBank | None, slider_scales: Tensor | None) -> AbstractContextManager[None]:
    if bank is None or slider_scales is None:
        return nullcontext()
    return bank.folded(slider_scales) if slider_scales.ndim == 1 else bank.scales(slider_scales)


def _columns(backbone: Backbone, slider_scales: Float[Tensor, "rows sliders"] | None, branches: int) -> int | None:
    """`branches` where every branch has scales that all its rows share, and enough rows to fold; else None."""
    if slider_scales is None or not _may_fold(backbone, len(slider_scales), branches):
        return None
    shared = slider_scales[:branches].repeat(len(slider_scales) // branches, 1)
    return branches if torch.equal(shared, slider_scales) else None


def _may_fold(backbone: Backbone, rows: int, branches: int) -> bool:
    # Half precision rounds the sum W0 + dW to the weight's few digits: there the two ways give different images.
    return backbone.dtype == torch.float32 and rows // branches >= _FOLDED_ROWS


def _slices(rows: int, size: int, columns: int = 1) -> list[slice]:
    """Positions of the batches; with columns row i belongs to column i % columns, and no batch mixes two."""
    starts = range(0, rows // columns, size)
    return [
        slice(column + start * columns, min((start + size) * columns, rows), columns)
        for column in range(columns)
        for start in starts
    ]


def _batches(
    embeds: PromptEmbeds,
    negative_embeds: PromptEmbeds,
    slider_scales: Tensor | None,
    size: int,
    config: SamplerConfig,
    columns: int | None = None,
) -> list[_Batch]:
    """Cut the rows into UNet calls; with guidance each holds [uncond; cond] and both halves carry the scales.

    With `columns` the scales are those of the column, to be folded.
    """
    batches = []
    guided = config.guidance_scale > 1
    for rows in _slices(len(embeds), size, columns or 1):
        cond, scales = embeds[rows], None if slider_scales is None else slider_scales[rows]
        if guided:
            negative = (
                negative_embeds[rows] if len(negative_embeds) > 1 else negative_embeds.repeat_interleave(len(cond))
            )
            cond = PromptEmbeds.cat([negative, cond])
            scales = None if scales is None else torch.cat([scales, scales])
        batches.append(_Batch(rows, cond, scales if scales is None or columns is None else scales[0]))
    return batches


def _check_rows(
    bank: SliderBank | None,
    embeds: PromptEmbeds,
    negative_embeds: PromptEmbeds,
    noise: Tensor,
    slider_scales: Tensor | None,
    branches: int,
) -> None:
    rows = len(noise)
    if len(embeds) != rows or len(negative_embeds) not in (1, rows) or rows % branches:
        raise ValueError(
            f"Expected {rows} prompts, 1 or {rows} negative prompts and groups of equal size, but got {len(embeds)}, "
            f"{len(negative_embeds)} and groups of {branches}."
        )
    if (bank is None) != (slider_scales is None) or (slider_scales is not None and len(slider_scales) != rows):
        raise ValueError(f"Expected slider scales for all {rows} rows exactly when a bank of sliders is given.")
