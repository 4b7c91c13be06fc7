"""How images are sampled: steps, guidance, scheduler, and when and where sliders act."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from diffusers import SchedulerMixin
from jaxtyping import Float
from torch import Tensor

from slider_lightning.backbone.schedule import fresh_scheduler, named_scheduler
from slider_lightning.errors import InputError

FOLDING = ("exact", "always", "never")
SLIDER_ON = ("both", "conditional")
Knots = Mapping[float, float]


@dataclass(frozen=True)
class SamplerConfig:
    """How images are sampled.

    Args:
        num_inference_steps: steps of the scheduler, at least 1.
        guidance_scale: classifier-free guidance; at 1 or below no unconditional half is computed.
        start_timestep: the slider is off while the timestep is above it, and on from there; 1000 means always on.
        fold: when scales that rows share are folded into the weights, which costs the same for any number of sliders.
            "exact": in fp32, where images are the hooks' to rounding, and for enough rows to be faster. "always": in
            any precision and for any number of rows; half precision rounds W0 + dW to the weight's few digits, which
            loses the smallest changes and gives slightly other images than the hooks. "never": by hooks alone.
        schedule: timestep to the factor that scales are multiplied with there, linear between the timesteps given and
            constant beyond them; one for all sliders, or a list with one for each (null: 1 everywhere).
            `start_timestep` holds beside it.
        slider_on: which half of guidance sees the slider: "both", or "conditional" alone, the unconditional prediction
            then being the frozen model's. That half cannot be folded.
        scheduler: class of diffusers that replaces the checkpoint's own scheduler, with the checkpoint's noise levels;
            None keeps it.
        ddim_eta: share of fresh noise at every step, for schedulers that know such a share (DDIM, TCD); 0..1.
        scheduler_settings: what else changes of the scheduler's configuration, e.g. {timestep_spacing: trailing}.

    Raises:
        InputError: if a value is out of range.
    """

    num_inference_steps: int = 25
    guidance_scale: float = 4.0
    start_timestep: int = 750
    fold: str = "exact"
    schedule: Knots | tuple[Knots | None, ...] | None = None
    slider_on: str = "both"
    scheduler: str | None = None
    ddim_eta: float = 0.0
    scheduler_settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.num_inference_steps < 1:
            raise InputError(
                f"Expected num_inference_steps to be at least 1, but got {self.num_inference_steps}; raise it."
            )
        if self.guidance_scale < 0:
            raise InputError(f"Expected guidance_scale to be 0 or more, but got {self.guidance_scale}; raise it.")
        if not 0 <= self.start_timestep <= 1000:
            raise InputError(
                f"Expected start_timestep to lie in 0..1000, but got {self.start_timestep}; 750 is common."
            )
        if self.fold not in FOLDING:
            raise InputError(f"Expected fold to be one of {', '.join(FOLDING)}, but got {self.fold!r}; try exact.")
        if self.slider_on not in SLIDER_ON:
            raise InputError(f"Expected slider_on to be one of {', '.join(SLIDER_ON)}, but got {self.slider_on!r}.")
        if self.fold == "always" and not self.slider_in_both_halves:
            raise InputError(
                "Expected fold=exact or never with slider_on=conditional, whose halves have other weights, but got "
                "always; change one."
            )
        if not 0 <= self.ddim_eta <= 1:
            raise InputError(f"Expected ddim_eta to lie in 0..1, but got {self.ddim_eta}; 0 draws no noise.")
        for knots in self._schedules():
            _check_knots(knots)

    @property
    def slider_in_both_halves(self) -> bool:
        """Whether one UNet call has the sliders on all its rows."""
        return self.slider_on == "both" or self.guidance_scale <= 1

    def scheduler_for(self, template: SchedulerMixin) -> SchedulerMixin:
        """A new scheduler, set to the steps, for a checkpoint whose own scheduler is `template`.

        Raises:
            InputError: if the scheduler named is none for SDXL, or has no such setting.
        """
        chosen = named_scheduler(template, self.scheduler, self.scheduler_settings)
        return fresh_scheduler(chosen, self.num_inference_steps)

    def strengths(self, timesteps: Float[Tensor, " steps"], num_sliders: int) -> Float[Tensor, "steps sliders"]:
        """What the slider scales are multiplied with at every step; 0 above `start_timestep`.

        Raises:
            InputError: if the schedules are not one for each slider.
        """
        schedules = self._schedules()
        if isinstance(self.schedule, tuple) and len(schedules) != num_sliders:
            raise InputError(
                f"Expected one sampler.schedule for all sliders or one for each of {num_sliders}, but got "
                f"{len(schedules)}; use null where the scale stays as it is."
            )
        at = timesteps.double().numpy()
        columns = [_interpolated(knots, at) for knots in schedules]
        factors = torch.stack(columns * (1 if isinstance(self.schedule, tuple) else num_sliders), dim=1)
        return torch.where(timesteps[:, None] <= self.start_timestep, factors, 0.0)

    def _schedules(self) -> tuple[Knots | None, ...]:
        return self.schedule if isinstance(self.schedule, tuple) else (self.schedule,)


def _interpolated(knots: Knots | None, timesteps: np.ndarray) -> Float[Tensor, " steps"]:
    if knots is None:
        return torch.ones(len(timesteps))
    places = sorted(knots)
    return torch.from_numpy(np.interp(timesteps, places, [knots[place] for place in places])).float()


def _check_knots(knots: Knots | None) -> None:
    if knots is None:
        return
    in_range = bool(knots) and all(0 <= timestep <= 1000 for timestep in knots)
    if not in_range or not np.isfinite(list(knots.values())).all():
        raise InputError(
            f"Expected sampler.schedule to map timesteps in 0..1000 to finite factors, but got {dict(knots)}; write "
            "for instance {750: 0, 500: 1}."
        )
