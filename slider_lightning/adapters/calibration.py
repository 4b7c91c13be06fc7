"""The measured dose-response of a slider: from units of effect, the same for every slider, to slider_scale and back.

+1 in calibrated units moves what the slider turns by one unit of `Calibration.unit`, as its judge measured it, for
every slider calibrated in that unit, and equal steps are equal measured effects. A calibration holds for the model and
the sampler that it was measured with.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from slider_lightning.errors import InputError

Range = tuple[float, float]
# Of effects, in units: what rounding may take an effect beyond the end of its range.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Calibration:
    """The measured dose-response of one slider, its effect being linear between the measured scales.

    Args:
        target: what was measured, e.g. "age".
        unit: what an effect of 1 is and who measured it, e.g. "standard deviation (tiny_faces attribute probe)".
        scales: slider_scales, strictly increasing, 0 among them.
        effects: mean effect at each scale against scale 0, in units; 0 at scale 0.
        lows: lower ends of the effects' 95 % intervals.
        highs: upper ends.
        fit: the effects made never to fall as the scale rises; 0 at scale 0.
        useful_scales: (lowest, highest) of `scales` between which the response grows; next to 0 it may be flat, where a
            slider begins to act at some scale only.
        saturation: (below 0, above 0) the scale from which on the response stops growing; None where it was not seen.
        rows: images at each scale, one per prompt and seed.
        prompts: their prompts.
        sampler: what of the sampler decides the effect, e.g. num_inference_steps, guidance_scale, start_timestep.
        model: fingerprint of the backbone.

    Raises:
        ValueError: if the values do not belong together.
    """

    target: str
    unit: str
    scales: tuple[float, ...]
    effects: tuple[float, ...]
    lows: tuple[float, ...]
    highs: tuple[float, ...]
    fit: tuple[float, ...]
    useful_scales: Range
    saturation: tuple[float | None, float | None] = (None, None)
    rows: int = 0
    prompts: tuple[str, ...] = ()
    sampler: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None

    def __post_init__(self) -> None:
        for name in ("scales", "effects", "lows", "highs", "fit", "useful_scales"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        for name in ("saturation", "prompts"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "sampler", _plain(self.sampler))
        columns = (self.effects, self.lows, self.highs, self.fit)
        if any(len(column) != len(self.scales) for column in columns) or 0 not in self.scales:
            raise ValueError("Expected an effect with its interval at every scale of a calibration, 0 among them.")
        if not all(map(math.isfinite, (*self.scales, *self.effects, *self.lows, *self.highs, *self.fit))):
            raise ValueError("Expected finite scales and effects of a calibration.")
        rising = all(a < b for a, b in pairwise(self.scales)) and all(a <= b for a, b in pairwise(self.fit))
        if not rising or self.fit[self.scales.index(0)] != 0:
            raise ValueError("Expected a calibration's scales to rise, and its fit through 0 never to fall.")
        low, high = self.useful_scales
        if not {low, high} <= set(self.scales) or not low <= 0 <= high:
            raise ValueError(f"Expected the useful range to end at measured scales around 0, but got {low}..{high}.")

    @property
    def useful_effects(self) -> Range:
        """(lowest, highest) effect that can be asked for, in units; (0, 0) if none was measured."""
        inside = self._inside(self.fit)
        return inside[0], inside[-1]

    def scale_of(self, units: float) -> float:
        """The slider_scale at which the measured effect is `units`, the inverse of `effect_of`.

        Raises:
            InputError: if the slider has no effect in that direction, or `units` lies beyond the useful range.
        """
        low, high = self.useful_effects
        lowest, highest = self.useful_scales
        if low == high:
            raise InputError(
                f"Expected a slider with a measured effect on {self.target}, but no effect was measured; train it "
                "longer, or give slider scales instead of units."
            )
        if not low - _ROUNDING <= units <= high + _ROUNDING:
            raise InputError(
                f"Expected units of {self.target} in {low:.3g}..{high:.3g}, where the slider was measured to act "
                f"evenly (scales {lowest:g}..{highest:g}), but got {units:g}; ask for less."
            )
        # Where small scales do nothing, an effect of 0 has many: it is the slider that is off.
        return float(np.interp(units, self._inside(self.fit), self._inside(self.scales))) if units else 0.0

    def effect_of(self, scale: float) -> float:
        """The effect at a slider_scale, in units; by the fit, so it never falls as the scale rises.

        Raises:
            InputError: if the scale lies beyond those that were measured.
        """
        if not self.scales[0] <= scale <= self.scales[-1]:
            raise InputError(
                f"Expected a slider scale in {self.scales[0]:g}..{self.scales[-1]:g}, where the effect on "
                f"{self.target} was measured, but got {scale:g}; calibrate over wider scales."
            )
        return float(np.interp(scale, self.scales, self.fit))

    def _inside(self, column: Sequence[float]) -> Sequence[float]:
        """The values of a column at the useful scales."""
        first, last = (self.scales.index(end) for end in self.useful_scales)
        return column[first : last + 1]


def common_unit(calibrations: Sequence[Calibration]) -> str:
    """The unit of several sliders that are turned together.

    Raises:
        InputError: if there is none, or the units differ in kind or judge, as standard deviations and CLIP scores do.
    """
    units = {each.unit: each.target for each in calibrations}
    if len(units) != 1:
        found = " and ".join(f"{unit} for {target}" for unit, target in units.items()) or "no calibrated slider"
        raise InputError(
            f"Expected sliders calibrated in one unit, but got {found}; calibrate all with the same judges, or give "
            "slider scales instead of units."
        )
    return next(iter(units))


def check_settings(calibration: Calibration, model: str, sampler: Mapping[str, Any]) -> str | None:
    """One sentence where images are made with another model or sampler than the calibration was; None where not.

    Args:
        calibration: of the slider.
        model: fingerprint of the backbone that makes the images.
        sampler: its settings; those that the calibration does not name decide nothing.
    """
    given = _plain(sampler)
    differing = [
        f"{name}={given[name]} instead of {value}"
        for name, value in calibration.sampler.items()
        if name in given and given[name] != value
    ]
    if calibration.model not in (None, model):
        differing.append("another model than the one measured")
    if not differing:
        return None
    return (
        f"The effect on {calibration.target} was calibrated under other settings, so units may be off: images are made "
        f"with {', '.join(differing)}."
    )


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON gives them back, so that what a file says compares with what a class holds."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(settings)))
    return plain
