"""Tables of how sliders answer to their scale, and of what else moves, noun by noun."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evaluation.measurements import Measurements
from evaluation.metrics.dose_response import response_curve
from evaluation.metrics.freesliders import conceptual_range, preservation, smoothness
from evaluation.metrics.interference import interference_at_effect
from evaluation.report.table import ABSENT, Cell, Column, Row, Table
from evaluation.scale_sweeps import protected_flips, selectivity, target_values
from evaluation.statistics import Measure, bootstrap_mean
from experiments.paper.published import DOSE_RESPONSE, model_name
from experiments.paper.quantities import (
    EFFECT,
    Quantity,
    effect_between,
    interference,
    label,
    method_rows,
)
from experiments.paper.rows import PAIRED, SLIDER, common_notes, first_of, target_note

ALL_NOUNS = "all nouns"


def dose_response_table(sliders: Mapping[str, Measurements], targets: Mapping[str, str | None]) -> Table:
    """One column per slider, one row per figure of its answer to the scale.

    Args:
        sliders: concept to the measurements of its slider's images, best at five scales or more.
        targets: concept to the classifier's attribute that it should move; None or left out where there is none.

    Raises:
        InputError: if there are no measurements.
    """
    first = first_of(sliders)
    columns = [
        (target_figures(found, target) if (target := targets.get(concept)) else {}) | image_figures(found)
        for concept, found in sliders.items()
    ]
    names = dict.fromkeys(name for column in columns for name in column)
    scales = dict.fromkeys(", ".join(f"{scale:g}" for scale in found.header.scales) for found in sliders.values())
    return Table(
        title=f"How sliders answer to their scale on {model_name(first)}",
        columns=tuple(Column(concept, 3) for concept in sliders),
        rows=tuple(Row(name, tuple(column.get(name, Cell(text=ABSENT)) for column in columns)) for name in names),
        heads=("", "figure"),
        notes=(
            *common_notes(sliders),
            f"Scales: {'; '.join(scales)}.",
            *([target_note(first, targets)] if any(targets.values()) else []),
            "Saturated: from this |scale| on an increment moves the mean less than half as far as the first one does.",
            "Range, preservation and smoothness as FreeSliders (2511.00103) defines them, with negative gaps kept.",
        ),
        published=(DOSE_RESPONSE,),
    )


def target_figures(measurements: Measurements, target: str) -> dict[str, Cell]:
    """How the target answers to the scale, in standard deviations of the target."""
    sweep = measurements.sweep()
    curve = response_curve(target_values(sweep, target), sweep.scales)
    return {
        "share of sweeps monotone by rank (rho above 0.8)": Cell(curve.rank_monotone_share),
        "share of sweeps that rise at every step": Cell(curve.strictly_monotone_share),
        "Spearman rho, mean over sweeps": Cell(curve.spearman),
        "R2, mean over sweeps": Cell(curve.r2),
        "R2 of the mean curve": Cell(curve.r2_of_mean),
        "slope (standard deviations per unit of scale)": Cell(curve.slope),
        "saturated below 0 from |scale|": _reached(curve.saturation_negative, "not saturated"),
        "saturated above 0 from |scale|": _reached(curve.saturation_positive, "not saturated"),
        "selectivity": Cell(selectivity(sweep, target)),
    }


def image_figures(measurements: Measurements) -> dict[str, Cell]:
    """The three scores of FreeSliders."""
    scales = measurements.header.scales
    positive, negative = measurements.values("clip/positive"), measurements.values("clip/negative")
    distance = preservation(measurements.values("distance"), scales)
    return {
        "range (CLIP score)": Cell(bootstrap_mean(conceptual_range(positive, negative))),
        f"preservation ({measurements.header.judges['distance']})": Cell(bootstrap_mean(distance)),
        "smoothness (CLIP score)": Cell(bootstrap_mean(smoothness(positive, negative, scales))),
    }


def interference_by_noun(
    methods: Mapping[str, Measurements], scale: float, target: str | None, protected: Sequence[str]
) -> Table:
    """Interference per prompt noun, at a scale and where methods of different strength have moved the target alike.

    Args:
        methods: method to the measurements of its images, in the order of the rows; "concept_slider" among them.
        scale: the outermost; the images at -scale count too.
        target: the classifier's attribute that should move; None where it has none.
        protected: class attributes that should not flip.

    Raises:
        InputError: if there are no measurements, methods are not paired, or a noun has fewer than 2 rows.
    """
    first = first_of(methods)
    quantities: list[Quantity] = [interference(scale, protected)]
    quantities += [effect_between(scale, target)] if target else []
    columns = [quantity.column for quantity in quantities]
    if target:
        columns += [Column(f"interference at an effect of {EFFECT:g}", 3), Column(f"effect of {EFFECT:g} at ±scale")]
    rows: list[Row] = []
    for noun in (ALL_NOUNS, *first.nouns):
        some = methods if noun == ALL_NOUNS else {name: found.only(noun) for name, found in methods.items()}
        for row, found in zip(method_rows(some, quantities, SLIDER, noun), some.values(), strict=True):
            rows.append(Row(row.name, row.cells + (_at_effect(found, target, protected) if target else ()), noun))
    return Table(
        title=f"Interference of '{first.header.concept}' per prompt noun on {model_name(first)}",
        columns=tuple(columns),
        rows=tuple(rows),
        heads=("noun", "method"),
        reference=label(SLIDER),
        notes=(
            *common_notes(methods),
            PAIRED,
            f"Protected: {', '.join(protected)}, read by {first.header.judges['classifier']}; n of interference counts "
            "images, its intervals and tests are over rows.",
            *([EFFECT_NOTE.format(target=target)] if target else []),
        ),
    )


EFFECT_NOTE = (
    "The effect is the mean change of {target} from -scale to +scale in standard deviations; between the scales that "
    "were measured it and interference are taken as linear in the scale."
)


def _at_effect(measurements: Measurements, target: str, protected: Sequence[str]) -> tuple[Cell, Cell]:
    """Interference where the effect is `EFFECT`, and the scale that reaches it."""
    sweep = measurements.sweep()
    found = interference_at_effect(
        target_values(sweep, target), protected_flips(sweep, protected), sweep.scales, EFFECT
    )
    return _reached(found.interference, "not reached"), _reached(found.scale, "not reached")


def _reached(measure: Measure | None, otherwise: str) -> Cell:
    return Cell(measure) if measure else Cell(text=otherwise)
