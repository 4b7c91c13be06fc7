"""A ranking of style channels as a table, a heat map, and faces along the moves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from evaluation.attributes import Schema
from evaluation.report.figures import Heatmap
from evaluation.report.style import styled
from evaluation.report.table import ABSENT, Cell, Column, Row, Table
from evaluation.statistics import Measure
from evaluation.style_channels.ranking import ChannelRanking, RankedChannel
from evaluation.style_channels.readings import CLIP, EYE_AREA
from slider_lightning.data.style_space import StyleSpace
from slider_lightning.generation import draw_strip, format_scales

MOVES = (-2.0, -1.0, 0.0, 1.0, 2.0)


def ranking_table(ranking: ChannelRanking, with_effects: bool = True) -> Table:
    """The finalists, best first.

    Args:
        ranking: of at least one channel.
        with_effects: whether the effects on everything that the judges read stand beside, too wide for a terminal.
    """
    named = [name for ranked in ranking.channels for name in ranked.effects]
    effects = list(dict.fromkeys(named)) if with_effects else []
    columns = [Column("score"), Column(f"effect on {ranking.target}", 3), Column("drift", 3), Column("selectivity")]
    return Table(
        title=f"Style channels of {ranking.generator} for {ranking.target}",
        columns=(*columns, *(Column(_heading(name), 3) for name in effects)),
        rows=tuple(_row(ranked, effects) for ranked in ranking.channels),
        heads=("", "channel"),
        notes=_notes(ranking),
    )


def _row(ranked: RankedChannel, effects: Sequence[str]) -> Row:
    own = [ranked.score, ranked.effect, ranked.drift, ranked.selectivity]
    return Row(ranked.name, (*map(_cell, own), *(_cell(ranked.effects.get(name)) for name in effects)))


def _cell(measure: Measure | None) -> Cell:
    return Cell(text=ABSENT) if measure is None else Cell(measure)


def _heading(name: str) -> str:
    return {EYE_AREA: "eye area (relative)", CLIP: "CLIP score"}.get(name, name)


def _notes(ranking: ChannelRanking) -> tuple[str, ...]:
    settings = ranking.settings
    hidden = [f"{ranked.without_eyes} with {ranked.name}" for ranked in ranking.channels if ranked.without_eyes]
    return (
        f"Effects per deviation of the channel's style, from moves of ±{settings.strength:g} deviations: mean over "
        "faces of (reading at + minus reading at -) / (2 x strength). Attributes in standard deviations of the world, "
        "of one with more than two classes the length of its shift, without a sign; eye area relative to the mean area "
        "of the unmoved faces. Figures stand with their 95 % bootstrap interval over faces.",
        f"Score = |effect| / (drift + {settings.charge:g}); drift = mean |effect| on the attributes that are not "
        f"meant; {settings.charge:g} is what a deviation of the move is charged; selectivity = |effect| / drift.",
        f"{ranking.screened} channels were tried on {settings.screened_faces} faces; the best {len(ranking.channels)} "
        f"stand here, measured on {settings.faces} other faces.",
        *([f"Faces whose eyes were not found: {', '.join(hidden)}."] if hidden else []),
        f"Judges: {'; '.join(f'{role}: {name}' for role, name in ranking.judges.items())}.",
    )


@styled
def effects_figure(ranking: ChannelRanking, schema: Schema) -> Figure:
    """Channel x attribute: mean shift from -strength to +strength, turned so that the target rises.

    Args:
        ranking: of at least one channel.
        schema: the classifier's attributes.
    """
    whole = 2 * ranking.settings.strength
    values, texts = [], []
    for ranked in ranking.channels:
        turned = [ranked.effects[a.name].mean * whole * (ranked.sign if a.width < 3 else 1) for a in schema]
        values.append(turned)
        texts.append([_shift_text(shift, a.width < 3) for shift, a in zip(turned, schema, strict=True)])
    shifts = np.array(values)
    limit = max(float(np.abs(shifts).max()), 1e-6)
    names = [f"{'−' if ranked.sign < 0 else '+'} {ranked.name}" for ranked in ranking.channels]
    title = f"Shift over ±{ranking.settings.strength:g} deviations (standard deviations)"
    return Heatmap(names, [a.name for a in schema], shifts, texts).draw("RdBu_r", (-limit, limit), title)


def _shift_text(shift: float, has_sign: bool) -> str:
    return format(shift, "+z.2f" if has_sign else ".2f").replace("-", "−")


def channel_strip(
    space: StyleSpace, ranking: ChannelRanking, channels: Sequence[RankedChannel], seeds: Sequence[int]
) -> Image.Image:
    """Some faces along the moves of some channels, from -2 to +2 strengths, the target rising to the right.

    Args:
        space: the generator that was ranked.
        ranking: for strength and truncation.
        channels: of the ranking.
        seeds: of the faces.
    """
    ws = space.latents(seeds, ranking.settings.truncation_psi)
    moves = [step * ranking.settings.strength for step in MOVES]
    rows, labels = [], []
    for ranked in channels:
        images = torch.stack([space.render(ws, {ranked.channel: ranked.sign * move}) for move in moves], dim=1)
        rows.append(images.cpu())
        labels += [f"{'-' if ranked.sign < 0 else '+'}{ranked.name}, seed {seed}" for seed in seeds]
    title = f"{ranking.generator} | best style channels for {ranking.target} | moves in deviations of the channel"
    return draw_strip(torch.cat(rows), labels, [format_scales(move) for move in moves], title)
