"""The image-pair objective: eq. 6 of Concept Sliders, and what may be laid on it."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur


def odd_targets(
    pred_low: Float[Tensor, "pairs 4 h w"],
    pred_high: Float[Tensor, "pairs 4 h w"],
    target_low: Float[Tensor, "pairs 4 h w"],
    target_high: Float[Tensor, "pairs 4 h w"],
    scale_low: Float[Tensor, " pairs"],
    scale_high: Float[Tensor, " pairs"],
) -> tuple[Float[Tensor, "pairs 4 h w"], Float[Tensor, "pairs 4 h w"]]:
    """What eq. 6 asks of a slider beyond what the frozen model does, as targets in the form of eq. 4.

    Eq. 6 wants eps_s(x) = eps at both twins x_A, x_B, which were noised alike. The frozen model misses that by
    r(x) = eps - eps_0(x). A slider's change is odd in its scale, s * d(x), so it can only answer the part of r that
    differs between the twins (for a model that predicts the noise, the noise itself drops out of it):

        d = (r(x_B) - r(x_A)) / (s_B - s_A),    eps*(x) = eps_0(x) + s * d.

    The rest, what both twins have in common (this face, this background), is what a slider would have to learn by
    heart. At scale 0 the target is the frozen model.

    Args:
        pred_low: the frozen prediction at the twins of the lower scale.
        pred_high: that at their twins of the higher scale, with the same noise and timestep.
        target_low: what eq. 6 wants there: the noise, or the velocity for a model that predicts it.
        target_high: the same for the twins of the higher scale.
        scale_low: s_A.
        scale_high: s_B, above s_A.

    Returns:
        The targets of the lower and of the higher twins, fp32.
    """
    low, high = pred_low.float(), pred_high.float()
    shape = (-1, *[1] * (low.ndim - 1))
    s_low, s_high = scale_low.to(low).view(shape), scale_high.to(low).view(shape)
    direction = ((target_high.float() - high) - (target_low.float() - low)) / (s_high - s_low)
    return low + s_low * direction, high + s_high * direction


def difference_weights(
    low: Float[Tensor, "pairs 4 h w"], high: Float[Tensor, "pairs 4 h w"], floor: float, blur: float
) -> Float[Tensor, "pairs 1 h w"]:
    """Weights of latent pixels, large where the twins differ, with mean 1 over each pair.

    Args:
        low: clean latents of the one twin.
        high: clean latents of the other.
        floor: weight of a pixel in which they agree, against 1 where they differ most; in (0, 1].
        blur: deviation in latent pixels of the Gaussian that spreads the difference; 0 spreads nothing.
    """
    difference = (low - high).float().square().sum(1, keepdim=True).sqrt()
    # Reflection at the border needs a kernel that reaches less far than the image.
    reach = min(math.ceil(3 * blur), *(side - 1 for side in difference.shape[2:]))
    if reach > 0:
        difference = gaussian_blur(difference, [2 * reach + 1] * 2, [blur] * 2)
    largest = difference.amax((2, 3), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    weights = floor + (1 - floor) * difference / largest
    return weights / weights.mean((2, 3), keepdim=True)


def weighted_loss(
    noise_pred: Float[Tensor, "rows 4 h w"],
    target: Float[Tensor, "rows 4 h w"],
    weights: Float[Tensor, "rows 1 h w"] | None,
) -> Float[Tensor, ""]:
    """Mean squared error in fp32, pixels weighted where weights are given."""
    error = (noise_pred.float() - target.float()).square()
    return (error if weights is None else error * weights).mean()
