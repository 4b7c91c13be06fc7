"""The tables of edited photographs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from evaluation.judges.panel import Judges
from evaluation.report.table import Cell, Column, Row, Table
from evaluation.statistics import Measure, bootstrap_mean
from experiments.paper.claims import FAILS, HOLDS, UNDECIDED
from experiments.paper.photographs_measures import Edits, Readings, Truth, distance_ratio, squared_error_ratio

# What the default method is held to: error at scale 0 over the VAE's, shift of the target, share of faces that flip.
LARGEST_ERROR, LEAST_SHIFT, LARGEST_FLIPS = 1.25, 1.0, 0.05
MIDDLE = (0.25, 0.75)


@dataclass(frozen=True)
class Faces:
    """The photographs that were edited.

    Args:
        images: in [0, 1].
        round_trip: through the VAE.
        truth: attribute -> value, or index of the class.
    """

    images: Float[Tensor, "faces 3 height width"]
    round_trip: Float[Tensor, "faces 3 height width"]
    truth: Truth


@dataclass(frozen=True)
class Measured:
    """The figures of one method under one prompt.

    Args:
        figures: name of the figure, as the table heads it.
        readings: of the judge.
    """

    figures: Mapping[str, Measure]
    readings: Readings

    @classmethod
    def of(cls, edits: Edits, faces: Faces, judges: Judges, target: str, protected: Sequence[str]) -> Measured:
        """Measures edits; `target` is continuous in [0, 1], what is `protected` are classes."""
        readings = Readings.of(judges.classifier, edits.images, faces.truth)
        zero, shift = edits.images[:, 1], readings.shift(target)
        middle = (faces.truth[target] >= MIDDLE[0]) & (faces.truth[target] <= MIDDLE[1])
        at_zero = {
            "squared error at 0": squared_error_ratio(zero, faces.round_trip, faces.images),
            "distance at 0": distance_ratio(judges.distance, zero, faces.round_trip, faces.images),
        }
        moved = {target: bootstrap_mean(shift), f"{target}, middle half": bootstrap_mean(shift[middle])}
        flips = {f"{name} flips": bootstrap_mean(readings.flips(name).double()) for name in protected}
        return cls(at_zero | moved | flips, readings)

    def verdict(self, target: str, protected: str) -> str:
        """Whether the bar is met, by the ends of the intervals."""
        error, shift = self.figures["squared error at 0"].ci95, self.figures[target].ci95
        flips = self.figures[f"{protected} flips"].ci95
        if error[1] <= LARGEST_ERROR and shift[0] >= LEAST_SHIFT and flips[1] <= LARGEST_FLIPS:
            return HOLDS
        missed = error[0] > LARGEST_ERROR or shift[1] < LEAST_SHIFT or flips[0] > LARGEST_FLIPS
        return FAILS if missed else UNDECIDED


def edit_table(
    measured: Mapping[tuple[str, str], Measured],
    edits: Mapping[tuple[str, str], Edits],
    judges: Judges,
    target: str,
    protected: Sequence[str],
    notes: Sequence[str],
) -> Table:
    """One row per prompt and method.

    Args:
        measured: by prompt and method.
        edits: that were measured.
        judges: who measured.
        target: what should move.
        protected: what must not flip; the first is held to the bar.
        notes: how the images were made.
    """
    names = list(next(iter(measured.values())).figures)
    rows = []
    for (prompt, method), found in measured.items():
        cost, count = edits[prompt, method].cost, len(edits[prompt, method].images)
        figures = [Cell(found.figures[name]) for name in names]
        texts = (f"{cost.sample_forwards / count:.0f}", f"{cost.seconds / count:.2f}")
        verdict = found.verdict(target, protected[0])
        rows.append(Row(method, (*figures, *(Cell(text=text) for text in (*texts, verdict))), group=prompt))
    extremes = (
        "A flip is a class that is not the true one at either end, in the judge's eyes. The target's shift is from the "
        "lowest to the highest scale, in standard deviations of the world, over faces of all ages: at the ends of its "
        f"range it cannot move on; the middle half is that of the true values from {MIDDLE[0]} to {MIDDLE[1]}."
    )
    bar = (
        f"The bar: squared error at scale 0 at most {LARGEST_ERROR} times that of the VAE's own round trip, a shift of "
        f"at least {LEAST_SHIFT}, and {protected[0]} flips in at most {LARGEST_FLIPS:.0%} of the faces; it holds where "
        "the whole intervals keep to it."
    )
    ratios = f"Errors and distances ({judges.distance.name}) at 0 are ratios to those of the VAE's round trip."
    return Table(
        title="Photographs edited by a slider",
        columns=(*(Column(name, 3) for name in names), Column("sample-forwards"), Column("seconds"), Column("bar")),
        rows=tuple(rows),
        heads=("prompt", "method"),
        notes=(*notes, ratios, extremes, bar, "Costs are per face for the three images."),
    )


def drift_table(
    measured: Mapping[tuple[str, str], Measured], faces: Faces, judges: Judges, target: str, prompt: str
) -> Table:
    """How far every other attribute lies from the truth after the edits, by method, and before them."""
    before = Readings.of(judges.classifier, faces.images[:, None], faces.truth)
    columns = {"photographs": before} | {name: each.readings for (p, name), each in measured.items() if p == prompt}
    attributes = [attribute for attribute in judges.classifier.schema if attribute.name != target]
    rows = [Row(each.name, tuple(Cell(found.drift(each.name)) for found in columns.values())) for each in attributes]
    return Table(
        title=f"What else the edits change, under the prompt '{prompt}'",
        columns=tuple(Column(name, 3) for name in columns),
        rows=tuple(rows),
        heads=("", "attribute"),
        notes=(
            "Means over both ends. Continuous attributes: absolute deviation from the truth in standard deviations of "
            f"the world; classes: share of images read as another class. Judge: {judges.classifier.name}; the first "
            "column is its own error.",
        ),
    )


def strip_rows(
    faces: Faces, edits: Mapping[tuple[str, str], Edits], prompt: str, number: int
) -> tuple[Float[Tensor, "methods 5 3 h w"], list[str]]:
    """One face under every method: the photograph, its round trip, the three scales."""
    shown = {method: each for (p, method), each in edits.items() if p == prompt}
    source = torch.stack([faces.images[number], faces.round_trip[number]])
    return torch.stack([torch.cat([source, each.images[number]]) for each in shown.values()]), list(shown)
