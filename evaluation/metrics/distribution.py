"""FID and KID: distances between two sets of images, as pure functions of their features.

Over batches and processes the classes of torchmetrics do it, fed with a judge of `evaluation.judges.features`:
`FrechetInceptionDistance(feature=judge, normalize=True)` and `KernelInceptionDistance(feature=judge, normalize=True,
subset_size=n)`. They give no interval, and their KID draws random subsets from global state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.image.kid import poly_kernel

from evaluation.statistics import Measure
from slider_lightning.errors import InputError

RESAMPLES = 400
BOOTSTRAP_SEED = 20170626

SetDistance = Callable[[Tensor, Tensor], Tensor]


def frechet_distance(first: Float[Tensor, "n dim"], second: Float[Tensor, "m dim"]) -> Float[Tensor, ""]:
    """Frechet distance of the Gaussians fitted to two sets of features: FID where they are Inception's.

    |mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)) (Heusel et al. 2017, eq. 6), S being the unbiased covariances.
    With S_1 = A^T A and S_2 = B^T B the trace of the root is the sum of the singular values of A B^T, which needs no
    root of a singular matrix and so is exact where there are fewer images than dimensions.

    The estimate is biased upwards, by more the fewer images there are, and strongly below as many images as dimensions:
    compare only distances over equal numbers of images, and print the number.

    Returns:
        The distance in double precision, at least 0.

    Raises:
        InputError: If a set has fewer than 2 images.
        ValueError: If the features do not fit each other or are not finite.
    """
    first, second = _checked(first, second)
    gap = (first.mean(0) - second.mean(0)).square().sum()
    a, b = _covariance_root(first), _covariance_root(second)
    shared = torch.linalg.svdvals(a @ b.T).sum()
    return (gap + a.square().sum() + b.square().sum() - 2 * shared).clamp_min(0)


def kernel_distance(first: Float[Tensor, "n dim"], second: Float[Tensor, "m dim"]) -> Float[Tensor, ""]:
    """Squared maximum mean discrepancy under the kernel (x.y / dim + 1)^3: KID where the features are Inception's.

    The unbiased estimate over all pairs of images (Binkowski et al. 2018, eq. 4), not its mean over random subsets:
    same expectation, less noise, no dice. It may fall below 0.

    Returns:
        The distance in double precision.

    Raises:
        InputError: If a set has fewer than 2 images.
        ValueError: If the features do not fit each other or are not finite.
    """
    first, second = _checked(first, second)
    return _mean_of_pairs(first) + _mean_of_pairs(second) - 2 * poly_kernel(first, second).mean()


def distance_measure(
    distance: SetDistance,
    generated: Float[Tensor, "n dim"],
    reference: Float[Tensor, "m dim"],
    resamples: int = RESAMPLES,
) -> Measure:
    """A distance with its bootstrap interval over the images of both sets.

    Resampled sets repeat images, which raises either distance; the resamples' spread is therefore laid around the
    estimate itself: estimate + (quantile - mean of the resamples). The interval is for the expectation of the estimate
    at this number of images, whose bias it cannot see.

    Args:
        distance: `frechet_distance` or `kernel_distance`.
        generated: Features of the images in question.
        reference: Features of the reference set.
        resamples: How often both sets are drawn again; each costs one distance.

    Returns:
        The measure; `n` is the number of generated images.

    Raises:
        InputError: If a set has fewer than 2 images.
        ValueError: If the features do not fit each other or are not finite.
    """

    def statistic(rows: Tensor, reference_rows: Tensor) -> Tensor:
        return distance(generated[rows], reference[reference_rows])

    return _centered_bootstrap(statistic, (len(generated), len(reference)), resamples)


def distance_change(
    distance: SetDistance,
    edited: Float[Tensor, "n dim"],
    original: Float[Tensor, "n dim"],
    reference: Float[Tensor, "m dim"],
    resamples: int = RESAMPLES,
) -> Measure:
    """How an edit changes the distance to a reference: distance(edited) - distance(original), negative where it nears.

    The interval is paired: edited and original images of a row, and the reference, are resampled together.

    Args:
        distance: `frechet_distance` or `kernel_distance`.
        edited: Features of edited images.
        original: Features of the images that they were made from, in the same order.
        reference: Features of the reference set.
        resamples: As of `distance_measure`.

    Raises:
        InputError: If a set has fewer than 2 images.
        ValueError: If the features do not fit each other or are not finite.
    """
    if edited.shape != original.shape:
        raise ValueError(f"Expected paired features, but got {tuple(edited.shape)} and {tuple(original.shape)}.")

    def statistic(rows: Tensor, reference_rows: Tensor) -> Tensor:
        target = reference[reference_rows]
        return distance(edited[rows], target) - distance(original[rows], target)

    return _centered_bootstrap(statistic, (len(edited), len(reference)), resamples)


def _centered_bootstrap(
    statistic: Callable[[Tensor, Tensor], Tensor], sizes: tuple[int, int], resamples: int
) -> Measure:
    value = float(statistic(torch.arange(sizes[0]), torch.arange(sizes[1])))
    generator = torch.Generator().manual_seed(BOOTSTRAP_SEED)
    draws = [[torch.randint(size, (size,), generator=generator) for size in sizes] for _ in range(resamples)]
    spread = torch.stack([statistic(*rows).cpu() for rows in draws]).double()
    ends = torch.tensor([0.025, 0.975], dtype=torch.double)
    low, high = (value + spread.quantile(ends) - spread.mean()).tolist()
    return Measure(value, (low, high), sizes[0])


def _covariance_root(features: Float[Tensor, "n dim"]) -> Float[Tensor, "k dim"]:
    """A with A^T A = the unbiased covariance of the features, in no more than dim rows."""
    centered = (features - features.mean(0)) / math.sqrt(len(features) - 1)
    return centered if len(features) <= features.shape[1] else torch.linalg.qr(centered, mode="r").R


def _mean_of_pairs(features: Float[Tensor, "n dim"]) -> Float[Tensor, ""]:
    """Mean of the kernel over all pairs of different images."""
    kernel = poly_kernel(features, features)
    return (kernel.sum() - kernel.trace()) / (len(features) * (len(features) - 1))


def _checked(*sets: Tensor) -> Sequence[Tensor]:
    if any(features.ndim != 2 for features in sets) or len({features.shape[1] for features in sets}) != 1:
        shapes = " and ".join(str(tuple(features.shape)) for features in sets)
        raise ValueError(f"Expected features of shapes (n, dim) and (m, dim), but got {shapes}.")
    for features in sets:
        if len(features) < 2:
            raise InputError(
                f"Expected at least 2 images in each set to compare two sets, but got {len(features)}; give more."
            )
        bad = ~features.isfinite().all(1)
        if bad.any():
            raise ValueError(f"Expected finite features, but images {bad.nonzero().flatten().tolist()} have others.")
    return [features.double() for features in sets]
