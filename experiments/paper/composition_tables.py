"""The tables and the figure of composed sliders, pure functions of verdicts and measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations_with_replacement

import numpy as np
import torch
from matplotlib.figure import Figure

from evaluation.report import Cell, Column, Published, PublishedFigure, Row, Table
from evaluation.report.style import new_figure, styled
from evaluation.statistics import Measure, bootstrap_mean
from experiments.paper.composition_pairs import PairRule, PairVerdict, Strength, common_faults, compose_share

PUBLISHED = Published(
    "Measured Sliders (2609.05234)",
    ("share of pairs that compose",),
    {"Concept Sliders on SDXL, other attributes and judges": (PublishedFigure(0.967, "2", 3),)},
)
FAULTS_LISTED = 60


def strength_table(strengths: Mapping[str, Strength | None], targets: Mapping[str, str], rule: PairRule) -> Table:
    """The scale at which every slider is composed."""
    rows = []
    for name, strength in strengths.items():
        texts = (
            (f"{strength.scale:.2f}", f"{strength.effect:.2f}", "yes" if strength.saturated else "no")
            if strength
            else ("-", "no effect", "-")
        )
        rows.append(Row(name, tuple(Cell(text=text) for text in (targets[name], *texts))))
    return Table(
        title="The sliders that are paired, and how strong each is",
        columns=(Column("target"), Column("scale"), Column("effect, standard deviations"), Column("end of its range")),
        rows=tuple(rows),
        heads=("", "slider"),
        notes=(
            f"The scale of an effect of {rule.effect:g} standard deviation, or the end of the useful range where that "
            "is less; found on other seeds than those of the pairs.",
        ),
    )


def pair_table(verdicts: Sequence[PairVerdict], kinds: Mapping[str, str], rule: PairRule) -> Table:
    """Shares of pairs that compose, by the kinds of their sliders."""
    groups: dict[str, list[PairVerdict]] = {"all pairs": list(verdicts)}
    for first, second in combinations_with_replacement(sorted(set(kinds.values())), 2):
        found = [v for v in verdicts if sorted(kinds[name] for name in v.names) == sorted((first, second))]
        if len(found) > 1:
            groups[f"{first} with {second}"] = found
    return Table(
        title="Pairs of sliders that compose",
        columns=(
            Column("share of pairs that compose", 3),
            Column("share kept of the effect alone, median"),
            Column("lowest"),
            Column("largest drift, median"),
            Column("highest"),
        ),
        rows=tuple(Row(name, _pair_cells(found)) for name, found in groups.items()),
        heads=("", "pairs"),
        notes=(
            f"A pair composes if both targets keep at least {rule.least_kept:.0%} of their shift alone and no other "
            f"attribute drifts by more than {rule.largest_drift:g} standard deviations.",
            "The interval is over pairs, as if they were drawn from more of their kind; pairs share sliders and seeds.",
        ),
        published=(PUBLISHED,),
    )


def fault_table(verdicts: Sequence[PairVerdict]) -> Table:
    """The pairs that do not compose, and what they have in common."""
    failed = [verdict for verdict in verdicts if verdict.faults]
    rows = [
        Row(" + ".join(verdict.names), (Cell(text="; ".join(verdict.faults)),), "pair")
        for verdict in failed[:FAULTS_LISTED]
    ]
    common = [
        Row(what, (Cell(text=f"{count} of {total} pairs"),), "in common")
        for what, (count, total) in common_faults(verdicts).items()
    ]
    return Table(
        title=f"The {len(failed)} of {len(verdicts)} pairs that do not compose",
        columns=(Column("what"),),
        rows=(*common, *rows) or (Row("none", (Cell(text="every pair composes"),)),),
        heads=("", "which"),
        notes=(f"Only {FAULTS_LISTED} pairs are listed.",) if len(failed) > FAULTS_LISTED else (),
    )


def many_table(found: Mapping[int, Mapping[str, Measure]], scale: float, features: str) -> Table:
    """What composing more and more sliders does.

    Args:
        found: number of sliders to its figures, by the names of the columns.
        scale: of every slider.
        features: whose features FID and KID compare.
    """
    names = list(dict.fromkeys(name for figures in found.values() for name in figures))
    digits = {"FID": 1, "KID": 4}
    rows = [
        Row(str(count), tuple(Cell(figures[name]) if name in figures else Cell(text="-") for name in names))
        for count, figures in found.items()
    ]
    return Table(
        title="Many sliders at once",
        columns=tuple(Column(name, next((d for key, d in digits.items() if key in name), 2)) for name in names),
        rows=tuple(rows),
        heads=("", "sliders"),
        notes=(
            f"Every slider at scale +{scale:g} or -{scale:g}, neighbours in a drawn order turning opposite ways.",
            "Own effect kept: what the target of a slider loses when that slider alone is taken out, summed over the "
            "sliders measured, over the sum of their effects alone.",
            f"FID and KID on {features}, as changes against the unedited images; below 0 is nearer to good images.",
        ),
    )


@styled
def pair_figure(verdicts: Sequence[PairVerdict], names: Sequence[str]) -> Figure:
    """A matrix of pairs: above the diagonal the smaller kept share, below it the largest drift; faults are framed."""
    figure = new_figure(6.75, 6.1)
    axes = figure.subplots()
    kept, drift = (np.full((len(names), len(names)), np.nan) for _ in range(2))
    for verdict in verdicts:
        row, column = sorted(names.index(name) for name in verdict.names)
        kept[row, column] = min(measure.mean for measure in verdict.kept)
        drift[column, row] = verdict.largest_drift[1]
        if verdict.faults:
            axes.plot([column, row], [row, column], "s", markersize=11, markerfacecolor="none", color="black")
    shown_kept = axes.imshow(kept, cmap="viridis", vmin=0.4, vmax=1.2)
    shown_drift = axes.imshow(drift, cmap="magma_r", vmin=0, vmax=0.7)
    axes.set_xticks(range(len(names)), [name.replace("_", " ") for name in names], rotation=90)
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.grid(visible=False)
    figure.colorbar(shown_kept, ax=axes, shrink=0.45, label="above: smaller kept share", pad=0.02)
    figure.colorbar(shown_drift, ax=axes, shrink=0.45, label="below: largest drift (sd)", pad=0.02)
    return figure


def summary_of(verdicts: Sequence[PairVerdict]) -> dict[str, float]:
    """The figures that a summary keeps."""
    return {"composition/pairs": float(len(verdicts)), "composition/share": compose_share(verdicts)}


def _pair_cells(verdicts: Sequence[PairVerdict]) -> tuple[Cell, ...]:
    composes = bootstrap_mean(torch.tensor([float(not verdict.faults) for verdict in verdicts]))
    kept = sorted(min(measure.mean for measure in verdict.kept) for verdict in verdicts)
    drift = sorted(verdict.largest_drift[1] for verdict in verdicts)
    texts = (kept[len(kept) // 2], kept[0], drift[len(drift) // 2], drift[-1])
    return Cell(composes), *(Cell(text=f"{value:.2f}") for value in texts)
