"""From a slider's measurements to its calibration: effect, monotone fit, saturation, useful range. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import pandas as pd
import torch
from jaxtyping import Float
from scipy.optimize import isotonic_regression
from torch import Tensor

from evaluation.measurements import Measurements, check_paired
from evaluation.scale_sweeps import seed_changes, shift_of, target_values
from evaluation.statistics import Measure, bootstrap_mean
from slider_lightning.errors import InputError


@dataclass(frozen=True)
class UsefulRule:
    """What ends the useful range of a slider, going outward from 0 on each side.

    The response is saturated at a scale whose next step, measured on the same rows, grows by less than `least_growth`
    of the steepest slope so far on that side, or by an amount whose 95 % interval includes 0, or falls. Steps before
    the first that grows end nothing: a slider may begin to act at some scale only.

    Args:
        least_growth: share of the steepest slope, in [0, 1).
        largest_drift: the mean |shift| of the classifier's other attributes that a useful scale may have, in standard
            deviations; None: any.
        largest_distance: the mean perceptual distance to the unedited image that it may have; None: any.

    Raises:
        InputError: if a value is out of range.
    """

    least_growth: float = 0.2
    largest_drift: float | None = None
    largest_distance: float | None = None

    def __post_init__(self) -> None:
        limits = [limit for limit in (self.largest_drift, self.largest_distance) if limit is not None]
        if not 0 <= self.least_growth < 1 or any(limit <= 0 for limit in limits):
            raise InputError(
                f"Expected least_growth in 0..1 and positive limits of drift and distance, but got {self}; change it."
            )


@dataclass(frozen=True)
class Side:
    """One side of a response.

    Args:
        end: the outermost useful scale; 0 where the slider does not act.
        saturation: scale from which on the response stops growing; None where it was not seen.
        closed: whether wider scales can add nothing.
    """

    end: float
    saturation: float | None
    closed: bool


@dataclass(frozen=True)
class Response:
    """What a slider did to what it turns.

    Args:
        target: what was measured, e.g. "age".
        unit: what an effect of 1 is, and who measured it.
        scales: strictly increasing, 0 among them.
        changes: against scale 0, in units.
        allowed: whether a scale keeps the limits of drift and distance.
    """

    target: str
    unit: str
    scales: tuple[float, ...]
    changes: Float[Tensor, "rows scales"]
    allowed: tuple[bool, ...]

    @classmethod
    def of(cls, measurements: Measurements, target: str | None, rule: UsefulRule) -> Response:
        """The response that measurements hold; without a `target` by the CLIP scores of the two edit prompts.

        Raises:
            InputError: if the classifier does not read the target, or there are fewer than 2 rows.
        """
        judges, scales = measurements.header.judges, measurements.header.scales
        if target is None:
            values = measurements.values("clip/positive") - measurements.values("clip/negative")
            named = measurements.header.concept, f"CLIP score, positive minus negative prompt ({judges['clip']})"
        else:
            values = target_values(measurements.sweep(), target)
            named = target, f"standard deviation ({judges['classifier']})"
        kept = allowed(measurements, rule, target)
        return cls(*named, scales, values - values[:, [measurements.zero]], kept)

    @property
    def effects(self) -> list[Measure]:
        """The mean change at every scale, with its interval over the rows."""
        return [bootstrap_mean(column) for column in self.changes.T]

    def side(self, sign: int, rule: UsefulRule) -> Side:
        """How far the response is useful above (+1) or below (-1) scale 0."""
        outward = sorted(
            (n for n, scale in enumerate(self.scales) if scale * sign >= 0), key=lambda n: abs(self.scales[n])
        )
        means = self.changes.mean(0).tolist()
        end, steepest = 0.0, 0.0
        for inner, outer in pairwise(outward):
            slope = (means[outer] - means[inner]) / (self.scales[outer] - self.scales[inner])
            growth = bootstrap_mean(sign * (self.changes[:, outer] - self.changes[:, inner]))
            grows = growth.ci95[0] > 0 and slope > rule.least_growth * steepest
            if not self.allowed[outer]:
                return Side(end, None, closed=True)
            if end and not grows:
                return Side(end, self.scales[inner], closed=True)
            if grows:
                end, steepest = self.scales[outer], max(steepest, slope)
        return Side(end, None, closed=False)


def monotone_fit(scales: Sequence[float], effects: Sequence[float], useful: tuple[float, float]) -> tuple[float, ...]:
    """The nearest effects, by least squares, that never fall as the scale rises and are 0 at scale 0.

    The useful range is fitted first, so that a response which reverses beyond it takes nothing away within it. Bounded
    isotonic regression is the unbounded one clipped, so each side of 0 is fitted alone.

    Args:
        scales: strictly increasing, 0 among them.
        effects: mean effect at each, 0 at scale 0.
        useful: (lowest, highest) useful scale, two of `scales`.
    """
    zero, first, last = (list(scales).index(scale) for scale in (0.0, *useful))
    below = [-effect for effect in reversed(effects[:zero])]
    above = list(effects[zero + 1 :])
    mirrored = _rising_side(below, zero - first)
    return (*(-effect for effect in reversed(mirrored)), 0.0, *_rising_side(above, last - zero))


def _rising_side(effects: Sequence[float], useful: int) -> list[float]:
    """The fit of one side, outward from 0, of which the first `useful` effects are fitted apart from the others."""
    inside = _rising(effects[:useful], 0.0)
    return inside + _rising(effects[useful:], inside[-1] if inside else 0.0)


def _rising(effects: Sequence[float], least: float) -> list[float]:
    fit: list[float] = isotonic_regression(effects).x.clip(min=least).tolist() if effects else []
    return fit


def allowed(measurements: Measurements, rule: UsefulRule, target: str | None) -> tuple[bool, ...]:
    """Whether each scale keeps the rule's limits of drift and distance."""
    distance, drift = measurements.values("distance").mean(0), drifts(measurements, target)
    columns = ((distance, rule.largest_distance), (drift, rule.largest_drift))
    kept = [column <= limit for column, limit in columns if limit is not None]
    return tuple(torch.stack(kept).all(0).tolist()) if kept else (True,) * len(measurements.header.scales)


def drifts(measurements: Measurements, target: str | None) -> Float[Tensor, " scales"]:
    """Mean |shift| of the attributes other than the target at each scale, in standard deviations."""
    sweep = measurements.sweep()
    others = [a.name for a in sweep.schema if a.name != (target or "").partition("=")[0]]
    columns = range(len(sweep.scales))
    shifts = [[shift_of(seed_changes(sweep, name, c, sweep.zero).mean(0)).abs() for c in columns] for name in others]
    return torch.tensor(shifts, dtype=torch.double).reshape(-1, len(columns)).mean(0)


def joined(first: Measurements, second: Measurements) -> Measurements:
    """The measurements of the same rows at the scales of both.

    Raises:
        InputError: if they are of other rows or by other judges.
    """
    check_paired(first, second)
    scales = tuple(sorted({*first.header.scales, *second.header.scales}))
    new = second.frame[~second.frame["scale"].isin(first.header.scales)]
    frame = pd.concat([first.frame, new]).sort_values(["row", "scale"], kind="stable").reset_index(drop=True)
    return Measurements(replace(first.header, scales=scales), frame)
