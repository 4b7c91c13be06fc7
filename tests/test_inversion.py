"""Inversion of photographs: steps against diffusers' DDIM, exact ways back, delayed start, costs."""

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from slider_lightning.adapters import AdapterConfig, Slider, SliderBank
from slider_lightning.backbone import Backbone
from slider_lightning.errors import InputError
from slider_lightning.generation import InversionEdit, Photographs
from slider_lightning.generation.editing import edit_photographs
from slider_lightning.generation.inversion import KINDS, Guided, Inversion, invert
from slider_lightning.generation.levels import Levels

EXACT = [kind for kind in KINDS if kind != "ddim"]
# Of a pixel in [0, 1]. Batches of other sizes round otherwise, in the seventh digit; every step enlarges that by its
# factor of the latents and by the slope of a UNet with random weights under guidance.
TOLERANCE = 3e-3


@pytest.fixture(params=["epsilon", "v_prediction"])
def predicting(request: pytest.FixtureRequest, backbone: Backbone) -> Backbone:
    """The smallest SDXL, taken for one that predicts noise or v."""
    backbone.scheduler.register_to_config(prediction_type=request.param)
    return backbone


@pytest.fixture
def photographs(backbone: Backbone) -> Photographs:
    """Three small pictures of noise, whose size conditionings differ."""
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    mean, std = backbone.encode_distribution(images)
    time_ids = torch.tensor([[64, 64, 0, 0, 64, 64], [200, 180, 4, 0, 64, 64], [90, 90, 0, 0, 64, 64]])
    return Photographs(images, mean, std, time_ids.float())


def bank_of(backbone: Backbone) -> SliderBank:
    slider = Slider(backbone.unet, AdapterConfig(rank=2, alpha=2.0), seed=0)
    generator = torch.Generator().manual_seed(0)
    for parameter in slider.parameters():
        torch.nn.init.normal_(parameter.data, std=0.2, generator=generator)
    return SliderBank(backbone.unet, [slider])


def guided(backbone: Backbone, photographs: Photographs) -> Guided:
    embeds = backbone.encode_prompts(["a man", "a woman", "a person"])
    return Guided(backbone, None, embeds, backbone.encode_negative_prompt(), photographs.time_ids, 8)


def edited(
    backbone: Backbone, photographs: Photographs, method: InversionEdit, scales: list[list[float]], batch_size: int = 8
) -> Tensor:
    with bank_of(backbone) as bank:
        prompts = ["a man", "a woman", "a person"]
        return method.edit(backbone, bank, photographs, prompts, torch.tensor(scales), batch_size=batch_size)


# Steps


@pytest.mark.parametrize("ddim_eta", [0.0, 1.0])
def test_a_step_is_that_of_diffusers_without_its_noise(predicting: Backbone, ddim_eta: float) -> None:
    levels = Levels.of(predicting, 8, 1000)
    scheduler = DDIMScheduler.from_config(predicting.scheduler.config, clip_sample=False, set_alpha_to_one=False)
    scheduler.set_timesteps(8)
    latents, noise_pred = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert levels.timesteps.tolist() == scheduler.timesteps.tolist()
    for step, timestep in enumerate(levels.timesteps):
        none = torch.zeros_like(latents)
        there = scheduler.step(noise_pred, timestep, latents, eta=ddim_eta, variance_noise=none).prev_sample
        assert torch.allclose(levels.mean(latents, noise_pred, step, ddim_eta), there, atol=1e-5)


def test_a_step_back_undoes_a_step(predicting: Backbone) -> None:
    levels = Levels.of(predicting, 8, 1000)
    latents, noise_pred = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for step in range(len(levels)):
        there = levels.mean(latents, noise_pred, step, 0.0)
        # A factor of up to sqrt(abar_there / abar_here), 6 at the noisiest step, enlarges the rounding.
        assert torch.allclose(levels.back(there, noise_pred, step), latents, atol=1e-4)


def test_levels_end_where_the_slider_starts(backbone: Backbone) -> None:
    whole, part = Levels.of(backbone, 10, 1000), Levels.of(backbone, 10, 600)
    assert part.timesteps.tolist() == [t for t in whole.timesteps.tolist() if t <= 600]
    assert torch.equal(part.alphas_cumprod, whole.alphas_cumprod[-len(part) - 1 :])
    with pytest.raises(InputError, match="raise start_timestep"):
        Levels.of(backbone, 2, 10)


def test_a_model_that_predicts_something_else_is_refused(backbone: Backbone) -> None:
    backbone.scheduler.register_to_config(prediction_type="sample")
    with pytest.raises(InputError, match="predicts sample"):
        Levels.of(backbone, 4, 1000)


# Ways back


@pytest.mark.parametrize("kind", EXACT)
def test_exact_kinds_give_the_photograph_back_under_guidance_and_edit_it(
    predicting: Backbone, photographs: Photographs, kind: str
) -> None:
    method = InversionEdit(kind=kind, num_inference_steps=6, guidance_scale=4.0, start_timestep=600)
    images = edited(predicting, photographs, method, [[0.0], [1.0], [-1.0]])
    assert images.shape == (3, 3, 3, 64, 64)
    assert (images[:, 0] - photographs.round_trip(predicting)).abs().max() < TOLERANCE
    for column in (1, 2):
        assert (images[:, column] - images[:, 0]).abs().amax((1, 2, 3)).min() > 5 * TOLERANCE
    assert (images[:, 1] - images[:, 2]).abs().max() > 5 * TOLERANCE


def test_iterations_bring_ddim_back_under_the_guidance_of_the_edit(
    backbone: Backbone, photographs: Photographs
) -> None:
    # Predictions that hardly change with the state, as a trained model's; those of random weights change too much.
    with torch.no_grad():
        backbone.unet.conv_out.weight.mul_(0.02)
    round_trip = photographs.round_trip(backbone)

    def error(iterations: int, inversion_guidance_scale: float = 3.0) -> float:
        method = InversionEdit(
            kind="ddim",
            num_inference_steps=6,
            guidance_scale=3.0,
            inversion_guidance_scale=inversion_guidance_scale,
            fixed_point_iterations=iterations,
        )
        return float((edited(backbone, photographs, method, [[0.0]])[:, 0] - round_trip).square().mean())

    plain, iterated = error(0), error(8)
    assert iterated < plain / 10
    assert error(8, inversion_guidance_scale=1.0) > 10 * iterated


@pytest.mark.parametrize("kind", KINDS)
def test_a_delayed_start_is_the_end_of_the_whole_path(backbone: Backbone, photographs: Photographs, kind: str) -> None:
    def path(start_timestep: int) -> Inversion:
        config = InversionEdit(kind=kind, num_inference_steps=6, guidance_scale=2.0, start_timestep=start_timestep)
        return invert(guided(backbone, photographs), photographs.mean, config)

    whole, part = path(1000), path(500)
    count = len(part.states)
    assert 1 < count < len(whole.states)
    assert torch.allclose(part.states, whole.states[-count:], atol=1e-5)
    if whole.residuals is not None and part.residuals is not None:
        assert torch.allclose(part.residuals, whole.residuals[1 - count :], atol=1e-5)


# Batches and costs


@pytest.mark.parametrize("kind", KINDS)
def test_a_photograph_is_edited_alike_in_any_batch(backbone: Backbone, photographs: Photographs, kind: str) -> None:
    method = InversionEdit(kind=kind, num_inference_steps=3, guidance_scale=2.0)
    together = edited(backbone, photographs, method, [[1.0], [0.0]])
    apart = edited(backbone, photographs, method, [[1.0], [0.0]], batch_size=1)
    assert (together - apart).abs().max() < TOLERANCE
    # The size conditioning reaches the UNet: the same picture of another size is edited otherwise.
    mean, std = photographs.mean, photographs.std
    resized = Photographs(photographs.images, mean, std, photographs.time_ids.flip(0))
    assert (edited(backbone, resized, method, [[1.0], [0.0]]) - together).abs()[0, 0].max() > TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_costs_are_counted_to_the_row(
    backbone: Backbone, photographs: Photographs, kind: str, guidance_scale: float
) -> None:
    method = InversionEdit(
        kind=kind, num_inference_steps=4, guidance_scale=guidance_scale, start_timestep=600, fixed_point_iterations=1
    )
    each = [photographs[slice(number, number + 1)] for number in range(3)]
    counts: list[tuple[int, int]] = []
    with bank_of(backbone) as bank:
        images = edit_photographs(
            method, backbone, bank, each, ["a man"] * 3, torch.tensor([[0.0], [1.0]]), 4, lambda *c: counts.append(c)
        )
    assert [image.shape for image in images] == [(2, 3, 64, 64)] * 3
    assert backbone.sample_forwards == method.sample_forwards(backbone, 3, 2)
    assert counts[-1] == (backbone.sample_forwards, backbone.sample_forwards)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"kind": "inverted"}, "shared_noise"),
        ({"num_inference_steps": 0}, "at least one step"),
        ({"fixed_point_iterations": -1}, "fixed_point_iterations"),
        ({"inversion_guidance_scale": -1.0}, "guidance of 0 or more"),
        ({"start_timestep": 1001}, "0..1000"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, word: str) -> None:
    with pytest.raises(InputError, match=word):
        InversionEdit(**settings)
