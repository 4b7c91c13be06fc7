"""The paper's claims of table 2, each as paired differences with a verdict."""

from __future__ import annotations

from collections.abc import Mapping

from evaluation.measurements import Measurements
from evaluation.report.table import Row, Table
from experiments.paper.claims import COLUMNS, VERDICTS, Claim, Condition, claim_rows, comparisons, judged_rows
from experiments.paper.published import model_name
from experiments.paper.quantities import eye_size, image_distances, label
from experiments.paper.rows import TRAINING_PAIRS, VISUAL_SLIDER, common_notes, first_of
from experiments.paper.visual_quantities import (
    Reading,
    at_effect_of,
    at_scale,
    change_between,
    distance_readings,
    others_reading,
    share_of_change,
    why_not_compared,
)
from slider_lightning.errors import InputError

CLOSE = (0.8, 1.2)
MORE = "Visual sliders change the eyes more than {rival} at a lower distance, at equal scale"
NEARER = "Visual sliders change the image less than {rival}, at equal effect"
CLEANER = "Visual sliders leave the other attributes alone more than {rival}, at equal {what}"
AS_PAIRS = "Visual sliders come close to the change of the training pairs"


def visual_claims_table(
    measurements: Mapping[str, Measurements], scale: float, ends: tuple[float, float], target: str
) -> Table:
    """Which of the paper's claims on visual sliders hold, at equal scale and, where both get there, at equal effect.

    Args:
        measurements: method to the measurements of its images, the visual slider's among them; the training pairs
            have their lowest level at scale 0 and their highest at `scale`.
        scale: at which all are compared.
        ends: slider scales of the lowest and the highest level of the pairs.
        target: the attribute that should move.

    Raises:
        InputError: if there are no measurements, the slider's or all others are missing, or methods are not paired.
    """
    first = first_of(measurements)
    slider = measurements.get(VISUAL_SLIDER)
    rivals = {name: found for name, found in measurements.items() if name not in (VISUAL_SLIDER, TRAINING_PAIRS)}
    if slider is None or len(measurements) < 2:
        raise InputError(
            f"Expected measurements of a visual slider and of another method, but got {', '.join(measurements)}; "
            "measure more."
        )
    found = {(target, name): measured for name, measured in measurements.items()}
    stated = [claim for name, rival in rivals.items() for claim in rival_claims(slider, name, rival, scale, target)]
    rows = [row for claim in stated for row in claim_rows(claim, comparisons(claim, found))]
    if (pairs := measurements.get(TRAINING_PAIRS)) is not None:
        rows += pair_rows(slider, pairs, scale, ends, target)
    reasons = {label(name): why_not_compared(slider, rival, scale) for name, rival in rivals.items()}
    return Table(
        title=f"The paper's claims on visual sliders on {model_name(first)}",
        columns=COLUMNS,
        rows=tuple(rows),
        heads=("claim", "first minus second"),
        notes=(
            *common_notes(measurements),
            VERDICTS,
            EFFECT_NOTE,
            *(f"Not compared at equal effect: {name}; {reason}." for name, reason in reasons.items() if reason),
            *([PAIRS_NOTE] if pairs is not None else []),
        ),
    )


EFFECT_NOTE = (
    "At equal effect: at the scale where the slider changes the mean eye area as much as the other method does on the "
    "same rows; between the scales that were measured, area, distance and attributes are taken as linear in the scale."
)
PAIRS_NOTE = (
    f"Close to the training pairs: at least {CLOSE[0]:.0%} and at most {CLOSE[1]:.0%} of their change of eye area. "
    "They are other images, and the whole of what was learned from: their change is taken as it is, and intervals are "
    "over the slider's rows."
)


def rival_claims(slider: Measurements, name: str, rival: Measurements, scale: float, target: str) -> tuple[Claim, ...]:
    """All claims on the slider against one other method.

    Args:
        slider: its measurements, which name the judges.
        name: of the other method.
        rival: its measurements.
        scale: at which both are compared.
        target: the attribute that should move.
    """
    others = others_reading(slider, target)
    more = [Condition(eye_size(scale), higher=True)]
    more += [Condition(distance, higher=False) for distance in image_distances(slider, scale)]
    claims = {
        MORE.format(rival=label(name)): more,
        CLEANER.format(rival=label(name), what="scale"): [Condition(at_scale(others, scale), higher=False)],
    }
    if not why_not_compared(slider, rival, scale):

        def alike(reading: Reading) -> Condition:
            return Condition(at_effect_of(rival, scale, reading, label(name)), higher=False)

        claims[NEARER.format(rival=label(name))] = [alike(reading) for reading in distance_readings(slider)]
        claims[CLEANER.format(rival=label(name), what="effect")] = [alike(others)]
    return tuple(Claim(text, target, VISUAL_SLIDER, name, tuple(conditions)) for text, conditions in claims.items())


def pair_rows(
    slider: Measurements, pairs: Measurements, scale: float, ends: tuple[float, float], target: str
) -> list[Row]:
    """The claim on the training pairs: between the scales that they were trained at, and from the model's own images.

    Args:
        slider: its measurements.
        pairs: the training pairs, lowest level at scale 0, highest at `scale`.
        scale: at which all are compared.
        ends: slider scales of the two levels.
        target: the attribute that should move.

    Raises:
        InputError: if there are no images at one of the scales.
    """
    whole = change_between(pairs, 0.0, scale).mean
    rows: list[Row] = []
    for low, high in dict.fromkeys([ends, (0.0, scale)]):
        between = f"from {low:+g} to {high:+g}" if low else f"from 0 to {high:+g}"
        conditions = [
            (
                f"{label(VISUAL_SLIDER)} minus {share:.0%} of {label(TRAINING_PAIRS)}: change of eye area {between}",
                share_of_change(slider, low, high, share, whole),
                share == CLOSE[0],
            )
            for share in CLOSE
        ]
        rows += judged_rows(f"{AS_PAIRS}, {between} ({target})", conditions)
    return rows
