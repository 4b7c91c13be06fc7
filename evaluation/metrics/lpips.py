"""LPIPS (Zhang et al. 2018) by torchmetrics' network."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from evaluation.judges.preprocess import check_images, in_batches
from slider_lightning.errors import InputError

SMALLEST_SIDE = 31  # below it AlexNet's pooling has nothing left to pool
BATCH_SIZE = 16


def lpips(
    first: Float[Tensor, "n 3 h w"], second: Float[Tensor, "n 3 h w"], network: nn.Module, size: int | None = None
) -> Float[Tensor, " n"]:
    """LPIPS of each pair of images: at least 0, and 0 for equal images.

    d(x, y) = sum over layers l of mean over pixels of sum over channels c of w_lc (x_lc / |x_l| - y_lc / |y_l|)^2,
    x_l being the activations of layer l (Zhang et al. 2018, eq. 1).

    Args:
        first: Images in [0, 1].
        second: Images in [0, 1] of the same size.
        network: Maps two batches of images in [-1, 1] to (n, 1, 1, 1) distances, as that of
            `evaluation.judges.lpips.lpips_network` does.
        size: Side in pixels that both are resized to (bilinear, antialiased as Pillow's resize); None leaves them as
            they are. LPIPS at another size is another measure: the paper's is at 64 (REFERENCE.md).

    Raises:
        InputError: If the images are smaller than the network can read.
        ValueError: If the batches do not fit each other, leave [0, 1] or hold NaN.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"Expected two batches of equal shape, but got {tuple(first.shape)} and {tuple(second.shape)}."
        )
    check_images(first)
    check_images(second)
    side = size or min(first.shape[-2:])
    if side < SMALLEST_SIDE:
        raise InputError(f"Expected images of {SMALLEST_SIDE} px or more for LPIPS, but got {side} px; enlarge them.")

    def compare(x: Tensor, y: Tensor) -> Tensor:
        distances: Tensor = network(_pixels(x, network, size), _pixels(y, network, size))
        return distances.flatten()

    return in_batches(compare, first, second, batch_size=BATCH_SIZE)


def _pixels(images: Tensor, network: nn.Module, size: int | None) -> Tensor:
    """Images in [0, 1] as the network reads them: its own device and precision, resized, in [-1, 1]."""
    images = images.to(next(network.parameters()))
    if size is not None and tuple(images.shape[-2:]) != (size, size):
        images = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True).clamp(0, 1)
    return 2 * images - 1


class LPIPS(Metric):
    """Mean LPIPS over pairs of images.

    Args:
        network: As of `lpips`.
        size: As of `lpips`.
        kwargs: Of `torchmetrics.Metric`.
    """

    higher_is_better = False
    is_differentiable = False
    full_state_update = False
    distances: list[Tensor]

    def __init__(self, network: nn.Module, size: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = network
        self.size = size
        self.add_state("distances", default=[], dist_reduce_fx="cat")

    def update(self, first: Float[Tensor, "n 3 h w"], second: Float[Tensor, "n 3 h w"]) -> None:
        """Adds pairs of images in [0, 1]; errors as of `lpips`."""
        self.distances.append(lpips(first, second, self.network, self.size))

    def per_image(self) -> Float[Tensor, " n"]:
        """The distance of every pair so far.

        Raises:
            InputError: If there is none.
        """
        if not len(self.distances):
            raise InputError("Expected pairs of images to measure LPIPS of, but got none; give at least one.")
        return dim_zero_cat(self.distances)

    def compute(self) -> dict[str, Tensor]:
        """`lpips`, the mean over all pairs, and `n`, their number."""
        distances = self.per_image()
        return {"lpips": distances.mean(), "n": distances.new_tensor(len(distances)).long()}
