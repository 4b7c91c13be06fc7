"""The paper's tables as pure functions of measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.measurements import Measurements
from evaluation.report.table import ABSENT, Cell, Column, Row, Table
from evaluation.scale_sweeps import attribute_shift
from experiments.paper.published import TABLE1, TABLE2, TABLE3, comparability, model_name
from experiments.paper.quantities import (
    clip_shift,
    eye_size,
    image_distances,
    interference,
    label,
    method_rows,
    target_column,
    target_shift,
)
from experiments.paper.visual_quantities import at_scale, change_between, others_reading
from slider_lightning.errors import InputError

SLIDER = "concept_slider"
VISUAL_SLIDER = "visual_slider"
TRAINING_PAIRS = "training_pairs"


def table1(
    measurements: Mapping[tuple[str, str], Measurements], scale: float, targets: Mapping[str, str | None]
) -> Table:
    """Table 1: what text sliders and training-free edits do to CLIP score and image, and to the truth.

    Args:
        measurements: (concept, method) to the measurements of its images; "concept_slider" among the methods.
        scale: at which all are compared.
        targets: concept to the classifier's attribute that it should move; None or left out where there is none.

    Raises:
        InputError: if there are no measurements, or methods of a concept are not paired.
    """
    first = first_of(measurements)
    edits = [clip_shift(scale), *image_distances(first, scale)]
    rows: list[Row] = []
    with_target = any(targets.get(concept) for concept, _ in measurements)
    for concept in dict.fromkeys(concept for concept, _ in measurements):
        methods = {method: found for (other, method), found in measurements.items() if other == concept}
        target = targets.get(concept)
        truth = [target_shift(scale, target) if target else None] if with_target else []
        rows += method_rows(methods, [*edits, *truth], SLIDER, concept)
    return Table(
        title=f"Text sliders and training-free edits on {model_name(first)}",
        columns=(*(edit.column for edit in edits), *([target_column(scale)] if with_target else [])),
        rows=tuple(rows),
        heads=("concept", "method"),
        reference=label(SLIDER),
        notes=(
            *common_notes(measurements),
            PAIRED,
            STRENGTHS,
            *([target_note(first, targets)] if with_target else []),
            comparability(first, ("clip", "distance")),
        ),
        published=(TABLE1,),
    )


def table2(measurements: Mapping[str, Measurements], scale: float, ends: tuple[float, float], target: str) -> Table:
    """Table 2: how far visual edits move the size of eyes, the image, and all else.

    Args:
        measurements: method to the measurements of its images, in the order of the rows. "training_pairs", other
            images than the methods' (the lowest level at scale 0, the highest at `scale`), is compared with nothing.
        scale: at which all are compared.
        ends: slider scales of the lowest and the highest level of the pairs.
        target: the attribute that should move.

    Raises:
        InputError: if there are no measurements, no eye areas, or the methods are not paired.
    """
    first = first_of(measurements)
    quantities = [eye_size(scale), *image_distances(first, scale)]
    if any(attribute.name == target for attribute in first.header.attributes):
        quantities.append(target_shift(scale, target))
    quantities.append(at_scale(others_reading(first, target), scale))
    pairs = {name: found for name, found in measurements.items() if name == TRAINING_PAIRS}
    methods = {name: found for name, found in measurements.items() if name != TRAINING_PAIRS}
    reference = VISUAL_SLIDER if VISUAL_SLIDER in methods else next(iter(methods), "")
    rows = method_rows(pairs, quantities, "") + method_rows(methods, quantities, reference)
    whole = [_between_ends(name, found, scale, ends) for name, found in {**pairs, **methods}.items()]
    missing = "; ".join(f"{label(name)} {_no_eyes(found, scale)}" for name, found in measurements.items())
    return Table(
        title=f"Visual sliders and personalization: eye size on {model_name(first)}",
        columns=(
            *(quantity.column for quantity in quantities),
            Column(f"change of eye area from {ends[0]:+g} to {ends[1]:+g}"),
        ),
        rows=tuple(Row(row.name, (*row.cells, cell), row.group) for row, cell in zip(rows, whole, strict=True)),
        reference=label(reference),
        notes=(
            *common_notes(measurements),
            PAIRED,
            ENDS.format(low=ends[0], high=ends[1]),
            f"Left out of the change of eye area, because no eye was found: {missing}.",
            comparability(methods.get(reference, first), ("parser", "distance", "classifier")),
        ),
        published=(TABLE2,),
    )


def _between_ends(name: str, measurements: Measurements, scale: float, ends: tuple[float, float]) -> Cell:
    """The change of eye area from the lowest to the highest level, where there are images at both."""
    low, high = (0.0, scale) if name == TRAINING_PAIRS else ends
    known = {low, high} <= set(measurements.header.scales)
    return Cell(change_between(measurements, low, high)) if known else Cell(text=ABSENT)


def attributes_table(measurements: Mapping[str, Measurements], scale: float, target: str) -> Table:
    """What visual edits do to every attribute that the classifier reads.

    Args:
        measurements: method to the measurements of its images, in the order of the columns.
        scale: that all methods have; other scales follow it.
        target: the attribute that should move, the first row where the classifier reads it.

    Raises:
        InputError: if there are no measurements.
    """
    first = first_of(measurements)
    names = sorted((attribute.name for attribute in first.header.attributes), key=lambda name: name != target)
    scales = {other for found in measurements.values() for other in found.header.scales if other != 0}
    shown = [
        (name, other)
        for other in sorted(scales, key=lambda other: (other != scale, other))
        for name, found in measurements.items()
        if other in found.header.scales
    ]
    columns = [_shifts(measurements[name], other, names) for name, other in shown]
    return Table(
        title=f"What visual edits move, in standard deviations, on {model_name(first)}",
        columns=tuple(
            Column(label(name) if name == TRAINING_PAIRS else f"{label(name)} at {other:+g}") for name, other in shown
        ),
        rows=tuple(Row(name, cells) for name, cells in zip(names, zip(*columns, strict=True), strict=True)),
        heads=("", "attribute"),
        notes=(
            *common_notes(measurements),
            "The shift of the mean from scale 0, of the training pairs from the lowest to the highest level, by "
            f"{first.header.judges['classifier']}. Of an attribute with more than two classes it is a length, at least "
            "0 and by chance a little above.",
        ),
    )


def _shifts(measurements: Measurements, scale: float, names: Sequence[str]) -> list[Cell]:
    sweep = measurements.sweep()
    return [Cell(attribute_shift(sweep, name, measurements.position(scale))) for name in names]


def table3(
    measurements: Mapping[str, Measurements], scale: float, target: str | None, protected: Sequence[str]
) -> Table:
    """Table 3: the ablation on age.

    Args:
        measurements: method to the measurements of its images, in the order of the rows; "concept_slider" among them.
        scale: at which all are compared; interference also counts the images at -scale.
        target: the classifier's attribute that should move; None where it has none.
        protected: class attributes that should not flip.

    Raises:
        InputError: if there are no measurements, or the methods are not paired.
    """
    first = first_of(measurements)
    quantities = [clip_shift(scale), *image_distances(first, scale), interference(scale, protected)]
    quantities += [target_shift(scale, target)] if target else []
    return Table(
        title=f"What disentanglement and low rank do to the slider '{first.header.concept}' on {model_name(first)}",
        columns=tuple(quantity.column for quantity in quantities),
        rows=method_rows(measurements, quantities, SLIDER),
        reference=label(SLIDER),
        notes=(
            *common_notes(measurements),
            PAIRED,
            STRENGTHS,
            f"Interference{' and target shift' if target else ''} by {first.header.judges['classifier']}; n of "
            "interference counts images, its intervals and tests are over rows.",
            comparability(first, ("clip", "distance", "classifier")),
        ),
        published=(TABLE3,),
    )


def first_of(measurements: Mapping[Any, Measurements]) -> Measurements:
    """The first of the measurements, whose header names the judges of all.

    Raises:
        InputError: if there are none.
    """
    if not measurements:
        raise InputError("Expected measurements for a table, but got none; measure at least one method first.")
    return next(iter(measurements.values()))


def common_notes(measurements: Mapping[Any, Measurements]) -> tuple[str, ...]:
    """What holds for every table: intervals and judges."""
    judges = first_of(measurements).header.judges
    return (
        "Figures stand with their 95 % bootstrap interval over rows and n; a row is a prompt with a seed.",
        f"Judges: {'; '.join(f'{role}: {name}' for role, name in judges.items())}.",
    )


STRENGTHS = (
    "A scale s means: a slider at s; Composition with eta = s; Prompt-to-Prompt towards the pole of its sign, with the "
    "attention of the new words times |s|. Methods are compared at equal scale, not at equal effect."
)
ENDS = (
    "Of the training pairs, the figures compare the highest level with the lowest one; of methods, the image at a "
    "scale with the model's own, which lies between. From {low:+g} to {high:+g} is what the pairs teach a slider; "
    "Textual Inversion and Custom Diffusion learn from the images at the highest level alone, and have none below 0."
)
PAIRED = (
    "Lines with 'minus' hold the paired difference on the same rows, its 95 % interval, and p, which is not corrected "
    "for the number of tests."
)


def target_note(first: Measurements, targets: Mapping[str, str | None]) -> str:
    """Who reads what is meant to move."""
    moved = ", ".join(f"{target} for {concept}" for concept, target in targets.items() if target)
    return f"Targets, read by {first.header.judges['classifier']}: {moved}."


def _no_eyes(measurements: Measurements, scale: float) -> str:
    """How many rows have no figure, e.g. "2 of 102"."""
    areas = measurements.values("eye_area")[:, [measurements.zero, measurements.position(scale)]]
    return f"{int(areas.isnan().any(1).sum())} of {len(areas)}"
