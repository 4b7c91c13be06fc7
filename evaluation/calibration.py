"""Measuring a slider's dose-response: outward until it saturates, then between the scales, then as a calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from evaluation.dose import Response, UsefulRule, joined, monotone_fit
from evaluation.grids import Method
from evaluation.measurements import Measurements
from evaluation.scale_sweeps import check_scales
from evaluation.setup import Setup
from slider_lightning.adapters import Calibration
from slider_lightning.backbone import SamplerConfig
from slider_lightning.errors import InputError

SIDES = (-1, 1)


@dataclass(frozen=True)
class CalibrationConfig:
    """Which scales a calibration measures, and what it calls useful.

    Args:
        scales: slider scales, strictly increasing, 0 among them; None begins with those of the run's evaluation, whose
            images may be there already, goes outward until the response saturates, and then between.
        widest: |scale| that None goes out to at most.
        step: of the scale on the way out.
        finest: step in the useful range that None refines to.
        rule: what ends the useful range.

    Raises:
        InputError: if a step or a scale is out of range.
    """

    scales: tuple[float, ...] | None = None
    widest: float = 6.0
    step: float = 1.0
    finest: float = 0.5
    rule: UsefulRule = field(default_factory=UsefulRule)

    def __post_init__(self) -> None:
        if not 0 < self.finest <= self.step <= self.widest:
            raise InputError(
                f"Expected 0 < finest <= step <= widest for a calibration, but got {self.finest:g}, {self.step:g} and "
                f"{self.widest:g}; change them."
            )
        if self.scales is not None:
            check_scales(self.scales)


def measure_response(setup: Setup, method: Method, config: CalibrationConfig) -> Measurements:
    """The readings of all the scales that a calibration needs; each round of scales is a grid, found again if there.

    Args:
        setup: model, sampler, prompts, judges.
        method: the slider.
        config: which scales.

    Raises:
        InputError: if an image is missing or damaged, or the classifier does not read the target.
    """
    target, rule = setup.settings.target, config.rule
    measurements = setup.gallery.measure(method, config.scales or setup.settings.scales, setup.examiner)
    while config.scales is None and (wanted := next_scales(Response.of(measurements, target, rule), config)):
        measurements = joined(measurements, setup.gallery.measure(method, (0.0, *wanted), setup.examiner))
    return measurements


def next_scales(response: Response, config: CalibrationConfig) -> tuple[float, ...]:
    """The scales to measure next: one step further out on every side that is not closed, or else what lies between.

    Args:
        response: as measured so far.
        config: steps and limits.

    Returns:
        New scales, increasing; none when all is measured.
    """
    sides = {sign: response.side(sign, config.rule) for sign in SIDES}
    outermost = {-1: response.scales[0], 1: response.scales[-1]}
    further = [outermost[sign] + sign * config.step for sign in SIDES if not sides[sign].closed]
    further = [scale for scale in further if abs(scale) <= config.widest]
    if further:
        return tuple(sorted(further))
    low, high = sides[-1].end, sides[1].end
    # Up to one scale beyond the useful range, where its end is.
    steps = [(a, b) for a, b in pairwise(response.scales) if b >= low and a <= high]
    return tuple((a + b) / 2 for a, b in steps if (b - a) / 2 >= config.finest)


def calibration_of(response: Response, rule: UsefulRule, facts: dict[str, Any]) -> Calibration:
    """The calibration that a response gives.

    Args:
        response: at all measured scales.
        rule: what ends the useful range.
        facts: prompts, sampler and model of the calibration.

    Raises:
        InputError: if the slider does not raise its target on either side of 0.
    """
    low, high = (response.side(sign, rule) for sign in SIDES)
    effects, useful = response.effects, (low.end, high.end)
    means = tuple(effect.mean for effect in effects)
    if low.end == high.end:
        ends = (
            f"{effects[0].mean:.3g} at scale {response.scales[0]:g}, {effects[-1].mean:.3g} at {response.scales[-1]:g}"
        )
        raise InputError(
            f"Expected a slider that moves {response.target} with its scale, but no effect measured grows from 0 "
            f"({ends}); train it longer, measure more seeds, or check the target and that its poles are not swapped."
        )
    return Calibration(
        target=response.target,
        unit=response.unit,
        scales=response.scales,
        effects=means,
        lows=tuple(effect.ci95[0] for effect in effects),
        highs=tuple(effect.ci95[1] for effect in effects),
        fit=monotone_fit(response.scales, means, useful),
        useful_scales=useful,
        saturation=(low.saturation, high.saturation),
        rows=len(response.changes),
        **facts,
    )


def sampler_facts(sampler: SamplerConfig) -> dict[str, Any]:
    """What of a sampler decides an effect: all but how sliders are folded, which gives the same images."""
    return {name: value for name, value in asdict(sampler).items() if name != "fold"}


def shown_units(calibration: Calibration, step: float = 0.5) -> Sequence[float]:
    """The multiples of `step` that the useful range holds, at most 13 of them around 0."""
    low, high = calibration.useful_effects
    numbers = range(max(-6, -int(-low / step + 1e-9)), min(6, int(high / step + 1e-9)) + 1)
    return [number * step for number in numbers]
