"""What a repair slider does to badly made images: shares before and after, and distances to good ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from evaluation.attributes import Schema
from evaluation.measurements import Measurements
from evaluation.metrics.distribution import distance_change, distance_measure, frechet_distance, kernel_distance
from evaluation.report import Cell, Column, Published, Row, Table
from evaluation.statistics import Measure, bootstrap_mean, paired_test
from experiments.paper.published import CITED, comparability, figures, model_name
from experiments.paper.rows import common_notes, first_of
from slider_lightning.errors import InputError

ALL_PROMPTS = "all prompts"
DISTANCES = {"FID": frechet_distance, "KID": kernel_distance}
RATERS = Published(
    f"{CITED}, by raters, SDXL",
    ("share before", "share after", "share of pairs in which raters prefer the slider"),
    {
        "distorted hands, 150 pairs": figures("0.62 2", "0.22 2", ""),
        "image repair, 250 pairs": figures("", "", "0.8039 2"),
    },
    notes=("Raters judged whole images; our judge is a classifier, so only the direction compares.",),
)


@dataclass(frozen=True)
class RepairPlan:
    """Which sliders repair what, and how far they are turned.

    Args:
        faults: concept to what counts as badly made: an attribute of the judges and its class, as
            "quality=poorly drawn".
        scales: slider scales beside 0; those below 0 should make images worse.

    Raises:
        InputError: if there is no concept, no scale, or 0 among the scales.
    """

    faults: dict[str, str]
    scales: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.faults or not self.scales or 0 in self.scales:
            raise InputError(
                f"Expected repair.faults with a concept or more and repair.scales without 0, but got "
                f"{self.faults} and {list(self.scales)}; fill them in."
            )

    def check(self, schema: Schema) -> None:
        """Refuse faults that the judges cannot read.

        Raises:
            InputError: naming the fault and what they read.
        """
        known = [f"{attribute.name}={label}" for attribute in schema for label in attribute.classes]
        for concept, fault in self.faults.items():
            if fault not in known:
                raise InputError(
                    f"Expected repair.faults.{concept} among {', '.join(known)}, but got {fault!r}; choose one."
                )


def faulty(measurements: Measurements, fault: str) -> Bool[Tensor, "rows scales"]:
    """Where the most probable class of an image is the bad one.

    Args:
        measurements: the readings of a slider's images.
        fault: attribute and class, as "quality=poorly drawn".
    """
    name, _, label = fault.partition("=")
    classes = next(attribute.classes for attribute in measurements.header.attributes if attribute.name == name)
    return measurements.sweep().readings[name].argmax(-1) == classes.index(label)


def repair_table(sliders: Mapping[str, Measurements], faults: Mapping[str, str]) -> Table:
    """The share of badly made images at every scale, over all prompts and for each, compared with scale 0.

    Args:
        sliders: concept to the measurements of its slider's images.
        faults: concept to the class that counts as badly made.

    Raises:
        InputError: if there are no measurements.
    """
    first = first_of(sliders)
    judged = "; ".join(f"{concept}: {fault}" for concept, fault in faults.items())
    return Table(
        title=f"Repair of badly made images on {model_name(first)}",
        columns=(
            Column("share badly made", 3),
            Column("of the bad at 0, now good", 3),
            Column("of the good at 0, now bad", 3),
            Column(first.header.judges["distance"], 3),
        ),
        rows=tuple(row for concept, found in sliders.items() for row in concept_rows(concept, found, faults[concept])),
        heads=("images", "scale"),
        reference="at 0",
        notes=(
            *common_notes(sliders),
            f"Badly made, as {first.header.judges['classifier']} reads it: {judged}.",
            "Lines with 'minus' hold the paired difference on the same rows; on shares the sign-flip test is McNemar's "
            "exact test where it is exact, since rows that stay as they were cancel.",
            comparability(first, ("classifier",)),
        ),
        published=(RATERS,),
    )


def concept_rows(concept: str, measurements: Measurements, fault: str) -> list[Row]:
    """The lines of one slider: all its prompts, where they have several nouns, then noun by noun."""
    parts = {noun: measurements.only(noun) for noun in measurements.nouns}
    if len(parts) > 1:
        parts = {ALL_PROMPTS: measurements, **parts}
    return [
        Row(f"at {scale:+g}" if scale else "at 0", scale_cells(part, fault, scale), f"{concept}, {name}")
        for name, part in parts.items()
        for scale in sorted(part.header.scales, key=lambda scale: (scale != 0, scale))
    ]


def scale_cells(measurements: Measurements, fault: str, scale: float) -> tuple[Cell, ...]:
    """Share of bad images, what was mended and spoilt, and the distance, at one scale."""
    bad = faulty(measurements, fault).double()
    before, after = bad[:, measurements.zero], bad[:, measurements.position(scale)]
    if scale == 0:
        return Cell(bootstrap_mean(before)), *([Cell(text="-")] * 3)
    return (
        Cell(bootstrap_mean(after), paired_test(after, before)),
        share_cell(1 - after[before == 1]),
        share_cell(after[before == 0]),
        Cell(bootstrap_mean(measurements.values("distance")[:, measurements.position(scale)])),
    )


def share_cell(rows: Float[Tensor, " rows"]) -> Cell:
    """A share among some of the rows, where there are enough of them for an interval."""
    return Cell(bootstrap_mean(rows)) if len(rows) > 1 else Cell(text=f"{len(rows)} such images")


def set_distances(
    features: Mapping[float, Float[Tensor, "rows dim"]], reference: Float[Tensor, "n dim"]
) -> dict[str, Measure]:
    """Distances of a slider's images to good ones at every scale, and their paired changes against scale 0.

    Args:
        features: scale to the features of its images, rows alike at all; 0 among the scales.
        reference: features of the good images.

    Returns:
        "FID/+2" and "KID/+2", and "FID_change/+2", "KID_change/+2" for scales other than 0.
    """
    measures: dict[str, Measure] = {}
    for name, distance in DISTANCES.items():
        change = partial(distance_change, distance, original=features[0.0], reference=reference)
        for scale, rows in features.items():
            measures[f"{name}/{scale:+g}"] = distance_measure(distance, rows, reference)
            if scale != 0:
                measures[f"{name}_change/{scale:+g}"] = change(edited=rows)
    return measures


def distance_table(
    distances: Mapping[str, Mapping[str, Measure]], scales: Sequence[float], measurements: Measurements, features: str
) -> Table:
    """FID and KID of images before and after repair.

    Args:
        distances: concept to what `set_distances` gives.
        scales: of the images, 0 among them.
        measurements: of any of the sliders, for the names of model and judges.
        features: whose features are compared.
    """
    order = sorted(scales, key=lambda scale: (scale != 0, scale))
    keys = [key for name in DISTANCES for key in (name, f"{name}_change")]
    rows = [
        Row(
            f"at {scale:+g}" if scale else "at 0",
            tuple(Cell(found[key]) if (key := f"{name}/{scale:+g}") in found else Cell(text="-") for name in keys),
            concept,
        )
        for concept, found in distances.items()
        for scale in order
    ]
    return Table(
        title=f"Distance to good images before and after repair on {model_name(measurements)}",
        columns=tuple(Column(key.replace("_change", ", change against 0"), digits_of(key, distances)) for key in keys),
        rows=tuple(rows),
        heads=("slider", "scale"),
        notes=(
            f"FID and KID on {features}: both fall when images near the reference. n counts the slider's images; "
            "FID is biased upwards by few images, alike at all scales.",
            "The paper finds FID at odds with its raters on repair; it publishes no figure.",
        ),
    )


def digits_of(key: str, distances: Mapping[str, Mapping[str, Measure]]) -> int:
    """Digits behind the point that leave four in all: features differ in scale from judge to judge by powers of ten."""
    name = key.removesuffix("_change")
    largest = max(abs(found[f"{name}/+0"].mean) for found in distances.values())
    return max(0, 3 - math.floor(math.log10(max(largest, 1e-3))))


def bad_rows(measurements: Measurements, fault: str, count: int) -> list[int]:
    """The first rows of every noun that are bad at scale 0, `count` in all or as many as there are."""
    bad = faulty(measurements, fault)[:, measurements.zero]
    nouns = measurements.frame["noun"].to_numpy()[:: len(measurements.header.scales)]
    share = -(-count // len(measurements.nouns))
    rows = [int(row) for noun in measurements.nouns for row in torch.nonzero(bad & torch.tensor(nouns == noun))[:share]]
    return sorted(rows)[:count]
