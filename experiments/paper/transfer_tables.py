"""The tables of the transfer: the two effect vectors side by side, and how alike they are."""

from __future__ import annotations

from collections.abc import Mapping

from evaluation.measurements import Measurements
from evaluation.report.table import ABSENT, Cell, Column, Row, Table
from evaluation.scale_sweeps import target_values
from evaluation.statistics import Measure, bootstrap_mean
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
WHOLE, OTHERS = "all", "without the target"


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

    Whether the two correlate is told of the entries without the target's alone: both move the target, by choice.

    Args:
        gan: of the generator's faces.
        slider: of the slider's images.
        target: the classifier's attribute that should move; None where it does not read it.
    """
    reference = effect_rows(gan)
    columns = [Column("target per unit of scale", 3), Column("target rises")] if target else []
    for kind in _kinds(target):
        columns += [Column(f"{name}, {kind}") for name in STATISTICS]
    columns.append(Column(f"correlates, {OTHERS}"))
    rows = []
    for name, found in by_prompts(slider).items():
        cells = list(_target_cells(found, target)) if target else []
        for kind in _kinds(target):
            vectors = _of_kind(kind, reference, effect_rows(found), target)
            cells += [Cell(similarity(*vectors, statistic)) for statistic in STATISTICS.values()]
        cells.append(_correlates(*_of_kind(OTHERS, reference, effect_rows(found), target)))
        rows.append(Row(name, tuple(cells)))
    return Table(
        title=f"Likeness of the slider to the StyleGAN's move, on {model_name(slider)}",
        columns=tuple(columns),
        rows=tuple(rows),
        heads=("", "prompts"),
        notes=(
            *common_notes({"slider": slider}),
            f"Correlations over the {len(reference.entries)} entries of the effect vectors; their intervals resample "
            "the StyleGAN's faces and the slider's images, each on its own. " + _target_note(target),
            "A statement holds where its 95 % interval lies above 0, does not where it lies below, and is undecided "
            "otherwise. 'correlates' is about Pearson's correlation, and is undecided too where p, that of a "
            f"permutation test, is {SIGNIFICANT} or more: images do not make up for few attributes. The test permutes "
            "whole attributes, those of equally many entries among each other, since the classes of one depend on "
            "each other.",
        ),
    )


def similarities(gan: EffectRows, slider: EffectRows, target: str | None) -> dict[str, Measure]:
    """Correlations of two vectors by name: of all entries where the target is among them, then without the target's."""
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


def _target_note(target: str | None) -> str:
    if target is None:
        return "The judges do not read the target: no entry is one that the two share by choice."
    return (
        f"Target: {target}. That both move it is by choice, which the correlations of all entries hold; whether the "
        "two correlate is told without it."
    )


def _correlates(gan: EffectRows, slider: EffectRows) -> Cell:
    p_value = chance(gan, slider)
    return Cell(text=f"{verdict(similarity(gan, slider, pearson), p_value)}, p = {p_value:.4f}")


def _of_kind(kind: str, gan: EffectRows, slider: EffectRows, target: str | None) -> tuple[EffectRows, EffectRows]:
    return (gan, slider) if kind == WHOLE else (gan.without(target), slider.without(target))


def _kinds(target: str | None) -> tuple[str, ...]:
    return (WHOLE, OTHERS) if target else (OTHERS,)


def summary(tables: Mapping[str, Mapping[str, Measure]]) -> dict[str, Measure]:
    """Prompts to their correlations, flat."""
    return {f"transfer/{name}/{prompts}": m for prompts, found in tables.items() for name, m in found.items()}
