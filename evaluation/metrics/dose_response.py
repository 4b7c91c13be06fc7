"""How an attribute answers to the slider's scale: order, straightness, saturation.

A sweep is `values` (rows, scales): one row per prompt and seed, one column per scale, scales strictly increasing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional import spearman_corrcoef
from torchmetrics.utilities import dim_zero_cat

from evaluation.statistics import Measure, bootstrap, bootstrap_mean
from slider_lightning.errors import InputError

MONOTONE_RHO = 0.8
SATURATED = 0.5


@dataclass(frozen=True)
class LinearFit:
    """A least-squares line through each row.

    Args:
        slope: Change of the value per unit of scale.
        intercept: Value of the line at scale 0.
        r2: Share of the row's variance over the scales that the line explains; 0 where a row does not change at all.
    """

    slope: Float[Tensor, "*rows"]
    intercept: Float[Tensor, "*rows"]
    r2: Float[Tensor, "*rows"]


@dataclass(frozen=True)
class ResponseCurve:
    """The figures of a dose-response, each over the rows with its interval.

    Args:
        spearman: Mean over the rows of the rank correlation with the scale.
        rank_monotone_share: Share of rows whose rank correlation is above 0.8.
        strictly_monotone_share: Share of rows in which every step of the scale raises the value.
        slope: Mean of the rows' slopes, which is the slope of the mean curve too.
        r2: Mean of the rows' R2.
        r2_of_mean: R2 of the mean curve.
        saturation_negative: |scale| from which the mean curve is saturated below 0; None if it never is.
        saturation_positive: The same above 0.
    """

    spearman: Measure
    rank_monotone_share: Measure
    strictly_monotone_share: Measure
    slope: Measure
    r2: Measure
    r2_of_mean: Measure
    saturation_negative: Measure | None
    saturation_positive: Measure | None


def check_sweep(values: Float[Tensor, "rows scales"], scales: Sequence[float]) -> None:
    """Refuses what is no sweep.

    Raises:
        InputError: If there are fewer than two scales, or they do not strictly increase.
        ValueError: If the values do not fit the scales, or are not finite; the message lists the rows.
    """
    if len(scales) < 2 or any(b <= a for a, b in pairwise(scales)):
        raise InputError(f"Expected at least two strictly increasing scales, but got {list(scales)}; give such scales.")
    if values.ndim != 2 or values.shape[1] != len(scales):
        raise ValueError(f"Expected values as (rows, {len(scales)} scales), but got {tuple(values.shape)}.")
    bad = ~values.isfinite().all(1)
    if bad.any():
        raise ValueError(f"Expected finite values, but rows {bad.nonzero().flatten().tolist()} are not.")


def spearman_over_scales(values: Float[Tensor, "rows scales"], scales: Sequence[float]) -> Float[Tensor, " rows"]:
    """Rank correlation of each row's values with the scales; 0 where a row does not respond at all."""
    columns = values.double().T.contiguous()
    order = torch.tensor(scales, dtype=torch.double, device=values.device)[:, None].expand_as(columns).contiguous()
    constant = (columns == columns[0]).all(0)
    correlation = spearman_corrcoef(columns, order).reshape(-1)
    return torch.where(constant, 0.0, correlation.double())


def rank_monotone(values: Float[Tensor, "rows scales"], scales: Sequence[float]) -> Bool[Tensor, " rows"]:
    """Rows that rise with the scale on the whole: rank correlation above 0.8; single steps may fall."""
    return spearman_over_scales(values, scales) > MONOTONE_RHO


def strictly_monotone(values: Float[Tensor, "rows scales"]) -> Bool[Tensor, " rows"]:
    """Rows in which every step from one scale to the next raises the value."""
    return (values.diff(dim=1) > 0).all(1)


def linear_fit(values: Float[Tensor, "*rows scales"], scales: Sequence[float]) -> LinearFit:
    """The least-squares line of each row against the scales.

    Example:
        >>> linear_fit(torch.tensor([[1.0, 3.0, 5.0]]), (-1, 0, 1)).slope
        tensor([2.], dtype=torch.float64)
    """
    values, x = values.double(), torch.tensor(scales, dtype=torch.double, device=values.device)
    centered, deviation = x - x.mean(), values - values.mean(-1, keepdim=True)
    slope = (deviation * centered).sum(-1) / centered.square().sum()
    intercept = values.mean(-1) - slope * x.mean()
    residual = (deviation - slope[..., None] * centered).square().sum(-1)
    total = deviation.square().sum(-1)
    constant = (values == values[..., :1]).all(-1)
    r2 = torch.where(constant, 0.0, 1 - residual / total.where(~constant, torch.ones_like(total)))
    return LinearFit(slope, intercept, r2)


def saturation_point(
    values: Float[Tensor, "*rows scales"], scales: Sequence[float], *, positive: bool
) -> Float[Tensor, "*rows"]:
    """|scale| beyond which the marginal response falls below half of the initial one, on one side of 0.

    The marginal response is the slope between neighbouring scales, taken at the middle between them and linear from
    middle to middle; the initial one is that of the two scales next to 0 on this side, in either direction.

    Args:
        values: Curves.
        scales: Strictly increasing, 0 among them.
        positive: Above 0; otherwise below.

    Returns:
        NaN where a curve does not saturate within the scales, or does not respond at first.

    Example:
        >>> saturation_point(torch.tensor([0.0, 7.0, 12.0, 15.0, 16.0]), (0, 1, 2, 3, 4), positive=True)
        tensor(2.2500, dtype=torch.float64)
    """
    zero = list(scales).index(0)
    side = range(zero, len(scales)) if positive else range(zero, -1, -1)
    steps = torch.tensor([abs(scales[i]) for i in side], dtype=torch.double)
    curve = values.double()[..., list(side)]
    missing = torch.full(curve.shape[:-1], torch.nan, dtype=torch.double)
    if len(steps) < 3:
        return missing
    marginal = curve.diff(dim=-1) / steps.diff()
    middles = (steps[1:] + steps[:-1]) / 2
    share = marginal / marginal[..., :1]
    low = share < SATURATED
    first = low.int().argmax(-1).clamp_min(1)
    above, below = share.gather(-1, first[..., None] - 1)[..., 0], share.gather(-1, first[..., None])[..., 0]
    way = (above - SATURATED) / (above - below)
    point = middles[first - 1] + way * (middles[first] - middles[first - 1])
    return torch.where(low.any(-1), point, missing)


def saturation_of_mean(
    values: Float[Tensor, "rows scales"], scales: Sequence[float], *, positive: bool
) -> Measure | None:
    """Saturation point of the mean curve, see `saturation_point`; None if it does not saturate within the scales.

    For the interval a resample of the rows that does not saturate counts as the outermost scale, so an upper end there
    reads "or later".
    """
    values = values.double()
    if bool(saturation_point(values.mean(0), scales, positive=positive).isnan()):
        return None
    outermost = abs(scales[-1] if positive else scales[0])

    def point(index: Tensor) -> Tensor:
        return saturation_point(values[index].mean(1), scales, positive=positive).nan_to_num(nan=outermost)

    return bootstrap(point, len(values))


def response_curve(values: Float[Tensor, "rows scales"], scales: Sequence[float]) -> ResponseCurve:
    """All figures of a dose-response.

    Args:
        values: What the slider is meant to raise, per row and scale, e.g. in standard deviations.
        scales: Strictly increasing, 0 among them.

    Raises:
        InputError: If the scales do not increase or lack 0, or there are fewer than 2 rows.
        ValueError: If the values do not fit the scales, or are not finite.
    """
    check_sweep(values, scales)
    if 0 not in scales:
        raise InputError(f"Expected scales with 0 among them, but got {list(scales)}; add 0.")
    values = values.double()
    fit = linear_fit(values, scales)
    return ResponseCurve(
        spearman=bootstrap_mean(spearman_over_scales(values, scales)),
        rank_monotone_share=bootstrap_mean(rank_monotone(values, scales).double()),
        strictly_monotone_share=bootstrap_mean(strictly_monotone(values).double()),
        slope=bootstrap_mean(fit.slope),
        r2=bootstrap_mean(fit.r2),
        r2_of_mean=bootstrap(lambda index: linear_fit(values[index].mean(1), scales).r2, len(values)),
        saturation_negative=saturation_of_mean(values, scales, positive=False),
        saturation_positive=saturation_of_mean(values, scales, positive=True),
    )


class SweepMetric(Metric):
    """Rows of sweeps, gathered over updates and processes; all on the same scales."""

    # Every update checks its scales against the earlier ones', so `forward` must not start from an empty state.
    full_state_update = True
    names: tuple[str, ...]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scales: tuple[float, ...] | None = None
        for name in self.names:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def reset(self) -> None:
        """Forgets all rows and their scales."""
        super().reset()
        self.scales = None

    def _gather(self, scales: Sequence[float], *columns: Float[Tensor, "rows scales"]) -> None:
        scales = tuple(float(scale) for scale in scales)
        if 0 not in scales or self.scales not in (None, scales):
            raise InputError(
                f"Expected sweeps over the scales {list(self.scales or ['..., 0, ...'])}, but got {list(scales)}; "
                "measure all of them on the same scales, 0 among them."
            )
        for values in columns:
            check_sweep(values, scales)
        self.scales = scales
        for name, values in zip(self.names, columns, strict=True):
            getattr(self, name).append(values.detach())

    def _gathered(self) -> tuple[Tensor, ...]:
        return tuple(dim_zero_cat(getattr(self, name)) for name in self.names)


class DoseResponse(SweepMetric):
    """Means over rows of the figures of a dose-response; `response_curve` gives them with intervals.

    Example:
        >>> metric = DoseResponse()
        >>> metric.update(torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 4.0]]), (-1, 0, 1))
        >>> {name: round(float(value), 2) for name, value in metric.compute().items()}
        {'spearman': 0.75, 'rank_monotone_share': 0.5, 'strictly_monotone_share': 0.5, 'slope': 0.75, 'r2': 0.62}
    """

    higher_is_better = True
    names = ("values",)

    def update(self, values: Float[Tensor, "rows scales"], scales: Sequence[float]) -> None:
        """Adds rows.

        Args:
            values: What the slider is meant to raise.
            scales: Strictly increasing, 0 among them; the same in every update.

        Raises:
            InputError: If the scales do not increase, lack 0 or differ from an earlier update's.
            ValueError: If the values do not fit the scales, or are not finite.
        """
        self._gather(scales, values)

    def compute(self) -> dict[str, Tensor]:
        """The means of `spearman`, `rank_monotone_share`, `strictly_monotone_share`, `slope` and `r2` over the rows."""
        (values,) = self._gathered()
        scales = self.scales or ()
        fit = linear_fit(values, scales)
        return {
            "spearman": spearman_over_scales(values, scales).mean(),
            "rank_monotone_share": rank_monotone(values, scales).double().mean(),
            "strictly_monotone_share": strictly_monotone(values).double().mean(),
            "slope": fit.slope.mean(),
            "r2": fit.r2.mean(),
        }
