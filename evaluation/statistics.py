"""Means with intervals, and paired tests: every figure carries how sure it is and over how many images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from slider_lightning.errors import InputError

RESAMPLES = 2000
BOOTSTRAP_SEED = 20231120
PERMUTATIONS = 10_000
PERMUTATION_SEED = 20231120
CHUNK = 500

Statistic = Callable[[Tensor], Float[Tensor, " resamples"]]
"""Maps rows of unit indices (resamples, units) to one value each."""


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


@dataclass(frozen=True)
class PairedTest:
    """A comparison of two methods on the same units (rows of prompt and seed).

    Args:
        difference: First minus second, with its interval.
        p_value: Two-sided, of the hypothesis that the methods do not differ.
        test: Name of the test, as tables print it.
    """

    difference: Measure
    p_value: float
    test: str


def bootstrap(statistic: Statistic, count: int, n: int | None = None) -> Measure:
    """A statistic of `count` independent units (seeds) with its percentile bootstrap interval (Efron 1979).

    Units are drawn with replacement, 2000 times, from a generator with a constant seed: equal data give equal
    intervals. A statistic that reads several quantities of the same units, or their differences, is paired.

    Args:
        statistic: Maps rows of unit indices (resamples, count) to one value each.
        count: Number of units, at least 2.
        n: Number of samples to report, where a unit holds more than one.

    Raises:
        InputError: If there are fewer than 2 units.
        ValueError: If the statistic is not finite.

    Example:
        >>> values = torch.tensor([1.0, 2.0, 3.0, 6.0])
        >>> bootstrap(lambda index: values[index].mean(1), len(values)).mean
        3.0
    """
    value, draws = _bootstrap_draws(statistic, count)
    return Measure(value, _interval(draws), count if n is None else n)


def _bootstrap_draws(statistic: Statistic, count: int) -> tuple[float, Float[Tensor, " resamples"]]:
    """The statistic of the units themselves, and of each resample of them."""
    check_units(count)
    value = float(statistic(torch.arange(count)[None])[0])
    if not math.isfinite(value):
        raise ValueError(f"Expected a finite figure, but got {value}.")
    generator = torch.Generator().manual_seed(BOOTSTRAP_SEED)
    resampled = torch.randint(count, (RESAMPLES, count), generator=generator)
    draws = torch.cat([statistic(index).double() for index in resampled.split(CHUNK)])
    if not bool(draws.isfinite().all()):
        raise ValueError("Expected a finite figure on every resample of the units, but some are not.")
    return value, draws


def _interval(draws: Float[Tensor, " resamples"]) -> tuple[float, float]:
    low, high = draws.quantile(torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    return low, high


def check_units(count: int) -> None:
    """Refuses fewer units than an interval needs.

    Raises:
        InputError: If there are fewer than 2.
    """
    if count < 2:
        raise InputError(
            f"Expected at least 2 prompts or seeds, because an interval needs them, but got {count}; measure more."
        )


def bootstrap_mean(values: Float[Tensor, "units ..."]) -> Measure:
    """Mean over everything, with an interval over the first dimension.

    Args:
        values: One row per independent unit (a seed); further dimensions are samples of the same unit.

    Raises:
        InputError: If there are fewer than 2 units.
        ValueError: If a value is not finite; the message lists the units.

    Example:
        >>> bootstrap_mean(torch.tensor([[1.0, 3.0], [2.0, 2.0]]))
        Measure(mean=2.0, ci95=(2.0, 2.0), n=4)
    """
    means = _unit_means(values)
    return bootstrap(lambda index: means[index].mean(1), len(means), n=values.numel())


def _unit_means(values: Float[Tensor, "units ..."]) -> Float[Tensor, " units"]:
    rows = values.double().flatten(1) if values.ndim > 1 else values.double()[:, None]
    bad = (~rows.isfinite()).any(1)
    if bad.any():
        raise ValueError(f"Expected finite values, but samples {bad.nonzero().flatten().tolist()} are not.")
    return rows.mean(1)


def paired_difference(first: Float[Tensor, "units ..."], second: Float[Tensor, "units ..."]) -> Measure:
    """Mean of `first - second` over the same units, with an interval over the units.

    Raises:
        InputError: If there are fewer than 2 units.
        ValueError: If the shapes differ or a value is not finite.
    """
    if first.shape != second.shape:
        raise ValueError(f"Expected paired samples, but got shapes {tuple(first.shape)} and {tuple(second.shape)}.")
    return bootstrap_mean(first.double() - second.double())


def paired_test(first: Float[Tensor, "units ..."], second: Float[Tensor, "units ..."]) -> PairedTest:
    """Whether two methods differ in the mean over the same units: the sign-flip permutation test (Fisher 1935).

    Without a difference each unit's `first - second` is as likely as its negative. The p-value is the share of sign
    patterns whose |mean| reaches the observed one: of all 2^units of them where these are at most 10 000, otherwise
    (1 + count) / (1 + m) of m = 10 000 patterns from a generator with a constant seed.

    Args:
        first: One row per independent unit; further dimensions are samples of the same unit.
        second: The same units of the other method.

    Raises:
        InputError: If there are fewer than 2 units.
        ValueError: If the shapes differ or a value is not finite.

    Example:
        >>> paired_test(torch.tensor([2.0, 3.0, 4.0]), torch.tensor([1.0, 1.0, 1.0])).p_value
        0.25
    """
    difference = paired_difference(first, second)
    changes = _unit_means(first.double() - second.double())
    if 2 ** len(changes) <= PERMUTATIONS:
        p_value, kind = _exact_p_value(changes), "exact"
    else:
        p_value, kind = _sampled_p_value(changes), f"{PERMUTATIONS} permutations"
    return PairedTest(difference, p_value, f"paired sign-flip test, two-sided, {kind}")


def _exact_p_value(changes: Float[Tensor, " units"]) -> float:
    signs = torch.tensor(list(product((1.0, -1.0), repeat=len(changes))), dtype=torch.double)
    return float(_reaches(signs, changes).double().mean())


def _sampled_p_value(changes: Float[Tensor, " units"]) -> float:
    generator = torch.Generator().manual_seed(PERMUTATION_SEED)
    signs = torch.randint(2, (PERMUTATIONS, len(changes)), generator=generator).double() * 2 - 1
    return (1 + int(_reaches(signs, changes).sum())) / (1 + PERMUTATIONS)


def _reaches(signs: Float[Tensor, "patterns units"], changes: Float[Tensor, " units"]) -> Bool[Tensor, " patterns"]:
    """Where a sign pattern's |sum| is at least the observed one, equal sums counted whatever their rounding."""
    rounding = 1e-12 * float(changes.abs().sum())
    return (signs @ changes).abs() >= float(changes.sum().abs()) - rounding


def paired_bootstrap(first: Statistic, second: Statistic, count: int, n: int | None = None) -> PairedTest:
    """Whether two statistics differ that are no means over units (ratios, interpolated figures), by the bootstrap.

    Both read the same resampled units, so what the units share cancels. The p-value inverts the percentile
    interval: twice the smaller share of resampled differences on one side of 0, each as (1 + count) / (1 + m).

    Args:
        first: Statistic of the first method.
        second: Statistic of the second method on the same units.
        count: Number of units, at least 2.
        n: Number of samples to report, where a unit holds more than one.

    Raises:
        InputError: If there are fewer than 2 units.
        ValueError: If a statistic is not finite.
    """
    value, draws = _bootstrap_draws(lambda index: first(index).double() - second(index).double(), count)
    sides = ((draws <= 0).sum(), (draws >= 0).sum())
    p_value = min(1.0, 2 * (1 + int(min(sides))) / (1 + len(draws)))
    difference = Measure(value, _interval(draws), count if n is None else n)
    return PairedTest(difference, p_value, f"paired bootstrap, two-sided, {RESAMPLES} resamples")


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
