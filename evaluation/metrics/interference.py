"""Interference: how often an edit changes the class of an attribute that it should leave alone.

A sweep of a class attribute is its probabilities (rows, scales, classes): one row per prompt and seed, one column per
scale. An image flips where its most probable class differs from that of its row's image at scale 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import Metric

from evaluation.statistics import Measure, bootstrap, bootstrap_mean
from slider_lightning.errors import InputError

ANY = "any"


@dataclass(frozen=True)
class FlipShares:
    """Shares of the edited images that flip, with intervals over the rows; n counts images.

    Args:
        any: In at least one protected attribute.
        attributes: Per protected attribute.
    """

    any: Measure
    attributes: dict[str, Measure]


@dataclass(frozen=True)
class InterferenceAtEffect:
    """Interference where the slider reaches a given size of effect.

    Args:
        effect: The size of effect asked for, from -scale to +scale.
        largest_effect: The largest effect of all pairs of scales.
        interference: Share of images that flip there; None if the slider never reaches the effect.
        scale: The scale that reaches it; None if none does.
    """

    effect: float
    largest_effect: Measure
    interference: Measure | None
    scale: Measure | None


def flipped(
    edited: Float[Tensor, "*images classes"], original: Float[Tensor, "*images classes"]
) -> Bool[Tensor, "*images"]:
    """Where the most probable class of two images differs."""
    return edited.argmax(-1) != original.argmax(-1)


def flips(
    probabilities: Mapping[str, Float[Tensor, "rows scales classes"]], scales: Sequence[float]
) -> dict[str, Bool[Tensor, "rows scales"]]:
    """Where each attribute flips against scale 0.

    Args:
        probabilities: Protected attribute to the probabilities of its classes.
        scales: Scales of the columns, 0 among them.

    Raises:
        InputError: If there is no attribute, or no scale 0.
        ValueError: If probabilities do not fit the scales, or are not finite; the message lists the rows.
    """
    if not probabilities or 0 not in scales:
        raise InputError(
            f"Expected at least one protected attribute and scales with 0 among them, but got {list(probabilities)} "
            f"and {list(scales)}; give both."
        )
    zero = list(scales).index(0)
    for name, values in probabilities.items():
        if values.ndim != 3 or values.shape[1] != len(scales):
            raise ValueError(
                f"Expected probabilities of '{name}' as (rows, {len(scales)} scales, classes), but got "
                f"{tuple(values.shape)}."
            )
        bad = ~values.isfinite().flatten(1).all(1)
        if bad.any():
            raise ValueError(
                f"Expected finite probabilities of '{name}', but rows {bad.nonzero().flatten().tolist()} are not."
            )
    return {name: flipped(values, values[:, zero, None]) for name, values in probabilities.items()}


def any_flip(flips: Mapping[str, Bool[Tensor, "rows scales"]]) -> Bool[Tensor, "rows scales"]:
    """Where at least one attribute flips."""
    return torch.stack(list(flips.values())).any(0)


def interference(
    probabilities: Mapping[str, Float[Tensor, "rows scales classes"]], scales: Sequence[float]
) -> FlipShares:
    """Share of the edited images (every scale but 0) that flip (REFERENCE.md, Evaluation protocol).

    Args:
        probabilities: Protected attribute to the probabilities of its classes.
        scales: Scales of the columns, 0 among them.

    Raises:
        InputError: If there is no attribute, no scale 0, or fewer than 2 rows.
        ValueError: If probabilities do not fit the scales, or are not finite.
    """
    where = flips(probabilities, scales)
    edited = [column for column, scale in enumerate(scales) if scale != 0]
    return FlipShares(
        any=bootstrap_mean(any_flip(where)[:, edited].double()),
        attributes={name: bootstrap_mean(rows[:, edited].double()) for name, rows in where.items()},
    )


def interference_at_effect(
    effect: Float[Tensor, "rows scales"], flips: Bool[Tensor, "rows scales"], scales: Sequence[float], wanted: float
) -> InterferenceAtEffect:
    """Interference at a given size of effect, so that sliders of different strength compare.

    The effect of a pair of scales -s and +s is the mean change of the attribute between them; its interference is the
    share of the images at both that flip; at s = 0 both are 0. Between pairs both are linear in s; the figure is that
    at the smallest s whose effect is the wanted one. The interval resamples rows, effect and flips together; a
    resample that does not reach the effect counts with its outermost pair.

    Args:
        effect: What the slider is meant to move, in standard deviations.
        flips: Where an image flips.
        scales: Strictly increasing, 0 among them; scales without their negative are not used.
        wanted: The effect from -s to +s, in standard deviations, above 0.

    Returns:
        With None for interference and scale where the slider never reaches the effect.

    Raises:
        InputError: If there is no pair of scales, the effect is not above 0, or there are fewer than 2 rows.
        ValueError: If effect and flips do not fit the scales.
    """
    if wanted <= 0:
        raise InputError(f"Expected an effect above 0, but got {wanted}; raise it.")
    return _at_effect(effect_curves(effect, flips, scales), wanted)


def effect_curves(
    effect: Float[Tensor, "rows scales"], flips: Bool[Tensor, "rows scales"], scales: Sequence[float]
) -> Float[Tensor, "rows 3 points"]:
    """Effect, share of flips and scale of each row along 0 and the pairs of scales -s and +s, s increasing.

    Args:
        effect: What the slider is meant to move, in standard deviations.
        flips: Where an image flips.
        scales: Strictly increasing, 0 among them; scales without their negative are not used.

    Raises:
        InputError: If there is no pair of scales.
        ValueError: If effect and flips do not fit the scales.
    """
    pairs = sorted(scale for scale in scales if scale > 0 and -scale in scales)
    if not pairs:
        raise InputError(f"Expected scales in pairs such as -1 and 1, but got {list(scales)}; give symmetric scales.")
    if effect.shape != flips.shape or effect.shape[1:] != (len(scales),):
        raise ValueError(
            f"Expected effect and flips as (rows, {len(scales)} scales), but got {tuple(effect.shape)} and "
            f"{tuple(flips.shape)}."
        )
    up, down = [scales.index(scale) for scale in pairs], [scales.index(-scale) for scale in pairs]
    curves = torch.stack(
        [
            effect[:, up].double() - effect[:, down].double(),
            (flips[:, up].double() + flips[:, down].double()) / 2,
            torch.tensor(pairs, dtype=torch.double).expand(len(effect), -1),
        ],
        1,
    )
    return torch.cat([torch.zeros_like(curves[..., :1]), curves], -1)


def shares_at_effect(
    curves: Float[Tensor, "rows 3 points"], wanted: float, index: Int[Tensor, "resamples count"]
) -> Float[Tensor, " resamples"]:
    """Interference at an effect for each resample of the rows of `effect_curves`, for a paired bootstrap."""
    return _interpolate(curves[index].mean(1), wanted)[:, 1]


def _at_effect(curves: Float[Tensor, "rows 3 points"], wanted: float) -> InterferenceAtEffect:
    """The figures from each row's effect, flips and scale along the pairs of scales."""
    count = len(curves)
    largest = bootstrap(lambda index: curves[index, 0].mean(1).max(-1).values, count)
    if largest.mean < wanted:
        return InterferenceAtEffect(wanted, largest, None, None)
    images = count * 2 * (curves.shape[-1] - 1)

    def at(index: Tensor) -> Float[Tensor, "resamples 3"]:
        return _interpolate(curves[index].mean(1), wanted)

    share = bootstrap(lambda index: at(index)[:, 1], count, n=images)
    return InterferenceAtEffect(wanted, largest, share, bootstrap(lambda index: at(index)[:, 2], count))


def _interpolate(curves: Float[Tensor, "resamples 3 points"], wanted: float) -> Float[Tensor, "resamples 3"]:
    """All curves where the first of them first reaches `wanted`; at the last point where it does not."""
    effect = curves[:, 0]
    reached = effect >= wanted
    last = torch.full_like(reached.int().argmax(-1), curves.shape[-1] - 1)
    end = torch.where(reached.any(-1), reached.int().argmax(-1), last).clamp_min(1)
    rows = torch.arange(len(curves))
    before, after = curves[rows, :, end - 1], curves[rows, :, end]
    way = ((wanted - before[:, :1]) / (after[:, :1] - before[:, :1])).where(reached.any(-1)[:, None], torch.tensor(1.0))
    return torch.lerp(before, after, way.double())


class Interference(Metric):
    """Share of images whose protected attributes flip; `interference` gives it with intervals.

    Args:
        attributes: Names of the protected attributes.
        kwargs: Arguments of torchmetrics' Metric.

    Example:
        >>> metric = Interference(["gender"])
        >>> man, woman = torch.tensor([0.9, 0.1]), torch.tensor([0.2, 0.8])
        >>> metric.update({"gender": torch.stack([man, woman])}, {"gender": torch.stack([man, man])})
        >>> metric.compute()
        {'any': tensor(0.5000), 'gender': tensor(0.5000)}
    """

    full_state_update = False
    higher_is_better = False
    flipped: Tensor
    images: Tensor

    def __init__(self, attributes: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not attributes or ANY in attributes:
            raise InputError(f"Expected protected attributes, none of them named 'any', but got {list(attributes)}.")
        self.attributes = tuple(attributes)
        self.add_state("flipped", torch.zeros(1 + len(attributes), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def update(
        self,
        edited: Mapping[str, Float[Tensor, "images classes"]],
        original: Mapping[str, Float[Tensor, "images classes"]],
    ) -> None:
        """Adds pairs of images.

        Args:
            edited: Attribute to the probabilities of its classes in the edited images.
            original: The same of the images that they were made from.

        Raises:
            ValueError: If an attribute is missing, the shapes differ or a value is not finite.
        """
        for name in self.attributes:
            if name not in edited or name not in original or edited[name].shape != original[name].shape:
                raise ValueError(f"Expected probabilities of '{name}' for the edited and the same original images.")
            if not bool(edited[name].isfinite().all() & original[name].isfinite().all()):
                raise ValueError(f"Expected finite probabilities of '{name}', but some are not.")
        where = torch.stack([flipped(edited[name], original[name]) for name in self.attributes])
        self.flipped += torch.cat([where.any(0, keepdim=True), where]).sum(1)
        self.images += where.shape[1]

    def compute(self) -> dict[str, Tensor]:
        """The share of images that flip in any attribute, as "any", and in each."""
        return dict(zip((ANY, *self.attributes), self.flipped / self.images, strict=True))
