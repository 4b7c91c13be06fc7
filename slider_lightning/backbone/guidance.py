"""Classifier-free guidance."""

from jaxtyping import Float
from torch import Tensor


def classifier_free_guidance(
    noise_uncond: Float[Tensor, "*shape"],
    noise_cond: Float[Tensor, "*shape"],
    guidance_scale: float,
) -> Float[Tensor, "*shape"]:
    """eps = eps_uncond + guidance_scale * (eps_cond - eps_uncond) (Ho and Salimans 2022, as diffusers writes it)."""
    return noise_uncond + guidance_scale * (noise_cond - noise_uncond)
