"""Many sliders at once: whether each keeps its own effect, and what it does to the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from evaluation.measurements import Measurements
from evaluation.metrics.distribution import distance_change, frechet_distance, kernel_distance
from evaluation.scale_sweeps import target_values
from evaluation.statistics import Measure, bootstrap, bootstrap_mean
from slider_lightning.errors import InputError

QUALITY = "quality"
POORLY_DRAWN = "poorly drawn"


@dataclass(frozen=True)
class ManyConfig:
    """How many sliders are composed, and how strong they are.

    Args:
        counts: how many at once, increasing.
        scale: |slider_scale| of each.
        measured: sliders whose own effect is measured, the first of the order.
        seed: of the order and the signs.

    Raises:
        InputError: if a value is out of range.
    """

    counts: tuple[int, ...]
    scale: float
    measured: int
    seed: int

    def __post_init__(self) -> None:
        increasing = list(self.counts) == sorted(set(self.counts))
        if not self.counts or not increasing or self.counts[0] < 1 or self.scale <= 0 or self.measured < 1:
            raise InputError(f"Expected increasing counts of 1 or more and a scale above 0, but got {self}; change it.")


def drawn_order(names: Sequence[str], seed: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The order in which sliders join, and their signs: half of any even number of neighbours turn the other way.

    Args:
        names: of all sliders.
        seed: of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(names), generator=generator).tolist()
    first = int(torch.randint(2, (1,), generator=generator)) * 2 - 1
    return tuple(names[place] for place in order), tuple(first * (-1) ** place for place in range(len(names)))


@dataclass(frozen=True)
class Member:
    """One slider among many, measured on the same rows.

    Args:
        target: what it should move.
        sign: of its scale.
        alone: its images when it is the only one; one scale beside 0.
        without: images of the others; None where there are none.
    """

    target: str
    sign: int
    alone: Measurements
    without: Measurements | None


def kept_effect(members: Sequence[Member], together: Measurements) -> Measure:
    """Sum of the members' own effects among many over the sum of their effects alone.

    A member's own effect among many is the shift of its target between the images of all and those of all but it.
    """
    alone = torch.stack([m.sign * _change(m.alone, m.target) for m in members])
    among = torch.stack(
        [
            m.sign * (_change(together, m.target) - (0 if m.without is None else _change(m.without, m.target)))
            for m in members
        ]
    )
    return bootstrap(lambda i: among.mean(0)[i].mean(1) / alone.mean(0)[i].mean(1), alone.shape[1])


def poorly_drawn(measurements: Measurements) -> Measure | None:
    """Share of the images that the classifier calls poorly drawn, at the one scale beside 0; None if it cannot tell."""
    sweep = measurements.sweep()
    attribute = next((a for a in sweep.schema if a.name == QUALITY and POORLY_DRAWN in a.classes), None)
    if attribute is None:
        return None
    found = sweep.readings[QUALITY].argmax(-1)[:, 1] == attribute.classes.index(POORLY_DRAWN)
    return bootstrap_mean(found.double())


def set_changes(
    edited: Float[Tensor, "rows dim"], original: Float[Tensor, "rows dim"], reference: Float[Tensor, "n dim"]
) -> Mapping[str, Measure]:
    """How composing changes FID and KID to the reference, against the unedited images of the same rows."""
    return {
        name: distance_change(distance, edited, original, reference)
        for name, distance in (("FID", frechet_distance), ("KID", kernel_distance))
    }


def _change(measurements: Measurements, target: str) -> Float[Tensor, " rows"]:
    values = target_values(measurements.sweep(), target)
    return values[:, 1] - values[:, 0]
