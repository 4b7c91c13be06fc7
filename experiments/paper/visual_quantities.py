"""The quantities of table 2: eye area, what else moves, and both where two methods change the eyes alike.

What is read of an image is a vector, linear in its readings: the mean over rows of a vector between two scales is taken
as linear in the scale, and a figure is a function of the mean vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from evaluation.measurements import Measurements
from evaluation.metrics.eye_size import eye_area_change
from evaluation.report.table import Column
from evaluation.scale_sweeps import Sweep, shift_of
from evaluation.statistics import Measure, PairedTest, bootstrap, paired_bootstrap
from experiments.paper.quantities import Quantity
from slider_lightning.errors import InputError

Reduce = Callable[[Float[Tensor, "resamples values"]], Float[Tensor, " resamples"]]


@dataclass(frozen=True)
class Reading:
    """A figure of the images at one scale against those at 0, in two steps.

    Args:
        column: its heading, without the scale.
        values: of every row and every scale, 0 at scale 0.
        reduce: the figure from the mean over rows.
    """

    column: Column
    values: Callable[[Measurements], Float[Tensor, "rows scales values"]]
    reduce: Reduce


def distance_readings(measurements: Measurements) -> list[Reading]:
    """Distance to the image at 0, by every judge of distance, under its own name."""
    names = measurements.header.judges
    return [
        Reading(Column(names[role], 3), lambda m, role=role: m.values(role)[..., None], lambda mean: mean[:, 0])
        for role in ("distance", "distance_native")
        if role in names
    ]


def others_reading(measurements: Measurements, target: str) -> Reading:
    """How far the other attributes move on average: the mean |shift| of all but the target, in standard deviations.

    Args:
        measurements: any of the compared ones, for the classifier's attributes.
        target: the attribute that should move, left out where the classifier reads it.

    Raises:
        InputError: if the classifier reads nothing else.
    """
    if not other_attributes(measurements.sweep(), target):
        raise InputError(
            f"Expected a classifier that reads attributes beside {target}, but it reads no other; change it."
        )
    widths = [values.shape[-1] for values in other_attributes(measurements.sweep(), target)]

    def values(measured: Measurements) -> Float[Tensor, "rows scales labels"]:
        sweep = measured.sweep()
        labels = torch.cat(other_attributes(sweep, target), dim=-1)
        return labels - labels[:, sweep.zero, None]

    def mean_shift(mean: Float[Tensor, "resamples labels"]) -> Float[Tensor, " resamples"]:
        return torch.stack([shift_of(part).abs() for part in mean.split(widths, dim=-1)]).mean(0)

    return Reading(Column("mean |shift| of the other attributes (standard deviations)"), values, mean_shift)


def other_attributes(sweep: Sweep, target: str) -> list[Float[Tensor, "rows scales labels"]]:
    """The readings of all attributes but one, in standard deviations."""
    return [sweep.standard(attribute.name) for attribute in sweep.schema if attribute.name != target]


def at_scale(reading: Reading, scale: float) -> Quantity:
    """A reading at one scale."""

    def statistic(measurements: Measurements) -> Callable[[Tensor], Tensor]:
        values = reading.values(measurements)[:, measurements.position(scale)].double()
        return lambda index: reading.reduce(values[index].mean(1))

    return Quantity(
        Column(f"{reading.column.name} at {scale:+g}", reading.column.digits),
        lambda m: bootstrap(statistic(m), len(m.rows)),
        lambda first, second: paired_bootstrap(statistic(first), statistic(second), len(first.rows)),
    )


def at_effect_of(rival: Measurements, scale: float, reading: Reading, name: str) -> Quantity:
    """A reading where a method changes the area of the eyes as much as a rival does at `scale`.

    Every resample of the rows has the rival's effect on these very rows; the rival itself is then read at `scale`. A
    method that never gets there counts with its outermost scale above 0; ask `why_not_compared` first. Rows with an
    image in which no eye is found are left out.

    Args:
        rival: on the same rows.
        scale: of the rival's images.
        reading: what is read.
        name: of the rival, for the heading.
    """

    def statistic(measurements: Measurements, rows: Bool[Tensor, " rows"]) -> Callable[[Tensor], Tensor]:
        points = upper_scales(measurements)
        areas, values = eye_areas(measurements)[rows][:, points], reading.values(measurements)[rows][:, points].double()
        wanted = eye_areas(rival)[rows][:, [rival.zero, rival.position(scale)]]

        def figure(index: Int[Tensor, "resamples rows"]) -> Float[Tensor, " resamples"]:
            effect = areas[index].mean(1)
            aim = wanted[index].mean(1)
            weights = weights_at(effect / effect[:, :1] - 1, aim[:, 1] / aim[:, 0] - 1)
            return reading.reduce((weights[..., None] * values[index].mean(1)).sum(1))

        return figure

    def measure(measurements: Measurements) -> Measure:
        rows = rows_with_eyes([measurements, rival])
        return bootstrap(statistic(measurements, rows), int(rows.sum()))

    def compare(first: Measurements, second: Measurements) -> PairedTest:
        rows = rows_with_eyes([first, second, rival])
        return paired_bootstrap(statistic(first, rows), statistic(second, rows), int(rows.sum()))

    column = Column(f"{reading.column.name} where the eyes change as by {name} at {scale:+g}", reading.column.digits)
    return Quantity(column, measure, compare)


def weights_at(
    effect: Float[Tensor, "resamples points"], wanted: Float[Tensor, " resamples"]
) -> Float[Tensor, "resamples points"]:
    """Weights of the points whose mean has the wanted effect: on the first two neighbours that enclose it.

    Args:
        effect: 0 at the first point.
        wanted: below 0 it counts as 0, beyond the last point as the last point.
    """
    reached = effect >= wanted[:, None]
    last = effect.shape[-1] - 1
    end = torch.where(reached.any(-1), reached.int().argmax(-1), last).clamp_min(1)[:, None]
    before, after = effect.gather(-1, end - 1), effect.gather(-1, end)
    way = torch.where(after > before, (wanted[:, None] - before) / (after - before), 0.0).clamp(0, 1)
    way = torch.where(reached.any(-1, keepdim=True), way, 1.0)
    return torch.zeros_like(effect).scatter(-1, end - 1, 1 - way).scatter(-1, end, way)


def upper_scales(measurements: Measurements) -> list[int]:
    """Positions of scale 0 and all above it."""
    return list(range(measurements.zero, len(measurements.header.scales)))


def eye_areas(measurements: Measurements) -> Float[Tensor, "rows scales"]:
    """Eye areas in pixels, NaN where no eye is found."""
    return measurements.values("eye_area")


def rows_with_eyes(measurements: Sequence[Measurements]) -> Bool[Tensor, " rows"]:
    """Rows with eyes in every image of every method at the scales from 0 up."""
    return torch.stack([eye_areas(m)[:, upper_scales(m)].isfinite().all(1) for m in measurements]).all(0)


def why_not_compared(method: Measurements, rival: Measurements, scale: float) -> str:
    """Why a method cannot be compared at the rival's effect; nothing where it can."""
    areas = eye_areas(rival)
    aim = eye_area_change(areas[:, rival.position(scale)], areas[:, rival.zero]).change
    if aim.ci95[0] <= 0:
        return f"at {scale:+g} it does not measurably enlarge the eyes"
    means = eye_areas(method)[rows_with_eyes([method, rival])][:, upper_scales(method)].mean(0)
    largest = float(means.max() / means[0] - 1)
    return "" if largest >= aim.mean else f"the slider reaches {largest:.2f} of its {aim.mean:.2f}"


def change_between(measurements: Measurements, low: float, high: float) -> Measure:
    """Change of the mean eye area from one scale to another, over its mean at the first.

    Raises:
        InputError: if there are no images at a scale, or too few of them show eyes.
    """
    areas = eye_areas(measurements)
    return eye_area_change(areas[:, measurements.position(high)], areas[:, measurements.position(low)]).change


def share_of_change(measurements: Measurements, low: float, high: float, share: float, whole: float) -> PairedTest:
    """The change of the mean eye area between two scales minus a share of a given change, tested over the rows.

    Args:
        measurements: of a method.
        low: where the change begins.
        high: where it ends.
        share: e.g. 0.8.
        whole: the change that it is a share of, taken as it is.

    Raises:
        InputError: if there are no images at a scale, or fewer than 2 rows show eyes at both.
    """
    areas = eye_areas(measurements)[:, [measurements.position(low), measurements.position(high)]]
    areas = areas[areas.isfinite().all(1)]

    def change(index: Tensor) -> Tensor:
        before, after = areas[index].mean(1).unbind(-1)
        return after / before - 1

    return paired_bootstrap(change, lambda index: torch.full((len(index),), share * whole).double(), len(areas))
