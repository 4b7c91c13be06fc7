"""Prompt-to-Prompt: without control the model itself, with it the source's maps and nothing else."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor

from evaluation.baselines import PromptToPrompt, edited_prompt
from evaluation.baselines.alignment import TokenMap, token_map
from evaluation.baselines.attention import AttentionControl, controlled_attention, refine_maps
from slider_lightning.backbone import Backbone, PromptEmbeds, SamplerConfig, initial_noise
from slider_lightning.errors import InputError
from slider_lightning.generation import generate_images
from tests.baseline_rows import AGE, ROWS, SAMPLER, attentive

SCALES = (-1.0, 1.0, 2.5)
SCHEDULERS = [EulerDiscreteScheduler, EulerAncestralDiscreteScheduler, HeunDiscreteScheduler, DDIMScheduler]
DEFAULT = PromptToPrompt(AGE)
OFF = PromptToPrompt(AGE, cross_replace_steps=0.0, self_replace_steps=0.0)
FULL = PromptToPrompt(AGE, cross_replace_steps=1.0, self_replace_steps=1.0)


@pytest.fixture
def backbone(backbone: Backbone) -> Backbone:
    return attentive(backbone)


def plain_images(backbone: Backbone, scale: float, sampler: SamplerConfig = SAMPLER) -> Tensor:
    """The model's own images of the edited prompts; scale 0 is the base image."""
    prompts = [edited_prompt(row, AGE, scale) for row in ROWS]
    return generate_images(backbone, None, prompts, [row.seed for row in ROWS], [0.0], sampler)[:, 0]


def branch_images(backbone: Backbone, method: PromptToPrompt, sampler: SamplerConfig = SAMPLER) -> Tensor:
    latents = method.latents(backbone, ROWS, SCALES, sampler)
    return backbone.decode(latents.flatten(0, 1)).unflatten(0, latents.shape[:2])


# Whole images


@pytest.mark.parametrize(
    ("scheduler", "guidance_scale"), [*((scheduler, 4.0) for scheduler in SCHEDULERS), (SCHEDULERS[0], 1.0)]
)
def test_without_control_every_image_is_the_models_own(
    backbone: Backbone, scheduler: type, guidance_scale: float
) -> None:
    backbone.scheduler = scheduler.from_config(backbone.scheduler.config)
    sampler = replace(SAMPLER, guidance_scale=guidance_scale)
    images = OFF.generate(backbone, ROWS, SCALES, sampler, batch_size=8)
    assert images.shape == (2, 3, 3, 64, 64)
    for column, scale in enumerate(SCALES):
        assert (images[:, column] - plain_images(backbone, scale, sampler)).abs().max() <= 1e-4
    assert (images - plain_images(backbone, 0, sampler)[:, None]).abs().amax((2, 3, 4)).min() > 1e-2


@pytest.mark.parametrize("guidance_scale", [4.0, 1.0])
def test_control_leaves_the_source_alone_and_moves_the_edits(backbone: Backbone, guidance_scale: float) -> None:
    sampler = replace(SAMPLER, guidance_scale=guidance_scale)
    images = branch_images(backbone, FULL, sampler)
    assert (images[:, 0] - plain_images(backbone, 0, sampler)).abs().max() <= 1e-4
    for column, scale in enumerate(SCALES, 1):
        differences = (images[:, column] - plain_images(backbone, scale, sampler)).abs().amax((1, 2, 3))
        assert differences.min() > 1e-3
    assert (images[:, 2] - images[:, 3]).abs().amax((1, 2, 3)).min() > 1e-3


def test_an_edit_that_changes_no_word_is_the_source(backbone: Backbone) -> None:
    latents = FULL.latents(backbone, ROWS, (0.0,), SAMPLER)
    assert (latents[:, 1] - latents[:, 0]).abs().max() <= 1e-4 * latents.abs().max()


def test_control_ends_with_its_share_of_the_steps(backbone: Backbone) -> None:
    """Half of two steps is one: any share in (0, 1/2] does the same, a larger one does more."""
    images = [
        branch_images(backbone, PromptToPrompt(AGE, cross_replace_steps=share, self_replace_steps=0.0))
        for share in (0.1, 0.5, 0.51, 1.0)
    ]
    assert torch.equal(images[0], images[1])
    assert torch.equal(images[2], images[3])
    assert (images[1] - images[2])[:, 1:].abs().max() > 1e-4


def test_only_small_self_attention_maps_are_lent(backbone: Backbone) -> None:
    """Attention of the smallest SDXL sees 8x8 positions."""
    none, small, large = (
        branch_images(backbone, PromptToPrompt(AGE, 0.0, share, side)) for share, side in ((0.0, 8), (1.0, 7), (1.0, 8))
    )
    assert torch.equal(none, small)
    assert (large - none)[:, 1:].abs().amax((2, 3, 4)).min() > 1e-3


@pytest.mark.parametrize("batch_size", [1, 8])
def test_an_image_does_not_depend_on_its_batch(backbone: Backbone, batch_size: int) -> None:
    """Neither on the rows beside it nor on the other scales."""
    together = DEFAULT.generate(backbone, ROWS, SCALES, SAMPLER, batch_size=100)
    assert (DEFAULT.generate(backbone, ROWS, SCALES, SAMPLER, batch_size=batch_size) - together).abs().max() <= 1e-4
    alone = DEFAULT.generate(backbone, ROWS[1:2], SCALES[2:], SAMPLER, batch_size=batch_size)
    assert (alone[0, 0] - together[1, 2]).abs().max() <= 1e-4


def test_the_same_arguments_give_the_same_bits_and_start_timestep_is_not_used(backbone: Backbone) -> None:
    first = DEFAULT.generate(backbone, ROWS, SCALES, SAMPLER, batch_size=8)
    torch.manual_seed(7)
    later = replace(SAMPLER, start_timestep=100)
    assert torch.equal(DEFAULT.generate(backbone, ROWS, SCALES, later, batch_size=8), first)


@pytest.mark.parametrize(("batch_size", "largest"), [(1, 8), (7, 8), (100, 16)])
def test_a_source_is_drawn_once_for_all_scales(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, batch_size: int, largest: int
) -> None:
    calls: list[int] = []
    predict_noise = backbone.predict_noise

    def counted(latents: Tensor, *args: object) -> Tensor:
        calls.append(len(latents))
        return predict_noise(latents, *args)

    monkeypatch.setattr(backbone, "predict_noise", counted)
    DEFAULT.generate(backbone, ROWS, SCALES, SAMPLER, batch_size=batch_size)
    assert sum(calls) == 2 * 2 * 2 * (1 + 3)
    assert max(calls) == largest


# Maps


def reference_maps(attn: Attention, hidden_states: Tensor, context: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) of every row, written out: rows x heads x pixels x keys."""
    query, key = (
        layer(states).unflatten(-1, (attn.heads, -1)).movedim(-2, 1)
        for layer, states in ((attn.to_q, hidden_states), (attn.to_k, context))
    )
    return (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)


def reference_output(attn: Attention, maps: Tensor, context: Tensor) -> Tensor:
    value = attn.to_v(context).unflatten(-1, (attn.heads, -1)).movedim(-2, 1)
    return attn.to_out[0]((maps @ value).movedim(1, -2).flatten(-2))


@torch.no_grad()
def controlled_layers(
    backbone: Backbone, own: int, tokens: Callable[[Backbone], TokenMap | None], side: int
) -> dict[str, tuple[Attention, Tensor, Tensor, Tensor]]:
    """One controlled UNet call on `own` unconditional rows and two groups [source, old, young] of conditional ones.

    Returns, by layer: the layer, what it attended from, what to, and what it gave.
    """
    seen: dict[str, tuple[Attention, Tensor, Tensor, Tensor]] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(layer: Attention, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor) -> None:
            context = kwargs.get("encoder_hidden_states")
            seen[name] = (layer, args[0], args[0] if context is None else context, output)

        return hook

    layers = [(name, layer) for name, layer in backbone.unet.named_modules() if isinstance(layer, Attention)]
    handles = [layer.register_forward_hook(watch(name), with_kwargs=True) for name, layer in layers]
    prompts = [prompt for row in ROWS for prompt in (row.prompt, *(edited_prompt(row, AGE, s) for s in (1, -1)))]
    embeds = backbone.encode_prompts(prompts)
    if own:
        embeds = PromptEmbeds.cat([backbone.encode_negative_prompt("").repeat_interleave(own), embeds])
    latents = initial_noise(backbone.latent_shape, range(own + 6))
    with controlled_attention(backbone.unet, AttentionControl(3, own, tokens(backbone), side)):
        backbone.predict_noise(latents, torch.tensor(500), embeds)
    for handle in handles:
        handle.remove()
    return seen


def edits(backbone: Backbone) -> TokenMap:
    sources = [row.prompt for row in ROWS]
    return token_map(backbone, sources, [[f"{s}, very old", f"{s}, very young"] for s in sources], [3.0, 0.5])


@pytest.mark.parametrize("own", [6, 0])
def test_cross_attention_gives_what_the_refined_maps_give(backbone: Backbone, own: int) -> None:
    seen = controlled_layers(backbone, own, edits, side=0)
    assert sum(name.endswith("attn2") for name in seen) == 4
    for name, (attn, hidden_states, context, output) in seen.items():
        maps = reference_maps(attn, hidden_states, context)
        if name.endswith("attn2"):
            for group, words in ((own, 4), (own + 3, 2)):  # image of a man; a woman
                source = maps[group].clone()
                for edit, factor in ((group + 1, 3.0), (group + 2, 0.5)):
                    new = slice(1 + words, 4 + words)  # ", very old" after the begin and the source's words
                    own_maps = maps[edit].clone()
                    maps[edit] = source
                    maps[edit][..., new] = factor * own_maps[..., new]
                    maps[edit][..., 4 + words] = source[..., 1 + words]  # the end
        assert (output - reference_output(attn, maps, context)).abs().max() <= 1e-5 * output.abs().max().clamp(min=1)


@pytest.mark.parametrize("own", [6, 0])
def test_self_attention_gives_what_the_sources_maps_give(backbone: Backbone, own: int) -> None:
    seen = controlled_layers(backbone, own, lambda _: None, side=8)
    assert sum(name.endswith("attn1") for name in seen) == 4
    for name, (attn, hidden_states, context, output) in seen.items():
        maps = reference_maps(attn, hidden_states, context)
        free = reference_output(attn, maps, context)
        if name.endswith("attn1"):
            for group in (own, own + 3):
                maps[group + 1 : group + 3] = maps[group].clone()
            edit_rows = [own + 1, own + 2, own + 4, own + 5]
            assert (output - free)[edit_rows].abs().max() > 1e-3
        assert (output - reference_output(attn, maps, context)).abs().max() <= 1e-5 * output.abs().max().clamp(min=1)


def test_refined_maps_in_closed_form() -> None:
    maps = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]]).view(1, 2, 1, 1, 3)
    tokens = TokenMap(
        source=torch.tensor([[[0, 0, 1]]]),
        shared=torch.tensor([[[True, False, True]]]),
        weight=torch.tensor([[[1.0, 2.0, 1.0]]]),
    )
    refined = refine_maps(maps, tokens).flatten(1)
    assert torch.allclose(refined, torch.tensor([[0.5, 0.3, 0.2, 0.5, 1.2, 0.3]]))


def test_the_unets_own_processors_come_back(backbone: Backbone) -> None:
    unet = backbone.unet
    before, keys = unet.attn_processors, list(unet.state_dict())
    with controlled_attention(unet, AttentionControl(3, 6, edits(backbone), 8)):
        assert not any(isinstance(processor, AttnProcessor2_0) for processor in unet.attn_processors.values())
    assert unet.attn_processors == before
    latents, embeds = torch.zeros(5, 4, 16, 16), backbone.encode_prompts(["a"] * 5)  # not two groups of three
    with pytest.raises(RuntimeError), controlled_attention(unet, AttentionControl(3, 0, edits(backbone), 8)):
        backbone.predict_noise(latents, torch.tensor(1), embeds)
    assert unet.attn_processors == before
    DEFAULT.generate(backbone, ROWS, SCALES, SAMPLER, batch_size=8)
    assert unet.attn_processors == before
    assert list(unet.state_dict()) == keys


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cross_replace_steps": 1.2}, r"cross_replace_steps to be a share of the steps in \[0, 1\], but got 1.2"),
        ({"self_replace_steps": -0.1}, r"self_replace_steps to be a share"),
        ({"cross_replace_steps": float("nan")}, r"cross_replace_steps to be a share"),
        ({"self_replace_side": 0}, "self_replace_side to be 1 pixel or more"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PromptToPrompt(AGE, **settings)


def test_a_method_says_what_decides_its_images() -> None:
    methods = [DEFAULT, OFF, FULL, replace(DEFAULT, self_replace_side=16), PromptToPrompt(replace(AGE, positive="old"))]
    described = [method.depends_on() for method in methods]
    assert all(described.count(description) == 1 for description in described)
    assert PromptToPrompt(replace(AGE, name="other", preserve=("male",))).depends_on() == DEFAULT.depends_on()
