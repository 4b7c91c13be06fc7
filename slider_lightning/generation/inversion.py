"""Inversion of photographs: the noisy states from which the model comes back to them, exactly if asked to.

A method of inversion is a path of states x_k, one per noise level, that ends in the photograph's latents x_0, and the
residuals r_k = x_(k-1) - mean(x_k) that the model's own guided steps miss along it. An edit takes the same steps with
sliders on and adds the same residuals: at scale 0 it walks the path to its end, whatever the guidance.

- `ddim`: the path is DDIM run backwards (Song et al. 2021), the residuals are left out: exact only for a step size
  of zero and a guidance of 1.
- `direct`: the same path with its residuals (Direct Inversion, Ju et al. 2023).
- `edit_friendly`: every state has noise of its own, the steps are DDPM's, and the residuals are their noise
  (Huberman-Spiegelglas et al. 2024); nothing is inverted.
- `shared_noise`: all states have the same noise, the steps are DDIM's (after Xu et al. 2023); nothing is inverted.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from slider_lightning.adapters.bank import SliderBank
from slider_lightning.backbone import Backbone, PromptEmbeds, classifier_free_guidance, initial_noise
from slider_lightning.errors import InputError
from slider_lightning.generation.levels import Levels

KINDS = ("ddim", "direct", "edit_friendly", "shared_noise")
OnForwards = Callable[[int], None]


@dataclass(frozen=True)
class InversionConfig:
    """How photographs are inverted and edited.

    Args:
        kind: "ddim", "direct", "edit_friendly" or "shared_noise", as the module says.
        num_inference_steps: steps from noise to the clean image; those at and below `start_timestep` are taken.
        guidance_scale: of the edit; at 1 or below no unconditional half is computed.
        start_timestep: sliders act at and below it (eq. 8). Above it they are off, where every kind but "ddim" comes
            back to its own path: those steps would change nothing and are not taken.
        inversion_guidance_scale: guidance while DDIM runs backwards; 1 is common, since it drifts least.
        fixed_point_iterations: how often the state that a backward step leads to is used to predict that step again
            (Pan et al. 2023); 0 takes the prediction at the state before.
        seed: of the noise of "edit_friendly" and "shared_noise".

    Raises:
        InputError: if a value is out of range.
    """

    kind: str = "edit_friendly"
    num_inference_steps: int = 25
    guidance_scale: float = 4.0
    start_timestep: int = 750
    inversion_guidance_scale: float = 1.0
    fixed_point_iterations: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"Expected kind to be one of {', '.join(KINDS)}, but got {self.kind!r}; choose one.")
        if self.num_inference_steps < 1 or self.fixed_point_iterations < 0:
            raise InputError(
                f"Expected at least one step and no negative number of fixed_point_iterations, but got "
                f"{self.num_inference_steps} and {self.fixed_point_iterations}; raise them."
            )
        if self.guidance_scale < 0 or self.inversion_guidance_scale < 0:
            raise InputError(
                f"Expected guidance of 0 or more, but got {self.guidance_scale} and {self.inversion_guidance_scale}."
            )
        if not 0 <= self.start_timestep <= 1000:
            raise InputError(
                f"Expected start_timestep to lie in 0..1000, but got {self.start_timestep}; 750 is common."
            )

    @property
    def exact(self) -> bool:
        """Whether the residuals are added, so that scale 0 gives the photograph back."""
        return self.kind != "ddim"

    @property
    def backward(self) -> bool:
        """Whether DDIM is run backwards, one prediction after another."""
        return self.kind in ("ddim", "direct")

    @property
    def ddim_eta(self) -> float:
        """1 where the steps are DDPM's."""
        return float(self.kind == "edit_friendly")

    def levels(self, backbone: Backbone) -> Levels:
        """The steps that are taken; InputError if none is left."""
        return Levels.of(backbone, self.num_inference_steps, self.start_timestep)

    def inversion_forwards(self, backbone: Backbone) -> int:
        """What inverting one photograph costs, in sample-forwards of the UNet."""
        backward = halves(self.inversion_guidance_scale) * (1 + self.fixed_point_iterations) * self.backward
        return len(self.levels(backbone)) * (backward + halves(self.guidance_scale) * self.exact)


@dataclass(frozen=True)
class Inversion:
    """Inverted photographs.

    Args:
        states: the path of every photograph, noisiest first, its own latents last.
        residuals: what the model's steps miss along it; None where they are left out.
    """

    states: Float[Tensor, "states photographs 4 h w"]
    residuals: Float[Tensor, "steps photographs 4 h w"] | None


class Guided:
    """The model's guided prediction, batch by batch.

    Args:
        backbone: the frozen model.
        bank: the sliders on its UNet, attached.
        embeds: one prompt per photograph.
        negative_embeds: one row, the unconditional prompt.
        time_ids: size conditioning of every photograph.
        batch_size: latents per UNet call; guidance doubles the rows of the call.
        on_forwards: told of the sample-forwards of every UNet call.
    """

    def __init__(
        self,
        backbone: Backbone,
        bank: SliderBank | None,
        embeds: PromptEmbeds,
        negative_embeds: PromptEmbeds,
        time_ids: Float[Tensor, "photographs 6"],
        batch_size: int,
        on_forwards: OnForwards | None = None,
    ) -> None:
        self.backbone = backbone
        self._bank = bank
        self._embeds = embeds
        self._negative_embeds = negative_embeds
        self._time_ids = time_ids
        self._batch_size = batch_size
        self._on_forwards = on_forwards

    def __call__(
        self,
        latents: Float[Tensor, "rows 4 h w"],
        timesteps: Int[Tensor, " rows"],
        photographs: Int[Tensor, " rows"],
        guidance_scale: float,
        slider_scales: Float[Tensor, "rows sliders"] | None = None,
    ) -> Float[Tensor, "rows 4 h w"]:
        """Predictions for latents of the photographs with these numbers; without scales the sliders are off."""
        parts = []
        for start in range(0, len(latents), self._batch_size):
            rows = slice(start, start + self._batch_size)
            scales = None if slider_scales is None else slider_scales[rows]
            parts.append(self._predict(latents[rows], timesteps[rows], photographs[rows], guidance_scale, scales))
        return torch.cat(parts)

    def _predict(
        self, latents: Tensor, timesteps: Tensor, numbers: Tensor, guidance_scale: float, slider_scales: Tensor | None
    ) -> Tensor:
        copies = halves(guidance_scale)
        embeds = self._embeds[numbers]
        if copies == 2:
            embeds = PromptEmbeds.cat([self._negative_embeds.repeat_interleave(len(numbers)), embeds])
        with self._under(slider_scales, copies):
            noise_pred = self.backbone.predict_noise(
                torch.cat([latents] * copies),
                timesteps.to(latents.device).repeat(copies),
                embeds,
                self._time_ids[numbers].repeat(copies, 1),
            )
        if self._on_forwards is not None:
            self._on_forwards(len(noise_pred))
        if copies == 1:
            return noise_pred
        noise_uncond, noise_cond = noise_pred.chunk(2)
        return classifier_free_guidance(noise_uncond, noise_cond, guidance_scale)

    def _under(self, slider_scales: Tensor | None, copies: int) -> AbstractContextManager[None]:
        if self._bank is None or slider_scales is None:
            return nullcontext()
        return self._bank.scales(slider_scales.repeat(copies, 1))


@torch.no_grad()
def invert(guided: Guided, latents: Float[Tensor, "photographs 4 h w"], config: InversionConfig) -> Inversion:
    """The path and the residuals of photographs.

    Args:
        guided: the model, which is asked without sliders.
        latents: of the photographs, in the UNet's units.
        config: how.
    """
    levels = config.levels(guided.backbone)
    states = (
        _backward_path(guided, latents, levels, config) if config.backward else _noised_path(latents, levels, config)
    )
    return Inversion(states, _residuals(guided, states, levels, config) if config.exact else None)


def halves(guidance_scale: float) -> int:
    """Rows of the UNet for one guided prediction."""
    return 2 if guidance_scale > 1 else 1


def _backward_path(
    guided: Guided, latents: Float[Tensor, "photographs 4 h w"], levels: Levels, config: InversionConfig
) -> Float[Tensor, "states photographs 4 h w"]:
    """DDIM from the clean end to the noisy one."""
    states, numbers = [latents], torch.arange(len(latents))
    for step in reversed(range(len(levels))):
        timesteps, state = levels.timesteps[step].expand(len(latents)), states[-1]
        for _ in range(1 + config.fixed_point_iterations):
            noise_pred = guided(state, timesteps, numbers, config.inversion_guidance_scale)
            state = levels.back(states[-1], noise_pred, step)
        states.append(state)
    return torch.stack(states[::-1])


def _noised_path(
    latents: Float[Tensor, "photographs 4 h w"], levels: Levels, config: InversionConfig
) -> Float[Tensor, "states photographs 4 h w"]:
    """The photographs under noise: of its own at every level, or the same at all."""
    shape, steps = latents.shape[1:], range(len(levels))
    # A photograph's noise follows from the seed and the steps that are left, so that it is edited alike in any batch
    # and from any start_timestep.
    seeds = [config.seed * 1000 + (len(levels) - step) * (config.kind == "edit_friendly") for step in steps]
    noise = initial_noise(shape, seeds).to(latents.device)
    return torch.stack([*(levels.noised(latents, noise[step], step) for step in steps), latents])


def _residuals(
    guided: Guided, states: Float[Tensor, "states photographs 4 h w"], levels: Levels, config: InversionConfig
) -> Float[Tensor, "steps photographs 4 h w"]:
    """What is missing from the mean of every step to the path's next state; all steps fill batches together."""
    steps, count = len(levels), states.shape[1]
    noise_pred = guided(
        states[:-1].flatten(0, 1),
        levels.timesteps.repeat_interleave(count),
        torch.arange(count).repeat(steps),
        config.guidance_scale,
    ).unflatten(0, (steps, count))
    means = [levels.mean(states[step], noise_pred[step], step, config.ddim_eta) for step in range(steps)]
    return states[1:] - torch.stack(means)
