"""Sampling with sliders: the pipeline's own loop, with slider scales per image and a delayed start."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import dropwhile, groupby
from typing import Any

import torch
from diffusers import SchedulerMixin
from jaxtyping import Float
from torch import Tensor

from slider_lightning.adapters.bank import SliderBank
from slider_lightning.backbone.backbone import Backbone
from slider_lightning.backbone.guidance import classifier_free_guidance
from slider_lightning.backbone.prompts import PromptEmbeds
from slider_lightning.backbone.sampler_config import SamplerConfig
from slider_lightning.backbone.schedule import step_arguments

# Rows of the UNet from which on folding sliders into the weights and out again costs less than their hooks, and rows of
# a batch below which cutting the batches by column costs more than that.
_FOLDED_FORWARDS = 8
_FOLDED_ROWS = 8


@dataclass(frozen=True)
class _Batch:
    """Rows that pass the UNet together.

    Args:
        rows: their positions among the rows of their part.
        embeds: both halves of guidance.
        slider_scales: both halves; None where the slider is off or folded.
    """

    rows: slice
    embeds: PromptEmbeds
    slider_scales: Float[Tensor, "rows sliders"] | None

    def at(self, strengths: Float[Tensor, " sliders"]) -> _Batch:
        """The same rows with their scales multiplied."""
        scales = self.slider_scales
        return self if scales is None else replace(self, slider_scales=scales * strengths.to(scales.device))


@dataclass
class _Part:
    """Rows that are finished together, with the state of a scheduler of their own.

    Args:
        scheduler: the scheduler that takes their steps.
        latents: where they are.
        step_arguments: what their `step` is given beside noise, timestep and latents.
        on: their batches while the slider is on.
        folded: the scales that they share and that are folded into the weights; None where hooks run.
    """

    scheduler: SchedulerMixin
    latents: Float[Tensor, "rows 4 h w"]
    step_arguments: Mapping[str, Any]
    on: Sequence[_Batch]
    folded: Float[Tensor, " sliders"] | None

    def model_input(self, timestep: Tensor) -> Tensor:
        """The latents as the UNet takes them."""
        return self.scheduler.scale_model_input(self.latents, timestep)

    @contextmanager
    def at(self, bank: SliderBank | None, strengths: Float[Tensor, " sliders"]) -> Iterator[Sequence[_Batch]]:
        """The batches with the sliders at these strengths: folded for the forwards inside, or as scales for hooks."""
        if bank is not None and self.folded is not None:
            with bank.folded(self.folded * strengths):
                yield self.on
        else:
            yield [batch.at(strengths) for batch in self.on]

    def step(self, noise_pred: Tensor, timestep: Tensor) -> None:
        """One step of the scheduler."""
        given = self.step_arguments
        self.latents = self.scheduler.step(noise_pred, timestep, self.latents, **given, return_dict=False)[0]


@dataclass(frozen=True)
class _Stage:
    """Neighbouring steps in which the sliders are equally strong.

    Args:
        steps: their positions.
        strengths: what the scales of every slider are multiplied with.
    """

    steps: slice
    strengths: Float[Tensor, " sliders"]


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

    The UNet sees the rows in batches of `batch_size`. While no slider is on yet all rows take their steps together.
    Then rows of scales that are folded (see `SamplerConfig.fold`) are finished one after another, so that each is
    folded once, or once for every strength of a schedule; without folding all rows go on together. Every such part has
    a scheduler of its own, so any keeps its state.

    Args:
        backbone: the frozen model.
        bank: the sliders on its UNet, attached; None samples the model itself.
        embeds: one prompt per row.
        negative_embeds: the unconditional prompt, one per row or one for all.
        noise: standard normal, one per row.
        slider_scales: one row per latent, one column per slider; None exactly when `bank` is None.
        config: steps, guidance, scheduler, and when sliders act.
        branches: rows come in groups of this size that share prompt and noise and differ in scales alone. While the
            slider is off a group is computed once.
        batch_size: latents per UNet call (guidance doubles the rows of the call); None means all at once.
        generators: one per row, for schedulers that draw noise at every step; equal within a group.
        on_batch: called after every UNet call.

    Returns:
        Final latents, float32, on the backbone's device.

    Raises:
        InputError: if scheduler or schedule of `config` do not fit model or sliders.
        ValueError: if the rows of the arguments do not match.
    """
    _check_rows(bank, embeds, negative_embeds, noise, slider_scales, branches)
    size = batch_size or len(noise)
    columns = _columns(backbone, config, slider_scales, branches)
    parts = [
        _part(backbone, rows, embeds, negative_embeds, noise, slider_scales, config, columns, size, generators)
        for rows in (slice(column, None, columns or 1) for column in range(columns or 1))
    ]
    timesteps, alike = parts[0].scheduler.timesteps, branches // len(parts)
    stages = _stages(config, timesteps, 0 if bank is None else len(bank.sliders))
    off = _batches(embeds[::branches], negative_embeds[::branches], None, size, config)
    for timestep in timesteps[: _first_on(stages)]:
        model_inputs = [part.model_input(timestep) for part in parts]
        noise_pred = _predict(backbone, None, model_inputs[0][::alike], timestep, off, config, on_batch)
        for part in parts:
            part.step(noise_pred.repeat_interleave(alike, 0), timestep)
    for part in parts:
        for stage in _from_first_on(stages):
            with part.at(bank, stage.strengths) as batches:
                for timestep in timesteps[stage.steps]:
                    model_input = part.model_input(timestep)
                    part.step(_predict(backbone, bank, model_input, timestep, batches, config, on_batch), timestep)
    return torch.stack([part.latents for part in parts], dim=1).flatten(0, 1)


def _part(
    backbone: Backbone,
    rows: slice,
    embeds: PromptEmbeds,
    negative_embeds: PromptEmbeds,
    noise: Tensor,
    slider_scales: Tensor | None,
    config: SamplerConfig,
    columns: int | None,
    size: int,
    generators: Sequence[torch.Generator] | None,
) -> _Part:
    """The rows at the start, and their batches for the steps while the slider is on."""
    scheduler = config.scheduler_for(backbone.scheduler)
    scales = None if slider_scales is None else slider_scales[rows]
    negative_embeds = negative_embeds if len(negative_embeds) == 1 else negative_embeds[rows]
    return _Part(
        scheduler,
        noise[rows].to(backbone.device, torch.float32) * scheduler.init_noise_sigma,
        step_arguments(scheduler, None if generators is None else generators[rows], config.ddim_eta),
        _batches(embeds[rows], negative_embeds, scales if columns is None else None, size, config),
        None if scales is None or columns is None else scales[0],
    )


def count_unet_calls(
    backbone: Backbone,
    config: SamplerConfig,
    slider_scales: Float[Tensor, "rows sliders"] | None,
    rows: int,
    branches: int,
    batch_size: int,
) -> int:
    """How often `sample` calls the UNet (and `on_batch`) for these arguments."""
    timesteps = config.scheduler_for(backbone.scheduler).timesteps
    stages = _stages(config, timesteps, 0 if slider_scales is None else slider_scales.shape[1])
    off = _first_on(stages)
    columns = _columns(backbone, config, slider_scales, branches) or 1
    calls_on = columns * len(_slices(rows // columns, batch_size))
    return (len(timesteps) - off) * calls_on + off * len(_slices(rows // branches, batch_size))


def _stages(config: SamplerConfig, timesteps: Tensor, num_sliders: int) -> list[_Stage]:
    strengths = config.strengths(timesteps, num_sliders) if num_sliders else torch.zeros(len(timesteps), 1)
    stages = []
    for _, run in groupby(range(len(timesteps)), key=lambda index: tuple(strengths[index].tolist())):
        indices = list(run)
        stages.append(_Stage(slice(indices[0], indices[-1] + 1), strengths[indices[0]]))
    return stages


def _from_first_on(stages: Sequence[_Stage]) -> list[_Stage]:
    return list(dropwhile(lambda stage: not bool(stage.strengths.any()), stages))


def _first_on(stages: Sequence[_Stage]) -> int:
    """How many steps are taken before any slider is on."""
    on = _from_first_on(stages)
    return on[0].steps.start if on else stages[-1].steps.stop


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
    return nullcontext() if bank is None or slider_scales is None else bank.scales(slider_scales)


def _columns(
    backbone: Backbone, config: SamplerConfig, slider_scales: Float[Tensor, "rows sliders"] | None, branches: int
) -> int | None:
    """`branches` where the scales of every branch are folded, being shared by all its rows; else None."""
    if slider_scales is None or not _may_fold(backbone, config, len(slider_scales), branches):
        return None
    shared = slider_scales[:branches].repeat(len(slider_scales) // branches, 1)
    return branches if torch.equal(shared, slider_scales) else None


def _may_fold(backbone: Backbone, config: SamplerConfig, rows: int, branches: int) -> bool:
    if config.fold != "exact" or not config.slider_in_both_halves:
        return config.fold == "always"
    # Cutting the batches by column leaves them emptier where a column has few rows; one column cuts nothing.
    least = _FOLDED_ROWS if branches > 1 else _FOLDED_FORWARDS / config.num_inference_steps
    return backbone.dtype == torch.float32 and rows // branches >= least


def _slices(rows: int, size: int) -> list[slice]:
    """Positions of the batches."""
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def _batches(
    embeds: PromptEmbeds,
    negative_embeds: PromptEmbeds,
    slider_scales: Tensor | None,
    size: int,
    config: SamplerConfig,
) -> list[_Batch]:
    """Cut the rows into UNet calls; with guidance each holds [uncond; cond], and the halves that should the scales."""
    batches = []
    guided = config.guidance_scale > 1
    for rows in _slices(len(embeds), size):
        cond, scales = embeds[rows], None if slider_scales is None else slider_scales[rows]
        if guided:
            negative = (
                negative_embeds[rows] if len(negative_embeds) > 1 else negative_embeds.repeat_interleave(len(cond))
            )
            cond = PromptEmbeds.cat([negative, cond])
            if scales is not None:
                unconditional = scales if config.slider_in_both_halves else torch.zeros_like(scales)
                scales = torch.cat([unconditional, scales])
        batches.append(_Batch(rows, cond, scales))
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
