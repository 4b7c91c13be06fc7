"""Means with intervals: every figure that is reported carries how sure it is and over how many images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from slider_lightning.errors import InputError

RESAMPLES = 2000
BOOTSTRAP_SEED = 20231120


@dataclass(frozen=True)
class Measure:
    """One measured figure.

    Args:
        mean: The figure itself.
        ci95: Lower and upper end of its 95 % interval.
        n: Number of samples that it was measured on.
    """

    mean: float
    ci95: tuple[float, float]
    n: int


def bootstrap(statistic: Callable[[Tensor], Float[Tensor, " resamples"]], count: int, n: int | None = None) -> Measure:
    """A statistic of `count` independent units (seeds) with its percentile bootstrap interval (Efron 1979).

    Units are drawn with replacement, 2000 times, from a generator with a constant seed: equal data give equal
    intervals. A statistic that reads several quantities of the same units, or their differences, is paired.

    Args:
        statistic: Maps rows of unit indices (resamples, count) to one value each.
        count: Number of units.
        n: Number of samples to report, where a unit holds more than one.

    Raises:
        ValueError: If there is no unit, or the statistic is not finite.
    """
    if count < 1:
        raise ValueError("Expected at least one sample to measure, but got none.")
    generator = torch.Generator().manual_seed(BOOTSTRAP_SEED)
    resampled = torch.randint(count, (RESAMPLES, count), generator=generator)
    value = float(statistic(torch.arange(count)[None])[0])
    if not math.isfinite(value):
        raise ValueError(f"Expected a finite figure, but got {value}.")
    low, high = statistic(resampled).double().quantile(torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    return Measure(value, (low, high), count if n is None else n)


def bootstrap_mean(values: Float[Tensor, "units ..."]) -> Measure:
    """Mean over everything, with an interval over the first dimension.

    Args:
        values: One row per independent unit (a seed); further dimensions are samples of the same unit.

    Raises:
        ValueError: If a value is not finite; the message lists the units.
    """
    rows = values.double().flatten(1) if values.ndim > 1 else values.double()[:, None]
    bad = (~rows.isfinite()).any(1)
    if bad.any():
        raise ValueError(f"Expected finite values, but samples {bad.nonzero().flatten().tolist()} are not.")
    means = rows.mean(1)
    return bootstrap(lambda index: means[index].mean(1), len(rows), n=rows.numel())


def paired_difference(first: Float[Tensor, "units ..."], second: Float[Tensor, "units ..."]) -> Measure:
    """Mean of `first - second` over the same units, with an interval over the units.

    Raises:
        ValueError: If the shapes differ or a value is not finite.
    """
    if first.shape != second.shape:
        raise ValueError(f"Expected paired samples, but got shapes {tuple(first.shape)} and {tuple(second.shape)}.")
    return bootstrap_mean(first.double() - second.double())


def to_record(measures: Mapping[str, Measure]) -> dict[str, dict[str, Any]]:
    """Measures as flat JSON values: name -> {"mean", "ci95": [low, high], "n"}."""
    return {name: {"mean": m.mean, "ci95": list(m.ci95), "n": m.n} for name, m in measures.items()}


def from_record(record: Mapping[str, Any]) -> dict[str, Measure]:
    """The measures of a record; entries that are no measures (costs, paths) are left out.

    Raises:
        InputError: If a measure lacks a field.
    """
    measures = {}
    for name, entry in record.items():
        if not isinstance(entry, Mapping):
            continue
        try:
            low, high = entry["ci95"]
            measures[name] = Measure(float(entry["mean"]), (float(low), float(high)), int(entry["n"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"Expected '{name}' to hold mean, ci95 and n, but it does not: {error}.") from error
    return measures
