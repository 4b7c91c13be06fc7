"""Where sampling starts and how it steps: noise per image, fresh schedulers, the rollout's scheduler."""

import inspect
from collections.abc import Sequence

import torch
from diffusers import DDIMScheduler, SchedulerMixin
from jaxtyping import Float
from torch import Tensor


def initial_noise(latent_shape: Sequence[int], seeds: Sequence[int]) -> Float[Tensor, "batch 4 h w"]:
    """Standard normal noise, one image per seed, float32 in main memory.

    An image's noise depends on its own seed only: not on the batch, the device, or any global state. It is what
    `StableDiffusionXLPipeline` draws from `generator=[torch.Generator().manual_seed(seed), ...]` in float32.
    """
    return torch.stack([torch.randn(*latent_shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def step_generators(latent_shape: Sequence[int], seeds: Sequence[int]) -> list[torch.Generator]:
    """One generator per image for schedulers that add noise at every step, standing right after the initial noise."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    for generator in generators:
        torch.randn(*latent_shape, generator=generator)
    return generators


def fresh_scheduler(scheduler: SchedulerMixin, num_inference_steps: int) -> SchedulerMixin:
    """A new scheduler of the same class and configuration, set to the steps.

    Its timesteps stay in main memory whatever the model's device, so that looking one up never waits for the device.
    """
    fresh = type(scheduler).from_config(scheduler.config)
    fresh.set_timesteps(num_inference_steps, device="cpu")
    if hasattr(fresh, "set_begin_index"):
        fresh.set_begin_index(0)
    return fresh


def takes_generator(scheduler: SchedulerMixin) -> bool:
    """Whether the scheduler's `step` can draw noise from a generator."""
    return "generator" in inspect.signature(scheduler.step).parameters


def ddim_scheduler(scheduler: SchedulerMixin) -> DDIMScheduler:
    """The deterministic scheduler of rollouts, with the checkpoint's own betas, spacing and prediction type.

    Its states are x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, which is what the UNet was trained on: a state needs
    no scaling before `predict_noise`. Nothing is clipped: latents are not bounded as pixels are.
    """
    return DDIMScheduler.from_config(scheduler.config, clip_sample=False, set_alpha_to_one=False, thresholding=False)
