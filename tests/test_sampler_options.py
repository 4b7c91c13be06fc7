"""Schedulers, schedules of the scales, and the halves of guidance that see the slider, against loops written out."""

from collections.abc import Sequence
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
from torch import Tensor

from slider_lightning.adapters import SliderBank
from slider_lightning.backbone import (
    Backbone,
    SamplerConfig,
    classifier_free_guidance,
    count_unet_calls,
    initial_noise,
    sample,
    step_generators,
)
from slider_lightning.errors import InputError
from tests.test_sampler import PROMPTS, SEEDS, random_slider, run

SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)


def latents_of_pipeline(pipeline: StableDiffusionXLPipeline, config: SamplerConfig) -> Tensor:
    return pipeline(
        PROMPTS[0],
        num_images_per_prompt=2,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="latent",
        num_inference_steps=config.num_inference_steps,
        guidance_scale=config.guidance_scale,
    ).images


def sampled(backbone: Backbone, bank: SliderBank | None, scales: Tensor | None, config: SamplerConfig) -> Tensor:
    """Both seeds of the first prompt."""
    return sample(
        backbone,
        bank,
        backbone.encode_prompts(PROMPTS[:1] * 2),
        backbone.encode_negative_prompt(),
        initial_noise(backbone.latent_shape, SEEDS),
        scales,
        config,
        generators=step_generators(backbone.latent_shape, SEEDS),
    )


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_gives_the_images_of_the_pipeline_with_it(
    backbone: Backbone, pipeline_folder: Path, name: str
) -> None:
    config = SamplerConfig(num_inference_steps=4, guidance_scale=3.0, scheduler=name)
    pipeline = StableDiffusionXLPipeline.from_pretrained(pipeline_folder, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    clipping = {"clip_sample": False} if "clip_sample" in getattr(diffusers, name)().config else {}
    pipeline.scheduler = getattr(diffusers, name).from_config(pipeline.scheduler.config, **clipping)
    expected = latents_of_pipeline(pipeline, config)
    bank = SliderBank(backbone.unet, [random_slider(backbone)])
    latents = sampled(backbone, bank, torch.zeros(2, 1), config)
    assert (latents - expected).abs().max() <= 1e-5 * expected.abs().max()
    on = sampled(backbone, bank, torch.ones(2, 1), config)
    assert (on - latents).abs().max() > 1e-3


def test_the_schedulers_named_are_all_that_there_are(backbone: Backbone) -> None:
    with pytest.raises(InputError, match=r"sampler\.scheduler") as caught:
        run(backbone, None, None, SamplerConfig(scheduler="DPMSolver"))
    named = str(caught.value).partition("among ")[2].partition(", but")[0].split(", ")
    assert sorted(named) == sorted(SCHEDULERS)


def test_settings_of_a_scheduler_reach_it_and_unknown_ones_are_refused(backbone: Backbone) -> None:
    template = EulerDiscreteScheduler.from_config(backbone.scheduler.config)
    trailing = SamplerConfig(num_inference_steps=4, scheduler_settings={"timestep_spacing": "trailing"})
    assert trailing.scheduler_for(template).timesteps.tolist() == [999.0, 749.0, 499.0, 249.0]
    kept = trailing.scheduler_for(template).config
    assert {key: kept[key] for key in ("beta_start", "beta_end", "beta_schedule")} == {
        key: template.config[key] for key in ("beta_start", "beta_end", "beta_schedule")
    }
    with pytest.raises(InputError, match="timestep_spacings"):
        SamplerConfig(scheduler_settings={"timestep_spacings": "trailing"}).scheduler_for(template)
    with pytest.raises(InputError, match="scheduler_settings"):
        SamplerConfig(scheduler_settings={"beta_schedule": "cubic"}).scheduler_for(template)


def by_hand(
    backbone: Backbone,
    bank: SliderBank,
    strengths: Sequence[Sequence[float]],
    *,
    conditional_only: bool = False,
) -> Tensor:
    """Both prompts with folded weights, step by step, under these scales."""
    config = SamplerConfig(num_inference_steps=len(strengths))
    scheduler = config.scheduler_for(backbone.scheduler)
    latents = initial_noise(backbone.latent_shape, SEEDS) * scheduler.init_noise_sigma
    embeds, negative_embeds = backbone.encode_prompts(PROMPTS), backbone.encode_negative_prompt().repeat_interleave(2)
    for timestep, row in zip(scheduler.timesteps, strengths, strict=True):
        scaled = scheduler.scale_model_input(latents, timestep)
        with torch.no_grad():
            with bank.folded(row):
                cond = backbone.predict_noise(scaled, timestep, embeds)
            with bank.folded([0.0] * len(row) if conditional_only else row):
                uncond = backbone.predict_noise(scaled, timestep, negative_embeds)
        noise_pred = classifier_free_guidance(uncond, cond, config.guidance_scale)
        latents = scheduler.step(noise_pred, timestep, latents, return_dict=False)[0]
    return latents


@pytest.mark.parametrize("fold", ["always", "never"])
def test_a_schedule_multiplies_the_scales_of_every_step(backbone: Backbone, fold: str) -> None:
    bank = SliderBank(backbone.unet, [random_slider(backbone, seed) for seed in (0, 1)])
    timesteps = [float(t) for t in SamplerConfig(num_inference_steps=4).scheduler_for(backbone.scheduler).timesteps]
    first, second = {timesteps[1]: 0.0, timesteps[3]: 1.0}, None
    middle = (timesteps[1] - timesteps[2]) / (timesteps[1] - timesteps[3])
    config = SamplerConfig(num_inference_steps=4, start_timestep=1000, fold=fold, schedule=(first, second))
    scales = torch.tensor([[2.0, -1.0]] * 2)
    expected = by_hand(backbone, bank, [[0, -1], [0, -1], [2 * middle, -1], [2, -1]])
    latents = run(backbone, bank, scales, config)
    assert (latents - expected).abs().max() < 1e-4 * expected.abs().max()
    whole = run(backbone, bank, scales, SamplerConfig(num_inference_steps=4, start_timestep=1000, fold=fold))
    assert (whole - latents).abs().max() > 1e-2


def test_start_timestep_holds_beside_a_schedule_and_what_is_off_is_shared(backbone: Backbone) -> None:
    bank = SliderBank(backbone.unet, [random_slider(backbone)])
    scales = torch.tensor([[-1.0], [2.0]]).repeat(2, 1)
    config = SamplerConfig(num_inference_steps=4, start_timestep=750, schedule={400: 0.0, 200: 1.0})
    timesteps = config.scheduler_for(backbone.scheduler).timesteps
    off = int((timesteps >= 400).sum())
    assert off > int((timesteps > 750).sum())
    seeds = [seed for seed in SEEDS for _ in range(2)]
    before, calls = backbone.sample_forwards, []
    sample(
        backbone,
        bank,
        backbone.encode_prompts(PROMPTS).repeat_interleave(2),
        backbone.encode_negative_prompt(),
        initial_noise(backbone.latent_shape, seeds),
        scales,
        config,
        branches=2,
        on_batch=lambda: calls.append(1),
    )
    assert backbone.sample_forwards - before == 2 * (2 * off + 4 * (4 - off))
    assert len(calls) == count_unet_calls(backbone, config, scales, 4, 2, 4)


def test_the_slider_can_act_on_the_conditional_half_alone(backbone: Backbone) -> None:
    bank = SliderBank(backbone.unet, [random_slider(backbone)])
    config = SamplerConfig(num_inference_steps=3, start_timestep=1000, slider_on="conditional")
    expected = by_hand(backbone, bank, [[1.5]] * 3, conditional_only=True)
    latents = run(backbone, bank, torch.full((2, 1), 1.5), config)
    assert (latents - expected).abs().max() < 1e-4 * expected.abs().max()
    both = run(backbone, bank, torch.full((2, 1), 1.5), SamplerConfig(num_inference_steps=3, start_timestep=1000))
    assert (both - latents).abs().max() > 1e-2
    unguided = SamplerConfig(num_inference_steps=3, guidance_scale=1.0, slider_on="conditional")
    same = run(backbone, bank, torch.ones(2, 1), SamplerConfig(num_inference_steps=3, guidance_scale=1.0))
    assert torch.equal(run(backbone, bank, torch.ones(2, 1), unguided), same)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"slider_on": "unconditional"}, "slider_on"),
        ({"slider_on": "conditional", "fold": "always"}, "fold=exact or never"),
        ({"schedule": {}}, "sampler.schedule"),
        ({"schedule": {1200: 1.0}}, "sampler.schedule"),
        ({"schedule": {500: float("nan")}}, "sampler.schedule"),
    ],
)
def test_wrong_options_are_refused(values: dict, match: str) -> None:
    with pytest.raises(InputError, match=match):
        SamplerConfig(**values)


def test_schedules_must_be_one_per_slider(backbone: Backbone) -> None:
    bank = SliderBank(backbone.unet, [random_slider(backbone)])
    with pytest.raises(InputError, match="one for each of 1"):
        run(backbone, bank, torch.ones(2, 1), SamplerConfig(num_inference_steps=2, schedule=({500: 1.0}, None)))
