"""States of the diffusion and what the frozen model says of them: the rollout that makes both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from slider_lightning.adapters import SliderBank
from slider_lightning.backbone import Backbone, PromptEmbeds, classifier_free_guidance, ddim_scheduler, initial_noise
from slider_lightning.concepts import Concept
from slider_lightning.errors import InputError


@dataclass(frozen=True)
class ConceptEmbeds:
    """The embedded prompts of a concept and of the contrasts its direction is freed from.

    Args:
        concept: the texts.
        contrasts: the texts (q+, q-) of every contrast; there may be none.
        target: c_t, one row.
        positive: (c+, p), one row per preserved phrase.
        negative: (c-, p), in the same order.
        contrast_positive: q+, one row per contrast.
        contrast_negative: q-, in the same order.
        unconditional: the row that guidance steers away from.
    """

    concept: Concept
    contrasts: tuple[tuple[str, str], ...]
    target: PromptEmbeds
    positive: PromptEmbeds
    negative: PromptEmbeds
    contrast_positive: PromptEmbeds
    contrast_negative: PromptEmbeds
    unconditional: PromptEmbeds

    @classmethod
    def encode(cls, backbone: Backbone, concept: Concept, contrasts: tuple[tuple[str, str], ...] = ()) -> ConceptEmbeds:
        """Encodes all prompts of a concept and its contrasts; afterwards the backbone may free its text encoders."""
        target = backbone.encode_prompts([concept.target])
        sides = [backbone.encode_prompts(side) for side in zip(*contrasts, strict=True)] or [target[:0]] * 2
        return cls(
            concept=concept,
            contrasts=contrasts,
            target=target,
            positive=backbone.encode_prompts(concept.positive_prompts()),
            negative=backbone.encode_prompts(concept.negative_prompts()),
            contrast_positive=sides[0],
            contrast_negative=sides[1],
            unconditional=backbone.encode_negative_prompt(None),
        )

    def scored(self) -> tuple[PromptEmbeds, ...]:
        """The prompts that are scored at every state, in the order of the scores in `TeacherStates`."""
        return (self.target, self.positive, self.negative, self.contrast_positive, self.contrast_negative)


@dataclass(frozen=True)
class RolloutConfig:
    """How states are drawn.

    Args:
        num_inference_steps: DDIM steps of a rollout; each is one state.
        guidance_scale: classifier-free guidance of the rollout; 1 or less means none, as in diffusers.
        batch_size: most rows in one UNet forward.
        seed: with the index of a rollout, draws its initial noise.

    Raises:
        InputError: if a count is below 1 or the seed below 0.
    """

    num_inference_steps: int = 25
    guidance_scale: float = 3.0
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for field, least in (("num_inference_steps", 1), ("batch_size", 1), ("seed", 0)):
            if (value := getattr(self, field)) < least:
                raise InputError(f"Expected data.{field} to be {least} or more, but got {value}; raise it.")


@dataclass(frozen=True)
class TeacherStates:
    """Noisy latents x_t with the frozen model's unguided predictions, stored apart and never multiplied by eta.

    Rows of a rollout stand together, from its first step to its last. Without contrasts their dimension is empty.
    """

    latents: Float[Tensor, "states 4 h w"]
    timestep: Int[Tensor, " states"]
    eps_target: Float[Tensor, "states 4 h w"]
    eps_positive: Float[Tensor, "states preserved 4 h w"]
    eps_negative: Float[Tensor, "states preserved 4 h w"]
    eps_contrast_positive: Float[Tensor, "states contrasts 4 h w"]
    eps_contrast_negative: Float[Tensor, "states contrasts 4 h w"]

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, index: slice | Tensor) -> TeacherStates:
        return TeacherStates(**{name: tensor[index] for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by the name of their field."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to(self, device: torch.device | str, dtype: torch.dtype) -> TeacherStates:
        """The same states elsewhere; the dtype is for the floating tensors, timesteps stay integers."""
        moved = {n: t.to(device, dtype if t.is_floating_point() else None) for n, t in self.tensors().items()}
        return TeacherStates(**moved)

    @staticmethod
    def cat(parts: Sequence[TeacherStates]) -> TeacherStates:
        """The states of several parts, one after the other."""
        return TeacherStates(
            **{field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(TeacherStates)}
        )


@dataclass(frozen=True)
class SliderPolicy:
    """A slider that is on while a rollout is drawn (on-policy states).

    Args:
        bank: bank of one slider.
        scale: signed slider scale of every rollout.
    """

    bank: SliderBank
    scale: Float[Tensor, " rollouts"]


def rollout_noise(backbone: Backbone, seed: int, rollouts: Sequence[int]) -> Float[Tensor, "rollouts 4 h w"]:
    """Initial noise of rollouts, each a pure function of (seed, its number)."""
    seeds = [int(np.random.SeedSequence([seed, rollout]).generate_state(1)[0]) for rollout in rollouts]
    return initial_noise(backbone.latent_shape, seeds)


@torch.no_grad()
def rollout_states(
    backbone: Backbone,
    embeds: ConceptEmbeds,
    noise: Float[Tensor, "rollouts 4 h w"],
    config: RolloutConfig,
    policy: SliderPolicy | None = None,
    on_step: Callable[[], None] | None = None,
) -> TeacherStates:
    """Guided DDIM rollouts of c_t, with frozen scores at every state passed.

    The timestep told to the UNet is the one the latent is at. Without a policy the rollout's conditional half is
    eps(c_t) itself, so a state costs 2 + 2P + 2J sample-forwards (the last of a rollout one less: nothing follows it).

    Args:
        backbone: the frozen model.
        embeds: the prompts; P is the number of preserved phrases, at least 1, and J that of contrasts.
        noise: x_T of the rollouts.
        config: steps, guidance and rows per forward.
        policy: slider that draws the rollouts; the scores stay those of the frozen model.
        on_step: called after every step of the rollouts.
    """
    scheduler: Any = ddim_scheduler(backbone.scheduler)
    scheduler.set_timesteps(config.num_inference_steps)
    timesteps = scheduler.timesteps.tolist()
    counts = [len(prompts) for prompts in embeds.scored()]
    scored = PromptEmbeds.cat(embeds.scored())
    latents = noise.to(backbone.device) * scheduler.init_noise_sigma
    steps = []
    for timestep in timesteps:
        eps = _predict_prompts(backbone, latents, timestep, scored, config.batch_size)
        pairs = [part.transpose(0, 1) for part in eps.split(counts)[1:]]
        steps.append((latents, torch.full((len(noise),), timestep), eps[0], *pairs))
        if timestep != timesteps[-1]:
            guided = _guided_noise(backbone, embeds, latents, timestep, config, eps[0], policy)
            latents = scheduler.step(guided, timestep, latents).prev_sample
        if on_step is not None:
            on_step()
    # (step, rollout, ...) becomes rows with the steps of a rollout together.
    return TeacherStates(*(torch.stack(column, dim=1).flatten(0, 1) for column in zip(*steps, strict=True)))


def _guided_noise(
    backbone: Backbone,
    embeds: ConceptEmbeds,
    latents: Float[Tensor, "rollouts 4 h w"],
    timestep: int,
    config: RolloutConfig,
    eps_target: Float[Tensor, "rollouts 4 h w"],
    policy: SliderPolicy | None,
) -> Float[Tensor, "rollouts 4 h w"]:
    """The noise a rollout steps along: the slider's where a policy draws it, else the frozen model's."""
    prompts = [embeds.target] if policy else []
    if config.guidance_scale > 1:
        prompts.append(embeds.unconditional)
    if not prompts:
        return eps_target
    eps = _predict_prompts(backbone, latents, timestep, PromptEmbeds.cat(prompts), config.batch_size, policy)
    eps_cond = eps[0] if policy else eps_target
    return classifier_free_guidance(eps[-1], eps_cond, config.guidance_scale) if config.guidance_scale > 1 else eps_cond


def _predict_prompts(
    backbone: Backbone,
    latents: Float[Tensor, "rollouts 4 h w"],
    timestep: int,
    embeds: PromptEmbeds,
    batch_size: int,
    policy: SliderPolicy | None = None,
) -> Float[Tensor, "prompts rollouts 4 h w"]:
    """Every prompt at every latent, `batch_size` rows a forward."""
    rows = latents.repeat(len(embeds), 1, 1, 1)
    row_embeds = embeds.to(latents.device).repeat_interleave(len(latents))
    parts = []
    for start in range(0, len(rows), batch_size):
        part = slice(start, start + batch_size)
        scales = policy.bank.scales(policy.scale.repeat(len(embeds))[part, None]) if policy else nullcontext()
        with scales:
            parts.append(backbone.predict_noise(rows[part], timestep, row_embeds[part]))
    return torch.cat(parts).unflatten(0, (len(embeds), len(latents)))
