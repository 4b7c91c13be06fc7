"""Whether calibrated units keep their promise on seeds that they were not measured on: figures, table, picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from evaluation.report import Cell, Column, Row, Table
from evaluation.report.style import COLORS, GREY, MARKERS, TEXT_WIDTH, new_figure, styled, zero_lines
from evaluation.statistics import Measure, bootstrap_mean, to_record

RAW, CALIBRATED = "slider scale", "calibrated units"


@dataclass(frozen=True)
class Knob:
    """One slider turned in equal steps.

    Args:
        asked: where it was turned to, increasing in equal steps, 0 among them: slider scales, or units.
        changes: what it did to its target against 0, in units, of every row of prompt and seed.
    """

    asked: tuple[float, ...]
    changes: Float[Tensor, "rows asked"]

    @property
    def effects(self) -> dict[float, Measure]:
        """Where it was turned to, to the mean effect with its interval; 0 is left out."""
        columns = zip(self.asked, self.changes.T, strict=True)
        return {asked: bootstrap_mean(column) for asked, column in columns if asked}

    @property
    def unevenness(self) -> float:
        """Largest over smallest of the steps' mean effects: 1 where equal steps are equal; inf where a step is back."""
        means = self.changes.double().mean(0).tolist()
        steps = [after - before for before, after in pairwise(means)]
        return max(steps) / min(steps) if min(steps) > 0 else math.inf


Checked = Mapping[str, Mapping[str, Knob]]
"""Slider to `RAW` and `CALIBRATED` to its knob."""


def disagreement(knobs: Sequence[Knob], asked: float) -> float:
    """Largest over smallest effect of several sliders turned to the same place: 1 where all do the same.

    It is inf where one does nothing, or the reverse.

    Args:
        knobs: one per slider.
        asked: where all were turned to, not 0.
    """
    effects = [knob.effects[asked].mean / asked for knob in knobs]
    return max(effects) / min(effects) if min(effects) > 0 else math.inf


def largest_miss(knobs: Sequence[Knob]) -> float:
    """The largest |effect - asked| in units."""
    return max(abs(effect.mean - asked) for knob in knobs for asked, effect in knob.effects.items())


def shared(knobs: Sequence[Knob]) -> list[float]:
    """Where all sliders were turned to, without 0."""
    return [asked for asked in knobs[0].asked if asked and all(asked in knob.asked for knob in knobs)]


def check_record(checked: Checked) -> dict[str, object]:
    """Flat figures: effects by slider, knob and place, and how uneven and how different they are."""
    record: dict[str, object] = {}
    for kind in (RAW, CALIBRATED):
        prefix, knobs = kind.replace(" ", "_"), [each[kind] for each in checked.values()]
        for name, knob in zip(checked, knobs, strict=True):
            effects = {f"{prefix}/{name}/effect/{asked:+g}": effect for asked, effect in knob.effects.items()}
            record |= to_record(effects) | {f"{prefix}/{name}/unevenness": knob.unevenness}
        record |= {f"{prefix}/disagreement/{asked:+g}": disagreement(knobs, asked) for asked in shared(knobs)}
        record[f"{prefix}/largest_miss"] = largest_miss(knobs)
    return record


def check_table(checked: Checked, unit: str, rows: int) -> Table:
    """Effect by where the knob was turned to, for every slider by its scale and in units."""
    places = sorted({asked for each in checked.values() for knob in each.values() for asked in knob.asked if asked})
    lines = []
    for name, each in checked.items():
        for kind, knob in each.items():
            effects = knob.effects
            cells = [Cell(effects[at]) if at in effects else Cell(text="out of range") for at in places]
            lines.append(Row(kind, (*cells, Cell(text=f"{knob.unevenness:.2f}")), name))
    columns = [Column(f"{at:+g}") for at in places]
    return Table(
        title=f"Effect by where the knob is turned to, {unit}, {rows} rows of prompt and seed not calibrated on",
        columns=(*columns, Column("largest over smallest step")),
        rows=tuple(lines),
        heads=("slider", "knob"),
        notes=tuple(_note(kind, [each[kind] for each in checked.values()]) for kind in (RAW, CALIBRATED)),
    )


def _note(kind: str, knobs: Sequence[Knob]) -> str:
    ratios = ", ".join(f"{disagreement(knobs, at):.2f} at {at:+g}" for at in shared(knobs))
    off = f"; the largest difference from what was asked is {largest_miss(knobs):.2f}" if kind == CALIBRATED else ""
    return f"Largest over smallest effect of the sliders by {kind}: {ratios}{off}."


@styled
def check_figure(checked: Checked, unit: str) -> Figure:
    """Effect over scale on the left, over units on the right, one line per slider."""
    figure = new_figure(TEXT_WIDTH, 0.48 * TEXT_WIDTH)
    for axes, kind in zip(figure.subplots(1, 2, sharey=True), (RAW, CALIBRATED), strict=True):
        zero_lines(axes)
        for number, (name, each) in enumerate(checked.items()):
            _draw_knob(axes, each[kind], name, number)
        axes.set_xlabel(kind)
    left, right = figure.axes
    ends = right.get_xlim()
    right.plot(ends, ends, color=GREY, linestyle="--", linewidth=0.8, label="as asked", zorder=0.6)
    left.set_ylabel(unit.replace(" (", "\n(", 1))
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def _draw_knob(axes: Axes, knob: Knob, name: str, number: int) -> None:
    effects = {0.0: Measure(0.0, (0.0, 0.0), len(knob.changes)), **knob.effects}
    places = sorted(effects)
    means = [effects[at].mean for at in places]
    spread = [[abs(effects[at].ci95[end] - effects[at].mean) for at in places] for end in (0, 1)]
    color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
    axes.errorbar(places, means, yerr=spread, color=color, marker=marker, capsize=2, label=name)
