"""A sweep as one table: a pure function of its points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath

from evaluation.report import Cell, Column, Row, Table
from evaluation.report.table import ABSENT
from evaluation.statistics import Measure
from evaluation.sweep_points import Point, value_label

TARGET_SHIFT, INTERFERENCE, FRONT = "target shift", "interference", "on the front"
COSTS = ("seconds", "sample_forwards")


def quantities(point: Point) -> dict[str, Measure]:
    """The figures of a point that a sweep compares, by their headings; empty where it was not measured.

    The target's shift is from the lowest to the highest scale, in standard deviations; the distance is that at the
    highest scale.
    """
    figures = point.figures or {}
    scale = max((point.settings or {}).get("scales") or [0])
    keys = {
        TARGET_SHIFT: f"eval/attribute_range/{point.target.partition('=')[0]}",
        "monotone share": "eval/monotone_share",
        "selectivity": "eval/selectivity",
        INTERFERENCE: "eval/interference",
        "distance": f"eval/distance/{scale:+g}",
    }
    return {name: figures[key] for name, key in keys.items() if key in figures}


def pareto_front(points: Sequence[Point]) -> tuple[Point, ...]:
    """The points that no other one beats: none has as much shift with less interference, or more with as little."""
    ends = [(q[TARGET_SHIFT].mean, -q[INTERFERENCE].mean) if has_both(q := quantities(p)) else None for p in points]

    def beaten(own: tuple[float, float]) -> bool:
        return any(other and other != own and other[0] >= own[0] and other[1] >= own[1] for other in ends)

    return tuple(point for point, own in zip(points, ends, strict=True) if own and not beaten(own))


def has_both(found: Mapping[str, Measure]) -> bool:
    """Whether both objectives are among the figures."""
    return TARGET_SHIFT in found and INTERFERENCE in found


def sweep_table(title: str, points: Sequence[Point]) -> Table:
    """One row per point: its axes, figures with intervals, costs, and how it ended.

    Args:
        title: of the table.
        points: at least one.
    """
    front = pareto_front(points)
    names = list(dict.fromkeys(name for point in points for name in quantities(point)))
    axes = list(points[0].values)
    columns = [*(Column(axis) for axis in axes), *(Column(name) for name in names)]
    columns += [Column(FRONT), Column("seconds"), Column("sample-forwards"), Column("status")]
    rows = []
    for point in points:
        found = quantities(point)
        cells = [Cell(text=value_label(value)) for value in point.values.values()]
        cells += [Cell(found[name]) if name in found else Cell(text=ABSENT) for name in names]
        cells += [Cell(text="yes" if point in front else ABSENT), *(Cell(text=cost_text(point, c)) for c in COSTS)]
        rows.append(Row(run_label(point), (*cells, Cell(text=point.status))))
    return Table(title, tuple(columns), tuple(rows), heads=("", "run"), notes=sweep_notes(points))


def run_label(point: Point) -> str:
    """The last two parts of a run's folder."""
    return "/".join(PurePath(point.run).parts[-2:]) or ABSENT


def cost_text(point: Point, unit: str) -> str:
    """What cache and training of a run cost."""
    costs = [(point.costs or {}).get(f"cost/{unit}/{stage}") for stage in ("cache", "train")]
    known = [cost for cost in costs if cost is not None]
    return f"{sum(known):.0f}" if known else ABSENT


def sweep_notes(points: Sequence[Point]) -> tuple[str, ...]:
    """What a reader must know of the figures, and why points failed."""
    measured = [point for point in points if point.figures]
    settings = {str(point.settings) for point in measured}
    first = measured[0].settings if measured else None
    how = (
        [f"Measured at the scales {', '.join(f'{s:g}' for s in first['scales'])} with 95 % intervals."] if first else []
    )
    mixed = ["Points were measured with different settings: compare them with care."] if len(settings) > 1 else []
    failed = [
        f"{point.status}: {', '.join(f'{key} = {value_label(value)}' for key, value in point.values.items())}"
        f": {point.error or 'without a word'}"
        for point in points
        if point.status != "finished"
    ]
    front = f"{FRONT}: no other point has as much {TARGET_SHIFT} with less {INTERFERENCE}."
    return (*how, *mixed, front, "Costs are of cache and training; a cache that lay there cost nothing.", *failed)
