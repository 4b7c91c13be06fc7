"""The paper's claims, each as paired differences with a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluation.measurements import Measurements, check_paired
from evaluation.report.table import ABSENT, Cell, Column, Row, Table
from evaluation.statistics import PairedTest
from experiments.paper.published import model_name
from experiments.paper.quantities import (
    EFFECT,
    Quantity,
    clip_shift,
    image_distances,
    interference,
    interference_at_effect,
    label,
    reaches,
    target_shift,
)
from experiments.paper.rows import SLIDER, common_notes, first_of, target_note
from slider_lightning.errors import InputError

SIGNIFICANT = 0.05
CLEANER = {
    "Disentanglement (eq. 4 against eq. 3) lowers interference": (SLIDER, "without_disentanglement"),
    "Low rank lowers interference": (SLIDER, "without_low_rank"),
    "Projection lowers the interference of eq. 3": ("without_disentanglement_projected", "without_disentanglement"),
    "Projection lowers the interference of eq. 4": ("projected", SLIDER),
    "Weights by the posterior lower the interference of eq. 4": ("posterior", SLIDER),
}
HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
VERDICTS = (
    "A claim holds where the paired difference lies on its side of 0 and does not where it lies on the other. It is "
    f"undecided where the 95 % interval includes 0 or p is {SIGNIFICANT} or more; p is not corrected for the number of "
    "tests."
)
COLUMNS = (Column("paired difference", 3), Column("claimed"), Column("verdict"))


@dataclass(frozen=True)
class Condition:
    """One inequality of a claim.

    Args:
        quantity: what is compared.
        higher: whether the first method should have more of it than the second, or less.
    """

    quantity: Quantity
    higher: bool


@dataclass(frozen=True)
class Claim:
    """A statement on two methods; it holds if all its conditions do.

    Args:
        text: the statement.
        concept: on whose images.
        first: the method that it is about.
        second: the method that it is compared with.
        conditions: what it says.
    """

    text: str
    concept: str
    first: str
    second: str
    conditions: tuple[Condition, ...]


def verdict(test: PairedTest, higher: bool) -> str:
    """Whether a difference has the sign that is claimed.

    Undecided where its 95 % interval includes 0 or the test does not reject at 0.05: on shares of few images the
    bootstrap's interval is the bolder of the two.
    """
    low, high = test.difference.ci95
    if low <= 0 <= high or test.p_value >= SIGNIFICANT:
        return UNDECIDED
    return HOLDS if (low > 0) == higher else FAILS


def combined(verdicts: Sequence[str]) -> str:
    """The verdict on a claim: it fails where one condition fails, and holds where all hold."""
    if FAILS in verdicts:
        return FAILS
    return UNDECIDED if UNDECIDED in verdicts else HOLDS


def claims_table(
    measurements: Mapping[tuple[str, str], Measurements],
    scale: float,
    targets: Mapping[str, str | None],
    protected: Mapping[str, Sequence[str]],
) -> Table:
    """Which of the paper's claims hold, for every claim whose two methods were measured.

    Args:
        measurements: (concept, method) to the measurements of its images, of tables 1 and 3 together.
        scale: at which all are compared.
        targets: concept to the classifier's attribute that it should move; None or left out where there is none.
        protected: concept to the class attributes that should not flip.

    Raises:
        InputError: if no claim has both of its methods, or they are not paired.
    """
    first = first_of(measurements)
    stated = [
        claim
        for concept in dict.fromkeys(concept for concept, _ in measurements)
        for claim in concept_claims(first, concept, scale, targets.get(concept), protected.get(concept, ()))
        if {(concept, claim.first), (concept, claim.second)} <= measurements.keys()
    ]
    for concept, target in targets.items():
        stated += equal_effect_claims(measurements, concept, target, protected.get(concept, ()))
    if not stated:
        known = ", ".join(dict.fromkeys(method for _, method in measurements))
        raise InputError(f"Expected measurements of two methods that a claim compares, but got {known}; measure more.")
    return Table(
        title=f"The paper's claims on {model_name(first)}",
        columns=COLUMNS,
        rows=tuple(row for claim in stated for row in claim_rows(claim, comparisons(claim, measurements))),
        heads=("claim", "first minus second"),
        notes=(
            *common_notes(measurements),
            VERDICTS,
            *([target_note(first, targets)] if any(targets.values()) else []),
        ),
    )


def concept_claims(
    named: Measurements, concept: str, scale: float, target: str | None, protected: Sequence[str]
) -> tuple[Claim, ...]:
    """All claims on the images of one concept.

    Args:
        named: any measurements, for the names of the judges.
        concept: on whose images.
        scale: at which methods are compared.
        target: the classifier's attribute that should move; None where it has none.
        protected: class attributes that should not flip; without them nothing is claimed of interference.
    """
    more = [Condition(clip_shift(scale), higher=True)]
    more += [Condition(target_shift(scale, target), higher=True)] if target else []
    closer = [Condition(distance, higher=False) for distance in image_distances(named, scale)]
    cleaner = [Condition(interference(scale, protected), higher=False)] if protected else []
    rivals = {
        f"Sliders move the target more than {label(rival)} at a lower distance": (SLIDER, rival, [*more, *closer])
        for rival in ("prompt_to_prompt", "composition")
    }
    parts = {text: (first, second, cleaner) for text, (first, second) in CLEANER.items()}
    parts["Low rank lowers the distance"] = (SLIDER, "without_low_rank", closer)
    return tuple(
        Claim(f"{text}, at equal scale", concept, first, second, tuple(conditions))
        for text, (first, second, conditions) in (rivals | parts).items()
        if conditions
    )


def equal_effect_claims(
    measurements: Mapping[tuple[str, str], Measurements], concept: str, target: str | None, protected: Sequence[str]
) -> list[Claim]:
    """The claims on interference where both methods move the target alike: the weaker of two is else the cleaner one.

    Args:
        measurements: (concept, method) to the measurements of its images.
        concept: on whose images.
        target: the classifier's attribute that should move; without one nothing is claimed.
        protected: class attributes that should not flip; without them nothing is claimed.
    """
    if not target or not protected:
        return []
    condition = Condition(interference_at_effect(EFFECT, target, protected), higher=False)
    methods = {name: found for (other, name), found in measurements.items() if other == concept}
    there = {name for name, found in methods.items() if reaches(found, EFFECT, target)}
    return [
        Claim(f"{text}, at equal effect", concept, first, second, (condition,))
        for text, (first, second) in CLEANER.items()
        if {first, second} <= there
    ]


def comparisons(claim: Claim, measurements: Mapping[tuple[str, str], Measurements]) -> tuple[PairedTest, ...]:
    """The paired test of every condition.

    Raises:
        InputError: if the methods were measured on other prompts or seeds, or by other judges.
    """
    first, second = (measurements[claim.concept, method] for method in (claim.first, claim.second))
    check_paired(first, second)
    return tuple(condition.quantity.compare(first, second) for condition in claim.conditions)


def claim_rows(claim: Claim, tests: Sequence[PairedTest]) -> tuple[Row, ...]:
    """A row per condition, and one for the claim where it has several."""
    pair = f"{label(claim.first)} minus {label(claim.second)}"
    found = [
        (f"{pair}: {condition.quantity.column.name}", test, condition.higher)
        for condition, test in zip(claim.conditions, tests, strict=True)
    ]
    return judged_rows(f"{claim.text} ({claim.concept})", found)


def judged_rows(group: str, conditions: Sequence[tuple[str, PairedTest, bool]]) -> tuple[Row, ...]:
    """A row per condition of a claim, and one for the claim where it has several.

    Args:
        group: the claim.
        conditions: what is compared, how it came out, and whether the difference should lie above 0.
    """
    verdicts = [verdict(test, higher) for _, test, higher in conditions]
    rows = [
        Row(name, (Cell(test=test), Cell(text="above 0" if higher else "below 0"), Cell(text=found)), group)
        for (name, test, higher), found in zip(conditions, verdicts, strict=True)
    ]
    if len(rows) > 1:
        rows.append(Row("in all", (Cell(text=ABSENT), Cell(text="all of these"), Cell(text=combined(verdicts))), group))
    return tuple(rows)
