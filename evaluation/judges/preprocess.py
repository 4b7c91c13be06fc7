"""From images in [0, 1] to what a network was trained on, and back in batches of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

BATCH_SIZE = 64


def check_images(images: Tensor) -> None:
    """Refuses what is no batch of RGB images in [0, 1].

    Raises:
        ValueError: If the shape is not (n, 3, height, width) with n of 1 or more, or a value is outside [0, 1] or not
            finite.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not len(images):
        raise ValueError(f"Expected images of shape (n, 3, height, width), n >= 1, but got {tuple(images.shape)}.")
    rows = images.flatten(1)
    outside = ~((rows >= 0) & (rows <= 1)).all(1)
    if outside.any():
        raise ValueError(
            f"Expected images in [0, 1], but images {outside.nonzero().flatten().tolist()} leave the range or hold NaN."
        )


def normalize(
    images: Float[Tensor, "n 3 height width"],
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str = "bilinear",
) -> Float[Tensor, "n 3 out_height out_width"]:
    """Resizes images in [0, 1] (antialiased) to `size` (height, width) and takes (x - mean) / std."""
    if tuple(images.shape[-2:]) != tuple(size):
        images = F.interpolate(images, size=size, mode=interpolation, antialias=True).clamp(0, 1)
    shape = (1, 3, 1, 1)
    center = torch.tensor(list(mean), dtype=images.dtype, device=images.device).view(shape)
    spread = torch.tensor(list(std), dtype=images.dtype, device=images.device).view(shape)
    return (images - center) / spread


@torch.no_grad()
def in_batches(read: Callable[..., Tensor], *inputs: Tensor, batch_size: int = BATCH_SIZE) -> Tensor:
    """`read` over chunks of at most `batch_size` rows of all `inputs`, joined again on the inputs' device."""
    chunks = zip(*(rows.split(batch_size) for rows in inputs), strict=True)
    return torch.cat([read(*chunk).to(inputs[0].device) for chunk in chunks])
