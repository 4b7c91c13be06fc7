"""Sampling against StableDiffusionXLPipeline, against folded weights, and against closed forms."""

from pathlib import Path

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    StableDiffusionXLPipeline,
)
from torch import Tensor

from slider_lightning.adapters import AdapterConfig, Slider, SliderBank
from slider_lightning.backbone import (
    Backbone,
    SamplerConfig,
    classifier_free_guidance,
    count_unet_calls,
    ddim_scheduler,
    fresh_scheduler,
    initial_noise,
    sample,
    step_generators,
)
from slider_lightning.errors import InputError

PROMPTS = ["a photo of an old man", "a woman with glasses"]
SEEDS = [3, 2**40 + 5]
SCHEDULERS = {
    "euler": EulerDiscreteScheduler,
    "ddim": DDIMScheduler,
    "ancestral": EulerAncestralDiscreteScheduler,
    "dpm": DPMSolverMultistepScheduler,
    "heun": HeunDiscreteScheduler,
}


@pytest.fixture(scope="module")
def pipeline(pipeline_folder: Path) -> StableDiffusionXLPipeline:
    pipeline = StableDiffusionXLPipeline.from_pretrained(pipeline_folder, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def use_scheduler(name: str, backbone: Backbone) -> None:
    backbone.scheduler = SCHEDULERS[name].from_config(backbone.scheduler.config, clip_sample=False)


def random_slider(backbone: Backbone, seed: int = 0) -> Slider:
    """A slider whose lora_up is not zero, so that it changes images."""
    slider = Slider(backbone.unet, AdapterConfig(rank=2, alpha=2.0), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in slider.named_parameters():
        if name.endswith("lora_up"):
            torch.nn.init.normal_(parameter.data, std=0.3, generator=generator)
    return slider


def run(backbone: Backbone, bank: SliderBank | None, scales: Tensor | None, config: SamplerConfig, **kwargs) -> Tensor:
    """Both prompts, each from its own seed."""
    noise = initial_noise(backbone.latent_shape, SEEDS)
    embeds, negative_embeds = backbone.encode_prompts(PROMPTS), backbone.encode_negative_prompt()
    return sample(backbone, bank, embeds, negative_embeds, noise, scales, config, **kwargs)


# Parity with the pipeline


@pytest.mark.parametrize("with_bank", [False, True])
@pytest.mark.parametrize(
    ("name", "guidance_scale"),
    [("euler", 4.0), ("ddim", 4.0), ("euler", 1.0), ("ddim", 0.0), ("ancestral", 4.0), ("dpm", 4.0), ("heun", 4.0)],
)
def test_scale_zero_is_the_pipeline(
    backbone: Backbone, pipeline: StableDiffusionXLPipeline, name: str, guidance_scale: float, with_bank: bool
) -> None:
    use_scheduler(name, backbone)
    pipeline.scheduler = type(backbone.scheduler).from_config(backbone.scheduler.config)
    arguments = {"num_inference_steps": 5, "guidance_scale": guidance_scale}
    expected, expected_images = (
        pipeline(
            PROMPTS[0],
            num_images_per_prompt=2,
            generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
            output_type=output_type,
            **arguments,
        ).images
        for output_type in ("latent", "pt")
    )
    latents = sample(
        backbone,
        SliderBank(backbone.unet, [random_slider(backbone)]) if with_bank else None,
        backbone.encode_prompts(PROMPTS[:1] * 2),
        backbone.encode_negative_prompt(),
        initial_noise(backbone.latent_shape, SEEDS),
        torch.zeros(2, 1) if with_bank else None,
        SamplerConfig(**arguments),
        generators=step_generators(backbone.latent_shape, SEEDS),
    )
    assert (latents - expected).abs().max() <= 1e-5
    assert (backbone.decode(latents) - expected_images).abs().max() <= 1e-5
    assert (latents[0] - latents[1]).abs().max() > 0.1


def test_a_negative_prompt_is_the_pipelines(backbone: Backbone, pipeline: StableDiffusionXLPipeline) -> None:
    pipeline.scheduler = type(backbone.scheduler).from_config(backbone.scheduler.config)
    noise = initial_noise(backbone.latent_shape, SEEDS)
    expected = pipeline(
        PROMPTS[1],
        negative_prompt="smiling",
        num_images_per_prompt=2,
        latents=noise,
        num_inference_steps=4,
        guidance_scale=6.0,
        output_type="latent",
    ).images
    config = SamplerConfig(num_inference_steps=4, guidance_scale=6.0)
    negative_embeds = backbone.encode_negative_prompt("smiling")
    embeds = backbone.encode_prompts(PROMPTS[1:]).repeat_interleave(2)
    latents = sample(backbone, None, embeds, negative_embeds, noise, None, config)
    assert (latents - expected).abs().max() <= 1e-5
    default = sample(backbone, None, embeds, backbone.encode_negative_prompt(), noise, None, config)
    assert (latents - default).abs().max() > 1e-3


# Sliders


@pytest.mark.parametrize("name", ["euler", "ddim"])
def test_the_slider_acts_from_start_timestep_on(backbone: Backbone, name: str) -> None:
    """An independent loop: folded weights at and below start_timestep, the bare UNet above."""
    use_scheduler(name, backbone)
    bank = SliderBank(backbone.unet, [random_slider(backbone)])
    scheduler = fresh_scheduler(backbone.scheduler, 5)
    start_timestep = int(scheduler.timesteps[2])
    embeds, negative_embeds = backbone.encode_prompts(PROMPTS), backbone.encode_negative_prompt()
    expected = initial_noise(backbone.latent_shape, SEEDS) * scheduler.init_noise_sigma
    with torch.no_grad():
        for index, timestep in enumerate(scheduler.timesteps):
            with bank.folded([1.5 if index >= 2 else 0.0]):
                scaled = scheduler.scale_model_input(expected, timestep)
                cond = backbone.predict_noise(scaled, timestep, embeds)
                uncond = backbone.predict_noise(scaled, timestep, negative_embeds.repeat_interleave(2))
            noise_pred = classifier_free_guidance(uncond, cond, 4.0)
            expected = scheduler.step(noise_pred, timestep, expected, return_dict=False)[0]
    config = SamplerConfig(num_inference_steps=5, guidance_scale=4.0, start_timestep=start_timestep)
    latents = run(backbone, bank, torch.full((2, 1), 1.5), config)
    assert (latents - expected).abs().max() < 1e-4 * expected.abs().max()
    earlier = SamplerConfig(num_inference_steps=5, guidance_scale=4.0, start_timestep=start_timestep + 1)
    assert torch.equal(run(backbone, bank, torch.full((2, 1), 1.5), earlier), latents)
    later = SamplerConfig(num_inference_steps=5, guidance_scale=4.0, start_timestep=start_timestep - 1)
    assert (run(backbone, bank, torch.full((2, 1), 1.5), later) - latents).abs().max() > 1e-3
    assert (run(backbone, None, None, config) - latents).abs().max() > 1e-2


def test_every_row_has_its_own_scales(backbone: Backbone) -> None:
    bank = SliderBank(backbone.unet, [random_slider(backbone, seed) for seed in (0, 1)])
    scales = torch.tensor([[1.0, 0.0], [-1.0, 2.0]])
    config = SamplerConfig(num_inference_steps=3)
    mixed = run(backbone, bank, scales, config)
    for row in range(2):
        alike = run(backbone, bank, scales[[row, row]], config)
        assert torch.allclose(mixed[row], alike[row], atol=1e-4)
    assert not torch.allclose(mixed[1], run(backbone, bank, scales[[0, 0]], config)[1], atol=1e-2)


@pytest.mark.parametrize("name", ["euler", "ancestral", "dpm"])
@pytest.mark.parametrize("batch_size", [None, 4, 1])
def test_the_common_start_is_computed_once_and_changes_nothing(
    backbone: Backbone, name: str, batch_size: int | None
) -> None:
    use_scheduler(name, backbone)
    bank = SliderBank(backbone.unet, [random_slider(backbone)])
    scales = torch.tensor([[-1.0], [0.0], [2.0]]).repeat(2, 1)
    seeds = [seed for seed in SEEDS for _ in range(3)]
    config = SamplerConfig(num_inference_steps=5, guidance_scale=3.0)
    embeds, negative_embeds = backbone.encode_prompts(PROMPTS).repeat_interleave(3), backbone.encode_negative_prompt()
    noise = initial_noise(backbone.latent_shape, seeds)

    def generate(**kwargs) -> Tensor:
        generators = step_generators(backbone.latent_shape, seeds)
        return sample(backbone, bank, embeds, negative_embeds, noise, scales, config, generators=generators, **kwargs)

    unshared = generate()
    before, calls = backbone.sample_forwards, []
    shared = generate(branches=3, batch_size=batch_size, on_batch=lambda: calls.append(1))
    assert (shared - unshared).abs().max() <= 1e-4 * unshared.abs().max()
    timesteps = fresh_scheduler(backbone.scheduler, 5).timesteps
    off = int((timesteps > 750).sum())
    assert 0 < off < len(timesteps)
    assert backbone.sample_forwards - before == 2 * (2 * off + 6 * (len(timesteps) - off))
    assert len(calls) == count_unet_calls(backbone, config, scales, 6, 3, batch_size or 6)


@pytest.mark.parametrize(
    ("name", "guidance_scale"), [("euler", 3.0), ("ddim", 1.0), ("ancestral", 1.0), ("dpm", 3.0), ("heun", 1.0)]
)
def test_scales_that_many_rows_share_are_folded_and_give_what_the_hooks_give(
    backbone: Backbone, name: str, guidance_scale: float
) -> None:
    use_scheduler(name, backbone)
    bank = SliderBank(backbone.unet, [random_slider(backbone, seed) for seed in (0, 1)])
    columns = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [2.0, 0.5]])
    config = SamplerConfig(num_inference_steps=5, guidance_scale=guidance_scale)
    calls: list[int] = []

    def generate(seeds: range) -> Tensor:
        rows = [seed for seed in seeds for _ in columns]
        return sample(
            backbone,
            bank,
            backbone.encode_prompts([PROMPTS[seed % 2] for seed in rows]),
            backbone.encode_negative_prompt(),
            initial_noise(backbone.latent_shape, rows),
            columns.repeat(len(seeds), 1),
            config,
            branches=3,
            batch_size=6,
            generators=step_generators(backbone.latent_shape, rows),
            on_batch=lambda: calls.append(1),
        )

    before = {key: value.clone() for key, value in backbone.unet.state_dict().items()}
    folded = generate(range(9))
    on = int((fresh_scheduler(backbone.scheduler, 5).timesteps <= 750).sum())
    # Nine rows in batches of 6 are two, for each of three columns; by hooks the 27 rows would take five.
    off = len(fresh_scheduler(backbone.scheduler, 5).timesteps) - on
    assert len(calls) == count_unet_calls(backbone, config, columns.repeat(9, 1), 27, 3, 6) == on * 6 + off * 2
    assert backbone.sample_forwards == (2 if guidance_scale > 1 else 1) * (on * 27 + off * 9)
    assert all(torch.equal(value, before[key]) for key, value in backbone.unet.state_dict().items())
    hooked = torch.cat([generate(range(start, start + 3)) for start in (0, 3, 6)])
    assert (folded - hooked).abs().max() <= 1e-4 * hooked.abs().max()
    assert (folded[0] - folded[2]).abs().max() > 1e-2


def test_many_rows_of_different_scales_are_not_folded(backbone: Backbone) -> None:
    bank = SliderBank(backbone.unet, [random_slider(backbone)])
    scales = torch.linspace(-1, 1, 10)[:, None]
    noise = initial_noise(backbone.latent_shape, [3] * 10)
    embeds, negative_embeds = backbone.encode_prompts(PROMPTS[:1] * 10), backbone.encode_negative_prompt()
    config = SamplerConfig(num_inference_steps=3)
    together = sample(backbone, bank, embeds, negative_embeds, noise, scales, config)
    for row in (0, 9):
        part = slice(row, row + 1)
        alone = sample(backbone, bank, embeds[part], negative_embeds, noise[part], scales[part], config)
        assert torch.allclose(together[row], alone[0], atol=1e-4)
    assert (together[0] - together[9]).abs().max() > 1e-2


def test_without_guidance_there_is_no_unconditional_half(backbone: Backbone) -> None:
    run(backbone, None, None, SamplerConfig(num_inference_steps=3, guidance_scale=1.0))
    assert backbone.sample_forwards == 3 * 2


def test_sampling_leaves_the_template_scheduler_alone(backbone: Backbone) -> None:
    before = {key: id(value) for key, value in vars(backbone.scheduler).items()}
    first = run(backbone, None, None, SamplerConfig(num_inference_steps=3))
    assert {key: id(value) for key, value in vars(backbone.scheduler).items()} == before
    assert torch.equal(run(backbone, None, None, SamplerConfig(num_inference_steps=3)), first)
    assert not first.requires_grad
    assert not first.is_inference()


def test_rows_that_do_not_match_are_refused(backbone: Backbone) -> None:
    bank = SliderBank(backbone.unet, [random_slider(backbone)])
    with pytest.raises(ValueError, match="slider scales for all 2 rows"):
        run(backbone, bank, torch.zeros(3, 1), SamplerConfig())
    with pytest.raises(ValueError, match="slider scales for all 2 rows"):
        run(backbone, None, torch.zeros(2, 1), SamplerConfig())
    with pytest.raises(ValueError, match="groups of 3"):
        run(backbone, None, None, SamplerConfig(), branches=3)


@pytest.mark.parametrize(
    "values", [{"num_inference_steps": 0}, {"guidance_scale": -1.0}, {"start_timestep": 1001}, {"fold": "often"}]
)
def test_a_sampler_out_of_range_is_refused(values: dict) -> None:
    with pytest.raises(InputError, match=next(iter(values))):
        SamplerConfig(**values)


# Noise and schedule


def test_noise_depends_on_the_seed_alone() -> None:
    noise = initial_noise((4, 16, 16), range(100))
    torch.manual_seed(1)
    assert torch.equal(initial_noise((4, 16, 16), [7]), noise[7:8])
    assert len(noise.flatten(1).unique(dim=0)) == 100
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02


def test_rollout_states_are_variance_preserving(backbone: Backbone) -> None:
    """With the true noise a DDIM step from t lands on sqrt(abar) x0 + sqrt(1 - abar) eps at the next timestep."""
    scheduler = ddim_scheduler(backbone.scheduler)
    scheduler.set_timesteps(10)
    x_0, noise = 3 * torch.randn(2, 4, 16, 16), torch.randn(2, 4, 16, 16)
    for timestep, following in zip(scheduler.timesteps[:-1], scheduler.timesteps[1:], strict=True):
        alpha_bar, alpha_bar_next = scheduler.alphas_cumprod[timestep], scheduler.alphas_cumprod[following]
        state = alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * noise
        assert torch.equal(scheduler.scale_model_input(state, timestep), state)
        expected = alpha_bar_next.sqrt() * x_0 + (1 - alpha_bar_next).sqrt() * noise
        assert torch.allclose(scheduler.step(noise, timestep, state).prev_sample, expected, atol=1e-3)
    for key in ("beta_start", "beta_end", "beta_schedule", "prediction_type", "timestep_spacing"):
        assert scheduler.config[key] == backbone.scheduler.config[key]
