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

OnForwards = Callable[[int], None]


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

    def texts(self) -> tuple[tuple[str, ...], ...]:
        """The texts of `scored`, in the same order."""
        contrast_positive, contrast_negative = zip(*self.contrasts, strict=True) if self.contrasts else ((), ())
        concept = self.concept
        poles = concept.positive_prompts(), concept.negative_prompts()
        return ((concept.target,), *poles, contrast_positive, contrast_negative)


@dataclass(frozen=True)
class RolloutConfig:
    """How states are drawn.

    Args:
        num_inference_steps: DDIM steps of a rollout; each is one state.
        guidance_scale: classifier-free guidance of the rollout; 1 or less means none, as in diffusers.
        rows_per_forward: most rows in one UNet forward.
        seed: with the index of a rollout, draws its initial noise.

    Raises:
        InputError: if a count is below 1 or the seed below 0.
    """

    num_inference_steps: int = 25
    guidance_scale: float = 3.0
    rows_per_forward: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for field, least in (("num_inference_steps", 1), ("rows_per_forward", 1), ("seed", 0)):
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


@dataclass(frozen=True)
class Rollouts:
    """What rollouts passed through.

    Args:
        latents: x_t before every step.
        timestep: of every step, descending.
        eps_target: eps(c_t) there, of the frozen model; None under a policy, which steps along another prediction.
        clean: the latents behind the last step; None unless asked for.
    """

    latents: Float[Tensor, "rollouts steps 4 h w"]
    timestep: Int[Tensor, " steps"]
    eps_target: Float[Tensor, "rollouts steps 4 h w"] | None
    clean: Float[Tensor, "rollouts 4 h w"] | None


@torch.no_grad()
def draw_rollouts(
    backbone: Backbone,
    embeds: ConceptEmbeds,
    noise: Float[Tensor, "rollouts 4 h w"],
    config: RolloutConfig,
    *,
    policy: SliderPolicy | None = None,
    dtype: torch.dtype = torch.float32,
    to_clean: bool = False,
    on_forwards: OnForwards | None = None,
) -> Rollouts:
    """Guided DDIM rollouts of c_t.

    A step costs 2 sample-forwards, without guidance 1. The last one needs no unconditional half, and under a policy no
    prediction at all, unless it is stepped on to the clean latents.

    Args:
        backbone: the frozen model.
        embeds: the prompts c_t and unconditional.
        noise: x_T of the rollouts.
        config: steps, guidance and rows per forward.
        policy: slider that draws the rollouts; None draws them with the frozen model.
        dtype: every x_t is rounded to it before the model sees it. Rollouts that are stored in this dtype then passed
            through the very latents that are stored, and `eps_target` is the prediction there at no further cost.
        to_clean: take the last step too.
        on_forwards: told after every forward how many rows it had.
    """
    scheduler: Any = ddim_scheduler(backbone.scheduler)
    scheduler.set_timesteps(config.num_inference_steps)
    timesteps = scheduler.timesteps.tolist()
    latents = _rounded(noise.to(backbone.device) * scheduler.init_noise_sigma, dtype)
    passed, predicted, clean = [], [], None
    for number, timestep in enumerate(timesteps, start=1):
        passed.append(latents)
        steps_on = number < len(timesteps) or to_clean
        prompts = [embeds.target] if steps_on or policy is None else []
        if steps_on and config.guidance_scale > 1:
            prompts.append(embeds.unconditional)
        if not prompts:
            break
        eps = _predict_prompts(backbone, latents, timestep, PromptEmbeds.cat(prompts), config, policy, on_forwards)
        predicted.append(eps[0])
        if steps_on:
            guided = classifier_free_guidance(eps[1], eps[0], config.guidance_scale) if len(prompts) > 1 else eps[0]
            latents = _rounded(scheduler.step(guided, timestep, latents).prev_sample, dtype)
            clean = latents
    return Rollouts(
        latents=torch.stack(passed, dim=1),
        timestep=torch.tensor(timesteps),
        eps_target=torch.stack(predicted, dim=1) if policy is None else None,
        clean=clean if to_clean else None,
    )


@torch.no_grad()
def score_prompt(
    backbone: Backbone,
    latents: Float[Tensor, "states 4 h w"],
    timestep: Int[Tensor, " states"],
    embeds: PromptEmbeds,
    batch_size: int,
    on_forwards: OnForwards | None = None,
) -> Float[Tensor, "states 4 h w"]:
    """The frozen model's prediction for one prompt at states, `batch_size` rows a forward.

    Which rows share a forward does not depend on other prompts, so a prompt's scores are the same bits whatever else
    is scored.

    Args:
        backbone: the frozen model.
        latents: x_t, in any floating dtype and on any device.
        timestep: of every row.
        embeds: the prompt, one row.
        batch_size: most rows in one forward.
        on_forwards: told after every forward how many rows it had.
    """
    prompt = embeds.to(backbone.device)
    parts = []
    for rows, at in zip(latents.split(batch_size), timestep.split(batch_size), strict=True):
        model_input = rows.to(backbone.device, torch.float32)
        parts.append(backbone.predict_noise(model_input, at.to(backbone.device), prompt.repeat_interleave(len(rows))))
        if on_forwards is not None:
            on_forwards(len(rows))
    return torch.cat(parts)


def rollout_states(
    backbone: Backbone,
    embeds: ConceptEmbeds,
    noise: Float[Tensor, "rollouts 4 h w"],
    config: RolloutConfig,
    policy: SliderPolicy | None = None,
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
    """
    rollouts = draw_rollouts(backbone, embeds, noise, config, policy=policy)
    latents = rollouts.latents.flatten(0, 1)
    timestep = rollouts.timestep.to(backbone.device).repeat(len(noise))

    def scores(prompts: PromptEmbeds) -> Float[Tensor, "states prompts 4 h w"]:
        scored = [
            score_prompt(backbone, latents, timestep, prompts[i], config.rows_per_forward) for i in range(len(prompts))
        ]
        return torch.stack(scored, dim=1) if scored else latents.new_empty(len(latents), 0, *latents.shape[1:])

    eps_target = rollouts.eps_target
    return TeacherStates(
        latents,
        timestep,
        scores(embeds.target)[:, 0] if eps_target is None else eps_target.flatten(0, 1),
        *(scores(prompts) for prompts in embeds.scored()[1:]),
    )


def _rounded(latents: Tensor, dtype: torch.dtype) -> Tensor:
    return latents.to(dtype).to(torch.float32)


def _predict_prompts(
    backbone: Backbone,
    latents: Float[Tensor, "rollouts 4 h w"],
    timestep: int,
    embeds: PromptEmbeds,
    config: RolloutConfig,
    policy: SliderPolicy | None,
    on_forwards: OnForwards | None,
) -> Float[Tensor, "prompts rollouts 4 h w"]:
    """Every prompt at every latent, `rows_per_forward` rows a forward."""
    rows = latents.repeat(len(embeds), 1, 1, 1)
    row_embeds = embeds.to(latents.device).repeat_interleave(len(latents))
    parts = []
    for start in range(0, len(rows), config.rows_per_forward):
        part = slice(start, start + config.rows_per_forward)
        scales = policy.bank.scales(policy.scale.repeat(len(embeds))[part, None]) if policy else nullcontext()
        with scales:
            parts.append(backbone.predict_noise(rows[part], timestep, row_embeds[part]))
        if on_forwards is not None:
            on_forwards(len(parts[-1]))
    return torch.cat(parts).unflatten(0, (len(embeds), len(latents)))
