"""What a move does to every attribute, as a vector, and how alike two such vectors are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import rankdata
from torch import Tensor

from evaluation.attributes import Schema
from evaluation.measurements import Measurements
from evaluation.scale_sweeps import seed_changes
from evaluation.statistics import (
    BOOTSTRAP_SEED,
    PERMUTATION_SEED,
    PERMUTATIONS,
    RESAMPLES,
    Measure,
    bootstrap,
    bootstrap_mean,
    check_units,
)
from slider_lightning.errors import InputError

Similarity = Callable[[Float[np.ndarray, "*rows entries"], Float[np.ndarray, "*rows entries"]], np.ndarray]
FEWEST_ENTRIES = 3
ROUNDING = 1e-12


@dataclass(frozen=True)
class EffectRows:
    """The effect of a move on every attribute, of every image.

    Args:
        entries: a continuous attribute, the second class of an attribute with two ("gender=woman"), or each class of
            one with more; so every entry has a sign.
        values: change per unit of slider scale, in standard deviations.
    """

    entries: tuple[str, ...]
    values: Float[Tensor, "rows entries"]

    def without(self, target: str | None) -> EffectRows:
        """The entries of other attributes than the target's, which any two moves of one target share."""
        kept = others(self.entries, target)
        return EffectRows(kept, self.values[:, [self.entries.index(entry) for entry in kept]])

    def measures(self) -> dict[str, Measure]:
        """The mean of every entry with its interval."""
        return {entry: bootstrap_mean(self.values[:, place]) for place, entry in enumerate(self.entries)}


def entries_of(schema: Schema) -> tuple[str, ...]:
    """The entries of a classifier's effect vectors."""
    return tuple(label for a in schema for label in (a.labels[1:] if a.width == 2 else a.labels))


def others(entries: Sequence[str], target: str | None) -> tuple[str, ...]:
    """The entries of other attributes than the target's."""
    return tuple(entry for entry in entries if _attribute(entry) != _attribute(target or ""))


def _attribute(entry: str) -> str:
    return entry.partition("=")[0]


def effect_rows(measurements: Measurements) -> EffectRows:
    """The effects from the lowest to the highest scale, per unit of scale.

    Raises:
        InputError: if there are images at scale 0 alone.
    """
    scales = measurements.header.scales
    if len(scales) < 2:
        raise InputError(f"Expected images at scales other than 0, but got {list(scales)}; add some.")
    sweep = measurements.sweep()
    values = [seed_changes(sweep, attribute.name, -1, 0) / (scales[-1] - scales[0]) for attribute in sweep.schema]
    return EffectRows(entries_of(sweep.schema), torch.cat(values, dim=1))


def eye_area_effect(measurements: Measurements) -> Measure | None:
    """Change of the mean eye area from the lowest to the highest scale, per unit of scale, over the mean at 0.

    It rests on the rows whose eyes are found at all three scales; None where these are fewer than 2, or nothing reads
    eyes.
    """
    if "eye_area" not in measurements.frame:
        return None
    scales = measurements.header.scales
    areas = measurements.values("eye_area")[:, [0, measurements.zero, len(scales) - 1]]
    low, middle, high = areas[areas.isfinite().all(1)].unbind(1)
    if len(low) < 2:
        return None
    width = scales[-1] - scales[0]
    return bootstrap(
        lambda index: (high[index].mean(1) - low[index].mean(1)) / middle[index].mean(1) / width,
        len(low),
    )


def pearson(first: Float[np.ndarray, "*rows entries"], second: Float[np.ndarray, "*rows entries"]) -> np.ndarray:
    """Pearson's correlation of two vectors over their entries, row by row.

    Example:
        >>> float(pearson(np.array([1.0, 2.0, 4.0]), np.array([2.0, 4.0, 8.0])).round(6))
        1.0
    """
    x, y = (values - values.mean(-1, keepdims=True) for values in (first, second))
    correlation: np.ndarray = (x * y).sum(-1) / np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    return correlation


def spearman(first: Float[np.ndarray, "*rows entries"], second: Float[np.ndarray, "*rows entries"]) -> np.ndarray:
    """Spearman's correlation: Pearson's of the ranks, equal values sharing theirs."""
    return pearson(rankdata(first, axis=-1), rankdata(second, axis=-1))


def chance(first: EffectRows, second: EffectRows) -> float:
    """How often two vectors correlate as strongly when it is left to chance which attribute is which.

    The interval of `similarity` tells what more images could change; two moves that have nothing to do with each other
    still correlate somewhat, in all images. This is the two-sided permutation test of Pearson's correlation,
    (1 + count) / (1 + m) of m = 10 000 from a generator with a constant seed. What is permuted is whole attributes:
    the classes of one depend on each other, so they stay together and in order, and change places with attributes of
    as many entries only. An attribute whose number of entries no other has stays where it is.
    """
    x, y = (rows.values.double().mean(0).numpy() for rows in (first, second))
    shuffled = y[_attribute_orders(second.entries)]
    reached = np.abs(pearson(x, shuffled)) >= abs(float(pearson(x, y))) - ROUNDING
    return (1 + int(reached.sum())) / (1 + PERMUTATIONS)


def _attribute_orders(entries: Sequence[str]) -> Int[np.ndarray, "permutations entries"]:
    """Orders of the entries in which attributes of equal width have changed places."""
    generator = np.random.default_rng(PERMUTATION_SEED)
    blocks: dict[str, list[int]] = {}
    for place, entry in enumerate(entries):
        blocks.setdefault(_attribute(entry), []).append(place)
    orders = np.tile(np.arange(len(entries)), (PERMUTATIONS, 1))
    for width in sorted({len(block) for block in blocks.values()}):
        places = np.array([block for block in blocks.values() if len(block) == width])
        drawn = generator.permuted(np.tile(np.arange(len(places)), (PERMUTATIONS, 1)), axis=1)
        orders[:, places.ravel()] = places[drawn].reshape(PERMUTATIONS, -1)
    return orders


def similarity(first: EffectRows, second: EffectRows, statistic: Similarity) -> Measure:
    """How alike the mean effects of two moves are.

    The two were measured on images that have nothing in common, so the interval resamples each on its own, 2000 times.
    Noise of the means lowers a correlation, and a resample has more of it: the interval errs to the cautious side.

    Args:
        first: of one move.
        second: of another, on the same attributes.
        statistic: `pearson` or `spearman`.

    Returns:
        The figure, with the number of rows of `second`.

    Raises:
        InputError: if the attributes differ or are too few, a move changes none of them, or there are too few images.
    """
    if first.entries != second.entries or len(first.entries) < FEWEST_ENTRIES:
        raise InputError(
            f"Expected two moves measured on the same {FEWEST_ENTRIES} or more entries of attributes, but got "
            f"{', '.join(first.entries)} and {', '.join(second.entries)}; use one classifier that reads more."
        )
    generator = torch.Generator().manual_seed(BOOTSTRAP_SEED)
    means, resampled = [], []
    for rows in (first.values.double(), second.values.double()):
        check_units(len(rows))
        if float(rows.mean(0).std()) == 0:
            raise InputError("Expected moves that change some attribute, but one changes none; check it by its images.")
        index = torch.randint(len(rows), (RESAMPLES, len(rows)), generator=generator)
        counts = torch.zeros(index.shape, dtype=rows.dtype)
        counts.scatter_add_(1, index, torch.ones_like(index, dtype=rows.dtype))
        means.append(rows.mean(0).numpy())
        resampled.append((counts @ rows / len(rows)).numpy())
    low, high = np.quantile(statistic(*resampled), [0.025, 0.975]).tolist()
    return Measure(float(statistic(*means)), (low, high), len(second.values))
