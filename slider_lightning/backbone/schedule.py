"""Where sampling starts and how it steps: noise per image, fresh schedulers, the rollout's scheduler."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import diffusers
import torch
from diffusers import DDIMScheduler, SchedulerMixin
from jaxtyping import Float
from torch import Tensor

from slider_lightning.errors import InputError

# What distilled few-step models are sampled with, beside those that every SDXL pipeline takes.
_FEW_STEP_SCHEDULERS = ("LCMScheduler", "TCDScheduler")
# These need noise levels or noise of their own, which SDXL checkpoints do not say and seeds do not decide.
_UNFIT_SCHEDULERS = ("DPMSolverSDEScheduler", "EDMEulerScheduler")


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


def named_scheduler(template: SchedulerMixin, name: str | None, settings: Mapping[str, Any]) -> SchedulerMixin:
    """Another scheduler for the same checkpoint: its class and some settings changed, the noise levels kept.

    Args:
        template: the checkpoint's own scheduler; it is returned as it is where nothing changes.
        name: a scheduler class of diffusers that SDXL's pipelines take; None keeps the template's.
        settings: values of its configuration that replace the template's.

    Raises:
        InputError: if there is no such scheduler for SDXL, or it has no such setting or value.
    """
    own = type(template).__name__
    if name in (None, own) and not settings:
        return template
    fit = {scheduler.__name__ for scheduler in template.compatibles} - set(_UNFIT_SCHEDULERS)
    known = sorted({*fit, *_FEW_STEP_SCHEDULERS, own})
    if name is not None and name not in known:
        raise InputError(f"Expected sampler.scheduler among {', '.join(known)}, but got {name!r}; choose one.")
    chosen: Any = getattr(diffusers, name or own)
    unknown = sorted(set(settings) - set(inspect.signature(chosen.__init__).parameters))
    if unknown:
        raise InputError(
            f"Expected sampler.scheduler_settings that {chosen.__name__} has, but it has no {', '.join(unknown)}."
        )
    try:
        return chosen.from_config(_known_to(chosen, template.config), **settings)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise InputError(f"Expected sampler.scheduler_settings for {chosen.__name__}, but it says: {error}.") from error


def _known_to(scheduler: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """What the scheduler knows of a checkpoint's configuration; latents are not bounded, so they are not clipped."""
    known = {"clip_sample": False, **config}
    parameters = inspect.signature(scheduler.__init__).parameters
    return {key: value for key, value in known.items() if key in parameters}


def fresh_scheduler(scheduler: SchedulerMixin, num_inference_steps: int) -> SchedulerMixin:
    """A new scheduler of the same class and configuration, set to the steps.

    Its timesteps stay in main memory whatever the model's device, so that looking one up never waits for the device.
    """
    fresh = type(scheduler).from_config(scheduler.config)
    fresh.set_timesteps(num_inference_steps, device="cpu")
    if hasattr(fresh, "set_begin_index"):
        fresh.set_begin_index(0)
    return fresh


def step_arguments(
    scheduler: SchedulerMixin, generators: Sequence[torch.Generator] | None, ddim_eta: float
) -> dict[str, Any]:
    """What `step` is given beside noise, timestep and latents: what it takes of these, as SDXL's pipeline does.

    Args:
        scheduler: takes the steps.
        generators: one per image, which draw the noise of schedulers that add some; None leaves it to the global state.
        ddim_eta: share of fresh noise, for schedulers that know such a share (DDIM, TCD).
    """
    parameters = inspect.signature(scheduler.step).parameters
    drawn = {} if generators is None else {"generator": list(generators)}
    return {key: value for key, value in {**drawn, "eta": ddim_eta}.items() if key in parameters}


def ddim_scheduler(scheduler: SchedulerMixin) -> DDIMScheduler:
    """The deterministic scheduler of rollouts, with the checkpoint's own betas, spacing and prediction type.

    Its states are x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, which is what the UNet was trained on: a state needs
    no scaling before `predict_noise`. Nothing is clipped: latents are not bounded as pixels are.
    """
    return DDIMScheduler.from_config(scheduler.config, clip_sample=False, set_alpha_to_one=False, thresholding=False)
