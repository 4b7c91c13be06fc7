"""The tables of the transfer: the two effect vectors side by side, and how alike they are."""

from __future__ import annotations

from collections.abc import Mapping

from evaluation.measurements import Measurements
from evaluation.report.table import ABSENT, Cell, Column, Row, Table
from evaluation.statistics import Measure, bootstrap_mean
from evaluation.sweeps import target_values
from experiments.paper.claims import FAILS, HOLDS, SIGNIFICANT, UNDECIDED
from experiments.paper.published import model_name
from experiments.paper.rows import common_notes
from experiments.paper.transfer_vectors import (
    EffectRows,
    chance,
    effect_rows,
    eye_area_effect,
    pearson,
    similarity,
    spearman,
)

ALL = "all prompts"
EYE_AREA = "eye area (relative)"
STATISTICS = {"Pearson": pearson, "Spearman": spearman}


def by_prompts(slider: Measurements) -> dict[str, Measurements]:
    """A slider's measurements on all prompts, and on each noun where there are several."""
    nouns = slider.nouns if len(slider.nouns) > 1 else ()
    return {ALL: slider, **{noun: slider.only(noun) for noun in nouns}}


def vector_table(gan: Measurements, slider: Measurements, move: str) -> Table:
    """Every attribute's change per unit of slider scale, of the generator's move and of the slider.

    Args:
        gan: of the generator's faces at the moves that the scales stand for.
        slider: of the slider's images.
        move: what is moved in the generator, in words.
    """
    parts = {"StyleGAN": gan, **{f"slider, {name}": found for name, found in by_prompts(slider).items()}}
    vectors = {name: effect_rows(found).measures() for name, found in parts.items()}
    rows = [Row(entry, tuple(Cell(vector[entry]) for vector in vectors.values())) for entry in effect_rows(gan).entries]
    areas = [eye_area_effect(found) for found in parts.values()]
    if any(areas):
        rows.append(Row(EYE_AREA, tuple(Cell(area) if area else Cell(text=ABSENT) for area in areas)))
    return Table(
        title=f"Effects of the StyleGAN's move and of the slider trained on it, on {model_name(slider)}",
        columns=tuple(Column(name, 3) for name in parts),
        rows=tuple(rows),
        heads=("", "attribute"),
        notes=(
            *common_notes({"slider": slider}),
            f"Moved in the StyleGAN: {move}. Its faces are not those of the training.",
            f"Change from scale {slider.header.scales[0]:+g} to {slider.header.scales[-1]:+g} per unit of scale: "
            "attributes in standard deviations of the world (of a class, of its share), eye area relative to the mean "
            "area at scale 0. The slider's columns hold images of prompts; the StyleGAN has none.",
        ),
    )


def similarity_table(gan: Measurements, slider: Measurements, target: str | None) -> Table:
    """How the slider's vector correlates with the StyleGAN's, and whether its target rises, for all prompts and each.

    Args:
        gan: of the generator's faces.
        slider: of the slider's images.
        target: the classifier's attribute that should move; None where it reads none.
    """
    reference = effect_rows(gan)
    columns = [Column("target per unit of scale"), Column("target rises")] if target else []
    for kind in _kinds(target):
        columns += [*(Column(f"{name}, {kind}") for name in STATISTICS), Column(f"correlates, {kind}")]
    rows = []
    for name, found in by_prompts(slider).items():
        cells = list(_target_cells(found, target)) if target else []
        for kind in _kinds(target):
            cells += _likeness_cells(*_of_kind(kind, reference, effect_rows(found), target))
        rows.append(Row(name, tuple(cells)))
    return Table(
        title=f"Likeness of the slider to the StyleGAN's move, on {model_name(slider)}",
        columns=tuple(columns),
        rows=tuple(rows),
        heads=("", "prompts"),
        notes=(
            *common_notes({"slider": slider}),
            f"Correlations over the {len(reference.entries)} entries of the effect vectors; their intervals resample "
            "the StyleGAN's faces and the slider's images, each on its own. The classes of one attribute are entries "
            "that depend on each other. "
            + ("Without the target nothing is left that the two share by choice. " if target else "")
            + "A statement holds where its 95 % interval lies above 0, does not where it lies below, and is undecided "
            "otherwise. 'correlates' is about Pearson's correlation, and is undecided too where p, that of a "
            f"permutation test over the entries, is {SIGNIFICANT} or more: images do not make up for few attributes.",
            *([f"Target: {target}."] if target else []),
        ),
    )


def similarities(gan: EffectRows, slider: EffectRows, target: str | None) -> dict[str, Measure]:
    """Correlations of two vectors by name: of all entries first, then without the target's."""
    return {
        f"{name}, {kind}": similarity(*_of_kind(kind, gan, slider, target), statistic)
        for kind in _kinds(target)
        for name, statistic in STATISTICS.items()
    }


def verdict(measure: Measure, p_value: float = 0.0) -> str:
    """Whether a figure is above 0, as far as its interval and p tell."""
    low, high = measure.ci95
    if low <= 0 <= high or p_value >= SIGNIFICANT:
        return UNDECIDED
    return HOLDS if low > 0 else FAILS


def target_effect(measurements: Measurements, target: str) -> Measure:
    """Change of the target from the lowest to the highest scale, per unit of scale, in standard deviations."""
    scales = measurements.header.scales
    values = target_values(measurements.sweep(), target)
    return bootstrap_mean((values[:, -1] - values[:, 0]) / (scales[-1] - scales[0]))


def _target_cells(measurements: Measurements, target: str) -> tuple[Cell, Cell]:
    effect = target_effect(measurements, target)
    return Cell(effect), Cell(text=verdict(effect))


def _likeness_cells(gan: EffectRows, slider: EffectRows) -> list[Cell]:
    figures = [similarity(gan, slider, statistic) for statistic in STATISTICS.values()]
    p_value = chance(gan, slider)
    return [*map(Cell, figures), Cell(text=f"{verdict(figures[0], p_value)}, p = {p_value:.4f}")]


def _of_kind(kind: str, gan: EffectRows, slider: EffectRows, target: str | None) -> tuple[EffectRows, EffectRows]:
    return (gan, slider) if kind == "all" else (gan.without(target), slider.without(target))


def _kinds(target: str | None) -> tuple[str, ...]:
    return ("all", "without the target") if target else ("all",)


def summary(tables: Mapping[str, Mapping[str, Measure]]) -> dict[str, Measure]:
    """Prompts to their correlations, flat."""
    return {f"transfer/{name}/{prompts}": m for prompts, found in tables.items() for name, m in found.items()}
