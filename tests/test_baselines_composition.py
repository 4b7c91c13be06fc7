"""Score composition against a loop of its own, plain prompt editing against the sampler, and the shipped settings."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler, EulerDiscreteScheduler
from hydra import compose, initialize_config_dir
from torch import Tensor

from evaluation.baselines import Composition, PromptEditing, PromptToPrompt, edited_prompt
from evaluation.grids import GridRow
from slider_lightning.backbone import (
    Backbone,
    SamplerConfig,
    fresh_scheduler,
    initial_noise,
    step_arguments,
    step_generators,
)
from slider_lightning.config import CONF, build, check, plain_config, register_resolvers
from slider_lightning.errors import InputError
from slider_lightning.generation import generate_images
from tests.baseline_rows import AGE, ROWS, SAMPLER, attentive

SCALES = (-2, 0.5, 3.0)
SCHEDULERS = [EulerDiscreteScheduler, EulerAncestralDiscreteScheduler, DDIMScheduler]
COMPOSITION, EDITING = Composition(AGE), PromptEditing(AGE)
METHODS = [COMPOSITION, EDITING, PromptToPrompt(AGE)]


@pytest.fixture
def backbone(backbone: Backbone) -> Backbone:
    return attentive(backbone)


def base_images(backbone: Backbone, sampler: SamplerConfig = SAMPLER, scale: float = 0) -> Tensor:
    prompts = [edited_prompt(row, AGE, scale) for row in ROWS]
    return generate_images(backbone, None, prompts, [row.seed for row in ROWS], [0.0], sampler)[:, 0]


# Composition


@torch.no_grad()
def composed_image(backbone: Backbone, row: GridRow, scale: float, sampler: SamplerConfig) -> Tensor:
    """One image, every prediction in a call of its own: eq. 2 under guidance, written out."""
    scheduler = fresh_scheduler(backbone.scheduler, sampler.num_inference_steps)
    generators = step_generators(backbone.latent_shape, [row.seed])
    step_kwargs = step_arguments(scheduler, generators, 0.0)
    latents = initial_noise(backbone.latent_shape, [row.seed]) * scheduler.init_noise_sigma
    prompts = {"c_t": row.prompt, "c+": f"{row.prompt}, very old", "c-": f"{row.prompt}, very young"}
    embeds = {name: backbone.encode_prompts([prompt]) for name, prompt in prompts.items()}
    embeds["uncond"] = backbone.encode_negative_prompt()
    for timestep in scheduler.timesteps:
        state = scheduler.scale_model_input(latents, timestep)
        eps = {name: backbone.predict_noise(state, timestep, embed) for name, embed in embeds.items()}
        conditional = eps["c_t"]
        if timestep <= sampler.start_timestep:
            conditional = conditional + scale * (eps["c+"] - eps["c-"])
        guidance = max(sampler.guidance_scale, 1.0)
        noise_pred = eps["uncond"] + guidance * (conditional - eps["uncond"])
        latents = scheduler.step(noise_pred, timestep, latents, **step_kwargs, return_dict=False)[0]
    return backbone.decode(latents)[0]


@pytest.mark.parametrize(
    ("scheduler", "guidance_scale"), [*((scheduler, 4.0) for scheduler in SCHEDULERS), (SCHEDULERS[0], 1.0)]
)
def test_composition_is_equation_2_under_guidance(backbone: Backbone, scheduler: type, guidance_scale: float) -> None:
    backbone.scheduler = scheduler.from_config(backbone.scheduler.config)
    start_timestep = int(fresh_scheduler(backbone.scheduler, 2).timesteps[1])
    sampler = replace(SAMPLER, guidance_scale=guidance_scale, start_timestep=start_timestep)
    images = COMPOSITION.generate(backbone, ROWS, SCALES, sampler, batch_size=4)
    assert images.shape == (2, 3, 3, 64, 64)
    for row, column in ((0, 0), (1, 2)):
        expected = composed_image(backbone, ROWS[row], SCALES[column], sampler)
        assert (images[row, column] - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_composition_at_zero_is_the_base_image(backbone: Backbone, scheduler: type) -> None:
    backbone.scheduler = scheduler.from_config(backbone.scheduler.config)
    images = COMPOSITION.generate(backbone, ROWS, (-2.0, 0.0, 2.0), SAMPLER, batch_size=8)
    base = base_images(backbone)
    assert (images[:, 1] - base).abs().max() <= 1e-4
    for column in (0, 2):
        assert (images[:, column] - base).abs().amax((1, 2, 3)).min() > 5e-4


def test_the_start_is_drawn_once_per_row(backbone: Backbone) -> None:
    timesteps = fresh_scheduler(backbone.scheduler, 2).timesteps
    off = int((timesteps > 750).sum())
    assert off == 1
    COMPOSITION.generate(backbone, ROWS, SCALES, SAMPLER, batch_size=2)
    assert backbone.sample_forwards == 2 * (2 * 1 + 3 * 4 * 1)
    never = COMPOSITION.generate(backbone, ROWS, SCALES, replace(SAMPLER, start_timestep=0), batch_size=8)
    assert (never - base_images(backbone)[:, None]).abs().max() <= 1e-4


# Plain editing


def test_plain_editing_is_the_edited_prompt_from_the_same_seed(backbone: Backbone) -> None:
    images = EDITING.generate(backbone, ROWS, (-2.0, 0.1, 3.0), SAMPLER, batch_size=4)
    for column, scale in enumerate((-1, 1, 1)):
        assert (images[:, column] - base_images(backbone, scale=scale)).abs().max() <= 1e-4
    assert torch.equal(images[:, 1], images[:, 2])
    assert (images[:, 0] - images[:, 1]).abs().amax((1, 2, 3)).min() > 1e-2


def test_plain_editing_draws_a_pole_once(backbone: Backbone) -> None:
    EDITING.generate(backbone, ROWS, (-2.0, -1.0, 1.0, 2.0), SAMPLER, batch_size=4)
    assert backbone.sample_forwards == 2 * 2 * 2 * 2


# All


@pytest.mark.parametrize("method", [COMPOSITION, EDITING], ids=lambda method: method.name)
def test_an_image_does_not_depend_on_its_batch(backbone: Backbone, method: Composition | PromptEditing) -> None:
    together = method.generate(backbone, ROWS, SCALES, SAMPLER, batch_size=100)
    assert torch.equal(method.generate(backbone, ROWS, SCALES, SAMPLER, batch_size=100), together)
    for batch_size in (1, 3):
        images = method.generate(backbone, ROWS, SCALES, SAMPLER, batch_size=batch_size)
        assert (images - together).abs().max() <= 1e-4
    alone = method.generate(backbone, ROWS[1:2], SCALES[2:], SAMPLER, batch_size=1)
    assert (alone[0, 0] - together[1, 2]).abs().max() <= 1e-4


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize(
    ("rows", "scales", "batch_size"),
    [([], SCALES, 4), (ROWS, (), 4), (ROWS, (float("nan"),), 4), (ROWS, SCALES, 0)],
)
def test_what_no_image_can_be_made_of_is_refused(
    backbone: Backbone, method: Composition, rows: list[GridRow], scales: tuple[float, ...], batch_size: int
) -> None:
    with pytest.raises(InputError, match="at least one row, finite scales and a batch of 1 or more"):
        method.generate(backbone, rows, scales, SAMPLER, batch_size=batch_size)


def composed_baseline(name: str, concept: str, *overrides: str) -> dict[str, Any]:
    """The checked config of a baseline beside a concept."""
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = plain_config(compose(overrides=[f"+concept={concept}", f"+baseline={name}", *overrides]))
    check(config)
    return config["baseline"]


@pytest.mark.parametrize("name", ["prompt_to_prompt", "composition", "prompt_editing"])
def test_every_shipped_baseline_is_built_for_a_concept(name: str) -> None:
    method = build(composed_baseline(name, "smile"))
    assert method.name == name
    description = method.depends_on()
    assert description["concept"] == {
        "target": "a person",
        "positive": "a person, smiling",
        "negative": "a person, frowning",
    }
    assert json.loads(json.dumps(description)) == description
    assert method == type(method)(method.concept)


def test_wrong_settings_fail_when_a_config_is_read() -> None:
    with pytest.raises(InputError, match=r"cross_replace_steps to be of type float"):
        composed_baseline("prompt_to_prompt", "age", "baseline.cross_replace_steps=all")
    with pytest.raises(InputError, match=r"did you mean baseline.self_replace_side"):
        composed_baseline("prompt_to_prompt", "age", "+baseline.self_replace_sides=3")
