"""What a run's figures say in a sentence and in a few tiles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from evaluation.pages.document import MINUS, scale_text
from evaluation.pages.run_view import DEVIATIONS, RunView
from evaluation.statistics import Measure


@dataclass(frozen=True)
class Tile:
    """A headline figure.

    Args:
        value: the figure.
        interval: its 95 % interval.
        label: what it is.
        n: number of samples.
    """

    value: str
    interval: str
    label: str
    n: int


def verdict(view: RunView) -> str:
    """One sentence: how far the target moves between the outermost scales, and at what price."""
    span = f"Between the scales {scale_text(view.scales[0])} and {scale_text(view.scales[-1])}"
    target = view.target.name.replace("_", " ")
    if view.unit == DEVIATIONS:
        name = view.target.name.partition("=")[0]
        moved = view.figures.get(f"eval/attribute_range/{name}")
        parts = [f"{span} {target} moves by {plain(moved, 2)} standard deviations"] if moved else []
    else:
        last = view.target.points[-1]
        parts = [f"At the scale {scale_text(view.scales[-1])} the CLIP score moves by {plain(last, 2)}"]
    if "eval/selectivity" in view.figures:
        parts.append(f"{view.figures['eval/selectivity'].mean:.1f} times as far as the other attributes on average")
    sentence = ", ".join(parts)
    protected = [
        curve.name.replace("_", " ") for curve in view.flips if f"eval/interference/{curve.name}" in view.figures
    ]
    if "eval/interference" in view.figures and protected:
        share = percent(view.figures["eval/interference"])
        sentence += f"; {share} of the edited images change their {' or '.join(protected)}"
    return f"{sentence}."


def tiles(view: RunView) -> tuple[Tile, ...]:
    """The headline figures that were measured."""
    return tuple(_tiles(view.figures, view))


def _tiles(figures: Mapping[str, Measure], view: RunView) -> Iterator[Tile]:
    name, low, high = view.target.name.partition("=")[0], *map(scale_text, (view.scales[0], view.scales[-1]))
    known = {
        f"eval/attribute_range/{name}": (f"standard deviations of {name.replace('_', ' ')}, {low} to {high}", "number"),
        "eval/selectivity": ("selectivity: shift of the target over the mean shift of the others", "number"),
        "eval/interference": ("of edited images flip a protected attribute", "share"),
        "eval/monotone_share": ("of seeds rise with the scale", "share"),
        f"eval/distance/{view.scales[-1]:+g}": (f"{view.judges['distance']}, at {high}", "number"),
    }
    for key, (label, kind) in known.items():
        if key in figures and not (view.unit != DEVIATIONS and key.startswith("eval/attribute_range")):
            text = percent(figures[key]) if kind == "share" else plain(figures[key], 2)
            value, _, interval = text.partition(" [")
            yield Tile(value, f"[{interval}", label, figures[key].n)


def plain(measure: Measure, digits: int) -> str:
    """A figure with its interval, e.g. "4.00 [3.90, 4.08]"."""
    mean, low, high = (f"{value:.{digits}f}".replace("-", MINUS) for value in (measure.mean, *measure.ci95))
    return f"{mean} [{low}, {high}]"


def percent(measure: Measure) -> str:
    """A share with its interval, e.g. "25 % [19, 32]"."""
    mean, low, high = (f"{100 * value:.0f}" for value in (measure.mean, *measure.ci95))
    return f"{mean} % [{low}, {high}]"
