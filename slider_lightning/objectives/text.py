"""The text objective: eq. 3 and 4 of Concept Sliders, trained at both poles of the slider."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from slider_lightning.config.objective import Mode, Reduction, TextObjective
from slider_lightning.objectives.posterior import posterior_weights
from slider_lightning.objectives.projection import project_out


def slider_direction(
    eps_target: Float[Tensor, "batch ..."],
    eps_positive: Float[Tensor, "batch preserved ..."],
    eps_negative: Float[Tensor, "batch preserved ..."],
    reduction: Reduction = "sum",
) -> Float[Tensor, "batch ..."]:
    """The direction of eq. 4, sum_p (eps(x, (c+, p), t) - eps(x, (c-, p), t)); of eq. 3 when p is one pair of prompts.

    The published sum and the mean lead every state along all preserved concepts alike, also along those that it does
    not show. "posterior" weighs each by how far the state is on its way to show it (`posterior_weights`, at the
    midpoint of the two poles), so that the edit of a man's image is that of men.

    Args:
        eps_target: eps(x, c_t, t), read by "posterior" alone.
        eps_positive: eps(x, (c+, p), t), one for every preserved concept p.
        eps_negative: eps(x, (c-, p), t), in the same order.
        reduction: "sum" over p as published; "mean" keeps eta comparable between sets of different size; "posterior"
            is a weighted mean.
    """
    positive, negative = eps_positive.float(), eps_negative.float()
    match reduction:
        case "sum":
            return (positive - negative).sum(dim=1)
        case "mean":
            return (positive - negative).mean(dim=1)
        case "posterior":
            weights = posterior_weights(eps_target, (positive + negative) / 2)
            return ((positive - negative) * weights.view(*weights.shape, *[1] * (positive.ndim - 2))).sum(dim=1)


def slider_target(
    eps_target: Float[Tensor, "batch ..."],
    direction: Float[Tensor, "batch ..."],
    scale: Float[Tensor, " batch"],
    eta: float,
    mode: Mode = "enhance",
) -> Float[Tensor, "batch ..."]:
    """What the model with the slider at `scale` should predict (eq. 3 and 4, by the direction).

    eps* = eps(x, c_t, t) + s * eta * direction

    The paper's target is the case s = 1. The extra factor makes the edit proportional to the knob, so a slider that
    meets it responds evenly over its range and has a negative side that was trained, not extrapolated.

    Args:
        eps_target: eps(x, c_t, t) of the frozen model.
        direction: `slider_direction`.
        scale: signed slider scale s of every row; may lie in main memory.
        eta: strength of the edit, above 0.
        mode: "erase" turns the direction round.
    """
    signed_eta = eta if mode == "enhance" else -eta
    strength = (signed_eta * scale.float()).to(direction.device, non_blocking=True)
    return eps_target.float() + strength.view(-1, *[1] * (eps_target.ndim - 1)) * direction


@dataclass(frozen=True)
class PoleRows:
    """One state in two rows: the first half of the batch at +s, the second half at -s."""

    latents: Float[Tensor, "rows 4 h w"]
    timestep: Int[Tensor, " rows"]
    scale: Float[Tensor, " rows"]
    target: Float[Tensor, "rows 4 h w"]


def text_direction(
    objective: TextObjective,
    eps_target: Float[Tensor, "batch 4 h w"],
    eps_positive: Float[Tensor, "batch preserved 4 h w"],
    eps_negative: Float[Tensor, "batch preserved 4 h w"],
    eps_contrast_positive: Float[Tensor, "batch contrasts 4 h w"],
    eps_contrast_negative: Float[Tensor, "batch contrasts 4 h w"],
) -> Float[Tensor, "batch 4 h w"]:
    """Where the slider should lead at every state, before eta: eq. 4's direction, projected if so set.

    Args:
        objective: the reduction, and the projection.
        eps_target: frozen eps(x_t, c_t, t).
        eps_positive: frozen eps(x_t, (c+, p), t).
        eps_negative: frozen eps(x_t, (c-, p), t).
        eps_contrast_positive: frozen eps(x_t, q+, t) of every contrast.
        eps_contrast_negative: frozen eps(x_t, q-, t), in the same order.
    """
    direction = slider_direction(eps_target, eps_positive, eps_negative, objective.reduction)
    if objective.project is None:
        return direction
    return project_out(objective.project, direction, eps_contrast_positive.float() - eps_contrast_negative.float())


def both_poles(
    objective: TextObjective,
    latents: Float[Tensor, "batch 4 h w"],
    timestep: Int[Tensor, " batch"],
    eps_target: Float[Tensor, "batch 4 h w"],
    direction: Float[Tensor, "batch 4 h w"],
    scale: Float[Tensor, " batch"],
) -> PoleRows:
    """The rows of one training step: every state at +s and at -s, with the target of each.

    Args:
        objective: eta and mode.
        latents: states x_t.
        timestep: the timestep each state is at, 0..999.
        eps_target: frozen eps(x_t, c_t, t).
        direction: `text_direction` of the states.
        scale: s of every state, at least 0.
    """
    signed = torch.cat([scale, -scale])
    targets = [slider_target(eps_target, direction, pole, objective.eta, objective.mode) for pole in (scale, -scale)]
    return PoleRows(torch.cat([latents, latents]), torch.cat([timestep, timestep]), signed, torch.cat(targets))
