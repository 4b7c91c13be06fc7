"""The noise levels that a photograph is taken through, and the steps between them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from slider_lightning.backbone import Backbone, ddim_scheduler
from slider_lightning.errors import InputError

PREDICTED = ("epsilon", "v_prediction")


@dataclass(frozen=True)
class Levels:
    """The noise levels of an edit.

    Args:
        timesteps: of the steps, falling, at most `start_timestep`.
        alphas_cumprod: abar at every state: those of the timesteps, then the clean end's.
        velocity: whether the UNet predicts v instead of the noise.
    """

    timesteps: Int[Tensor, " steps"]
    alphas_cumprod: Float[Tensor, " states"]
    velocity: bool

    @classmethod
    def of(cls, backbone: Backbone, num_inference_steps: int, start_timestep: int) -> Levels:
        """The levels of the checkpoint's own schedule.

        Raises:
            InputError: if no step is left, or the checkpoint predicts something else than noise or v.
        """
        scheduler = ddim_scheduler(backbone.scheduler)
        if (predicted := scheduler.config.prediction_type) not in PREDICTED:
            raise InputError(f"Expected a model that predicts {' or '.join(PREDICTED)}, but it predicts {predicted}.")
        scheduler.set_timesteps(num_inference_steps)
        timesteps = scheduler.timesteps[scheduler.timesteps <= start_timestep]
        if not len(timesteps):
            raise InputError(
                f"Expected a step at or below start_timestep {start_timestep}, but the lowest of {num_inference_steps} "
                f"steps is {int(scheduler.timesteps[-1])}; raise start_timestep or num_inference_steps."
            )
        alphas_cumprod = torch.cat([scheduler.alphas_cumprod[timesteps], scheduler.final_alpha_cumprod.view(1)])
        return cls(timesteps, alphas_cumprod, predicted == "v_prediction")

    def __len__(self) -> int:
        """The number of steps."""
        return len(self.timesteps)

    def mean(
        self,
        latents: Float[Tensor, "*rows 4 h w"],
        noise_pred: Float[Tensor, "*rows 4 h w"],
        step: int,
        ddim_eta: float,
    ) -> Float[Tensor, "*rows 4 h w"]:
        """The mean of the next state, less noisy (DDIM, eq. 12): `ddim_eta` 0 is DDIM, 1 is DDPM."""
        here, there = self.alphas_cumprod[step], self.alphas_cumprod[step + 1]
        variance = ddim_eta**2 * (1 - there) / (1 - here) * (1 - here / there)
        return self._moved(latents, noise_pred, here, there, (1 - there - variance).clamp_min(0).sqrt())

    def back(
        self, latents: Float[Tensor, "*rows 4 h w"], noise_pred: Float[Tensor, "*rows 4 h w"], step: int
    ) -> Float[Tensor, "*rows 4 h w"]:
        """The state that a DDIM step with this prediction leads from to `latents`; the inverse of `mean`.

        The prediction is one at the noisier state's timestep.
        """
        here, there = self.alphas_cumprod[step], self.alphas_cumprod[step + 1]
        if not self.velocity:
            return self._moved(latents, noise_pred, there, here, (1 - here).sqrt())
        # x_there = cos(d) x_here - sin(d) v, with d the difference of the angles whose cosines are sqrt(abar).
        cosine = (here * there).sqrt() + ((1 - here) * (1 - there)).sqrt()
        sine = ((1 - here) * there).sqrt() - (here * (1 - there)).sqrt()
        return (latents + sine * noise_pred) / cosine

    def noised(
        self, latents: Float[Tensor, "*rows 4 h w"], noise: Float[Tensor, "*rows 4 h w"], step: int
    ) -> Float[Tensor, "*rows 4 h w"]:
        """x = sqrt(abar) x_0 + sqrt(1 - abar) eps."""
        alpha = self.alphas_cumprod[step]
        return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise

    def _moved(self, latents: Tensor, noise_pred: Tensor, here: Tensor, there: Tensor, noise_scale: Tensor) -> Tensor:
        """sqrt(abar_there) x_0 + noise_scale eps, with the x_0 and the eps that the prediction says of `latents`."""
        if self.velocity:
            clean = here.sqrt() * latents - (1 - here).sqrt() * noise_pred
            noise = here.sqrt() * noise_pred + (1 - here).sqrt() * latents
        else:
            clean = (latents - (1 - here).sqrt() * noise_pred) / here.sqrt()
            noise = noise_pred
        return there.sqrt() * clean + noise_scale * noise
