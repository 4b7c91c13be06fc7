"""The text objective: eq. 3 and 4 of Concept Sliders, trained at both poles of the slider."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from slider_lightning.errors import InputError

Reduction = Literal["sum", "mean"]
Mode = Literal["enhance", "erase"]


def slider_target(
    eps_target: Float[Tensor, "batch ..."],
    eps_positive: Float[Tensor, "batch preserved ..."],
    eps_negative: Float[Tensor, "batch preserved ..."],
    scale: Float[Tensor, " batch"],
    eta: float,
    reduction: Reduction = "sum",
    mode: Mode = "enhance",
) -> Float[Tensor, "batch ..."]:
    """What the model with the slider at `scale` should predict (eq. 4; eq. 3 when one pair of prompts is given).

    eps* = eps(x, c_t, t) + s * eta * sum_p (eps(x, (c+, p), t) - eps(x, (c-, p), t))

    Eq. 4 is the case s = 1. The extra factor makes the direction proportional to the knob, so a slider that meets
    it responds evenly over its range and has a negative side that was trained, not extrapolated.

    Args:
        eps_target: eps(x, c_t, t) of the frozen model.
        eps_positive: eps(x, (c+, p), t), one for every preserved concept p.
        eps_negative: eps(x, (c-, p), t), in the same order.
        scale: signed slider scale s of every row; may lie in main memory.
        eta: strength of the edit, above 0.
        reduction: "sum" over p as published; "mean" keeps eta comparable between sets of different size.
        mode: "erase" turns the direction round.
    """
    differences = eps_positive.float() - eps_negative.float()
    direction = differences.sum(dim=1) if reduction == "sum" else differences.mean(dim=1)
    signed_eta = eta if mode == "enhance" else -eta
    strength = (signed_eta * scale.float()).to(direction.device, non_blocking=True)
    return eps_target.float() + strength.view(-1, *[1] * (eps_target.ndim - 1)) * direction


def slider_loss(noise_pred: Float[Tensor, "batch ..."], target: Float[Tensor, "batch ..."]) -> Float[Tensor, ""]:
    """Mean squared error in fp32, whatever the dtype of the backbone."""
    return F.mse_loss(noise_pred.float(), target.float())


@dataclass(frozen=True)
class PoleRows:
    """One state in two rows: the first half of the batch at +s, the second half at -s."""

    latents: Float[Tensor, "rows 4 h w"]
    timestep: Int[Tensor, " rows"]
    scale: Float[Tensor, " rows"]
    target: Float[Tensor, "rows 4 h w"]


@dataclass(frozen=True)
class TextObjective:
    """Settings of eq. 4.

    Args:
        eta: strength of the edit, above 0.
        reduction: "sum" (published) or "mean" over the preserved concepts.
        mode: "enhance", or "erase" for the opposite direction.

    Raises:
        InputError: if eta is not above 0, or reduction or mode is unknown.
    """

    eta: float = 2.0
    reduction: Reduction = "sum"
    mode: Mode = "enhance"

    def __post_init__(self) -> None:
        if not self.eta > 0:
            raise InputError(
                f"Expected objective.eta to be above 0, but got {self.eta}; to turn the concept down, keep eta above 0 "
                "and set objective.mode=erase."
            )
        for field, known in (("reduction", get_args(Reduction)), ("mode", get_args(Mode))):
            if (value := getattr(self, field)) not in known:
                names = ", ".join(known)
                raise InputError(f"Expected objective.{field} to be one of {names}, but got {value!r}; choose one.")

    def both_poles(
        self,
        latents: Float[Tensor, "batch 4 h w"],
        timestep: Int[Tensor, " batch"],
        eps_target: Float[Tensor, "batch 4 h w"],
        eps_positive: Float[Tensor, "batch preserved 4 h w"],
        eps_negative: Float[Tensor, "batch preserved 4 h w"],
        scale: Float[Tensor, " batch"],
    ) -> PoleRows:
        """The rows of one training step: every state at +s and at -s, with the target of each.

        Args:
            latents: states x_t.
            timestep: the timestep each state is at, 0..999.
            eps_target: frozen eps(x_t, c_t, t).
            eps_positive: frozen eps(x_t, (c+, p), t).
            eps_negative: frozen eps(x_t, (c-, p), t).
            scale: s of every state, at least 0.
        """
        signed = torch.cat([scale, -scale])
        targets = [
            slider_target(eps_target, eps_positive, eps_negative, pole, self.eta, self.reduction, self.mode)
            for pole in (scale, -scale)
        ]
        return PoleRows(torch.cat([latents, latents]), torch.cat([timestep, timestep]), signed, torch.cat(targets))
