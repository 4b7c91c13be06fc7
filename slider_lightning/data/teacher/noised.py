"""Noised states: latents without noise, noised as a diffusion model is trained. Draws follow from (seed, number)."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from slider_lightning.backbone import Backbone, ddim_scheduler, initial_noise

# Keep these draws apart from each other and from those of rollouts where seed and number are the same.
_TIMESTEP_STREAM, _NOISE_STREAM = 21, 22


def noised_timesteps(
    seed: int, rollouts: range, per_rollout: int, first: int, last: int
) -> Int[Tensor, "rollouts states"]:
    """Timesteps of the states of rollouts, one in every equal part of [first, last].

    Args:
        seed: of the draws.
        rollouts: their numbers; rollout r has the states r * per_rollout and on.
        per_rollout: states of each, and parts of the range.
        first: lowest timestep.
        last: highest timestep.
    """
    number = range(rollouts.start * per_rollout, rollouts.stop * per_rollout)
    uniform = np.array([np.random.default_rng([seed, _TIMESTEP_STREAM, n]).random() for n in number])
    place = (np.array(number) % per_rollout + uniform) / per_rollout
    timestep = first + np.floor(place * (last + 1 - first)).astype(np.int64)
    return torch.from_numpy(timestep).unflatten(0, (len(rollouts), per_rollout))


def noised_latents(
    backbone: Backbone,
    clean: Float[Tensor, "rollouts 4 h w"],
    seed: int,
    rollouts: range,
    timestep: Int[Tensor, "rollouts states"],
) -> Float[Tensor, "rollouts states 4 h w"]:
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise (Ho et al. 2020, eq. 4), float32 in main memory.

    Args:
        backbone: the frozen model, for its schedule.
        clean: x_0 of the rollouts.
        seed: of the noise.
        rollouts: their numbers.
        timestep: of their states.
    """
    per_rollout = timestep.shape[1]
    number = range(rollouts.start * per_rollout, rollouts.stop * per_rollout)
    seeds = [int(np.random.SeedSequence([seed, _NOISE_STREAM, n]).generate_state(1)[0]) for n in number]
    scheduler: Any = ddim_scheduler(backbone.scheduler)
    rows = clean.to("cpu", torch.float32).repeat_interleave(per_rollout, 0)
    noised = scheduler.add_noise(rows, initial_noise(backbone.latent_shape, seeds), timestep.flatten())
    return noised.unflatten(0, timestep.shape)
