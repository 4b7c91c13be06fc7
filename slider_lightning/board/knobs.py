"""The knobs of the board: one per slider, in slider scales or in calibrated units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from slider_lightning.adapters import Calibration, SliderMetadata
from slider_lightning.adapters.calibration import common_unit
from slider_lightning.errors import InputError

# For files that tell no useful range.
_USUAL_RANGE = (-2.0, 2.0)
_ROOM = 1.5
_DECIMALS = 4
_SCALE_STEP, _UNIT_STEP = 0.05, 0.01


@dataclass(frozen=True)
class KnobRange:
    """Where a knob can be turned.

    Args:
        lowest: its left end.
        highest: its right end.
        useful: the part in which the response is even.
        step: between neighbouring positions.
    """

    lowest: float
    highest: float
    useful: tuple[float, float]
    step: float

    def nearest(self, value: float) -> float:
        """The value itself, or the end that it lies beyond."""
        return min(max(value, self.lowest), self.highest)


@dataclass(frozen=True)
class Knob:
    """One slider's knob.

    Args:
        name: what the page calls the slider.
        useful_scales: slider_scales with an even response; None where the file does not say.
        calibration: its measured dose-response, if it has one.
    """

    name: str
    useful_scales: tuple[float, float] | None = None
    calibration: Calibration | None = None

    @classmethod
    def of(cls, name: str, metadata: SliderMetadata) -> Knob:
        """The knob of a slider file."""
        return cls(name, metadata.useful_scales, metadata.calibration)

    def range(self, calibrated: bool) -> KnobRange:
        """The useful range, with room beyond it in slider scales; a calibrated effect was measured in it alone."""
        if calibrated:
            low, high = self._calibration.useful_effects
            # Inwards, since beyond the measured effects there is no scale.
            useful = _on_steps(-math.floor(-low / _UNIT_STEP), math.floor(high / _UNIT_STEP), _UNIT_STEP)
            return KnobRange(*useful, useful, _UNIT_STEP)
        low, high = self.useful_scales or _USUAL_RANGE
        useful = (min(low, 0.0), max(high, 0.0))
        useful = useful if useful != (0.0, 0.0) else _USUAL_RANGE
        low, high = (_ROOM * end / _SCALE_STEP for end in useful)
        return KnobRange(*_on_steps(math.floor(low), math.ceil(high), _SCALE_STEP), useful, _SCALE_STEP)

    def scale(self, value: float, calibrated: bool) -> float:
        """The slider_scale of a position.

        Raises:
            InputError: if a calibrated effect lies beyond those measured.
        """
        return round(self._calibration.scale_of(value) if calibrated else float(value), _DECIMALS)

    def turned(self, value: float, calibrated: bool) -> float:
        """Where a position of the other kind lies when the kind becomes `calibrated`; at an end if beyond it."""
        known = self._calibration
        if calibrated:
            low, high = known.scales[0], known.scales[-1]
            value = known.effect_of(min(max(value, low), high))
        else:
            value = self.scale(self.range(True).nearest(value), True)
        wanted = self.range(calibrated)
        return wanted.nearest(round(round(value / wanted.step) * wanted.step, _DECIMALS))

    @property
    def _calibration(self) -> Calibration:
        if self.calibration is None:
            raise InputError(
                f"Expected a calibrated slider for units of effect, but {self.name} is not; run python -m "
                "evaluation.calibrate run=RUN, or turn slider scales."
            )
        return self.calibration


def shared_unit(knobs: Sequence[Knob]) -> str | None:
    """The unit in which all knobs can be turned; None if one is not calibrated, has no effect, or has another unit."""
    known = [knob.calibration for knob in knobs if knob.calibration is not None]
    if len(known) < len(knobs) or any(each.useful_effects == (0, 0) for each in known):
        return None
    try:
        return common_unit(known)
    except InputError:
        return None


def _on_steps(low: int, high: int, step: float) -> tuple[float, float]:
    """Two ends counted in steps, without what rounding leaves behind."""
    return round(low * step, _DECIMALS), round(high * step, _DECIMALS)
