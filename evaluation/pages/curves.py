"""Dose-response curves as the shapes of an SVG picture: numbers in, coordinates out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.pages.document import scale_text, signed
from evaluation.pages.run_view import Curve, RunView

WIDTH, HEIGHT = 460, 320
LEFT, RIGHT, TOP, BOTTOM = 40, 14, 14, 40
TICKS = 6


@dataclass(frozen=True)
class Line:
    """One curve, drawn.

    Args:
        name: of the attribute.
        path: points of the line.
        band: points around its interval.
        dots: place of every point.
        label: what it says in words.
    """

    name: str
    path: str
    band: str
    dots: tuple[tuple[float, float], ...]
    label: str


@dataclass(frozen=True)
class Picture:
    """The parts of the SVG picture.

    Args:
        xticks: place and text of every scale.
        yticks: place and text of the rulings.
        target: the curve of what the slider should move.
        others: those of the other attributes.
    """

    xticks: tuple[tuple[float, str], ...]
    yticks: tuple[tuple[float, str], ...]
    target: Line
    others: tuple[Line, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def picture(view: RunView) -> Picture:
    """The curves of a run: what it should move and, in the same unit, what else moved."""
    others = view.others if view.unit == "sd" else ()
    ends = [end for curve in (view.target, *others) for m in curve.points for end in m.ci95]
    ticks = round_ticks(min(ends), max(ends))
    low, high = ticks[0], ticks[-1]
    xs = [
        LEFT + (scale - view.scales[0]) / (view.scales[-1] - view.scales[0]) * (WIDTH - LEFT - RIGHT)
        for scale in view.scales
    ]

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 2)

    def drawn(curve: Curve) -> Line:
        dots = tuple((round(x, 2), y(m.mean)) for x, m in zip(xs, curve.points, strict=True))
        lower = [(round(x, 2), y(m.ci95[0])) for x, m in zip(xs, curve.points, strict=True)]
        upper = [(round(x, 2), y(m.ci95[1])) for x, m in zip(xs, curve.points, strict=True)]
        told = ", ".join(
            f"{signed(m.mean)} at {scale_text(s)}" for s, m in zip(view.scales, curve.points, strict=True) if s
        )
        return Line(curve.name, _points(dots), _points([*lower, *upper[::-1]]), dots, f"{curve.name}: {told}")

    return Picture(
        xticks=tuple((round(x, 2), scale_text(scale)) for x, scale in zip(xs, view.scales, strict=True)),
        yticks=tuple((y(tick), f"{tick:+g}".replace("-", "\u2212") if tick else "0") for tick in ticks),
        target=drawn(view.target),
        others=tuple(map(drawn, others)),
    )


def round_ticks(low: float, high: float) -> list[float]:
    """Round numbers, evenly spaced, 0 among them, from at or below `low` to at or above `high`.

    Example:
        >>> round_ticks(-2.4, 1.9)
        [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0]
    """
    low, high = min(low, 0.0), max(high, 0.0)
    rough = max(high - low, 1e-6) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    numbers = range(math.floor(low / step), math.ceil(high / step) + 1)
    return [round(number * step, 9) for number in numbers]


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)
