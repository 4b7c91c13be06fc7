"""The quantities of the paper's tables: what each is of one method, and of two methods on the same rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from evaluation.measurements import Measurements, check_paired
from evaluation.metrics.eye_size import eye_area_change
from evaluation.metrics.interference import effect_curves, shares_at_effect
from evaluation.report.table import ABSENT, Cell, Column, Row
from evaluation.scale_sweeps import protected_flips, target_values
from evaluation.statistics import Measure, PairedTest, bootstrap, bootstrap_mean, paired_bootstrap, paired_test

EFFECT = 2.5  # standard deviations of the target, from -s to +s
LABELS = {
    "concept_slider": "Concept Slider",
    "prompt_to_prompt": "Prompt-to-Prompt",
    "composition": "Composition",
    "prompt_editing": "Prompt editing",
    "textual_inversion": "Textual Inversion",
    "custom_diffusion": "Custom Diffusion",
    "visual_slider": "Visual slider",
    "training_pairs": "training pairs",
    "without_disentanglement": "w/o disentanglement (eq. 3)",
    "without_disentanglement_projected": "eq. 3, projected",
    "projected": "eq. 4, projected",
    "posterior": "eq. 4, weighted by the posterior",
    "without_low_rank": "w/o low rank (full fine-tune)",
}


@dataclass(frozen=True)
class Quantity:
    """A figure of a method that a table prints.

    Args:
        column: its heading.
        measure: the figure of one method.
        compare: the first method minus the second, on the same rows.
    """

    column: Column
    measure: Callable[[Measurements], Measure]
    compare: Callable[[Measurements, Measurements], PairedTest]

    def cell(self, measurements: Measurements, reference: Measurements | None) -> Cell:
        """The figure, compared with the reference where there is one."""
        compared = None if reference is None else self.compare(measurements, reference)
        return Cell(self.measure(measurements), compared)


def row_mean(column: Column, values: Callable[[Measurements], Float[Tensor, "rows ..."]]) -> Quantity:
    """A quantity that is a mean over rows of (prompt, seed), of one or more images each."""
    return Quantity(
        column,
        lambda measurements: bootstrap_mean(values(measurements)),
        lambda first, second: paired_test(values(first), values(second)),
    )


def clip_shift(scale: float) -> Quantity:
    """dCLIP: 100 x cosine with the edit prompt at `scale` minus at 0."""
    return row_mean(Column(f"dCLIP at {scale:+g}"), lambda m: m.change("clip/positive", scale))


def image_distances(measurements: Measurements, scale: float) -> list[Quantity]:
    """Distance of the image at `scale` to the one at 0, by every judge of distance, under its own name."""
    names = measurements.header.judges
    return [_distance(role, names[role], scale) for role in ("distance", "distance_native") if role in names]


def _distance(role: str, name: str, scale: float) -> Quantity:
    return row_mean(Column(f"{name} at {scale:+g}", 3), lambda m: m.values(role)[:, m.position(scale)])


def target_shift(scale: float, target: str) -> Quantity:
    """How far the classifier sees the target move from 0 to `scale`, in standard deviations.

    Args:
        scale: of the edited images.
        target: an attribute of the classifier, or one class as "hair_color=blond".
    """

    def shift(measurements: Measurements) -> Float[Tensor, " rows"]:
        values = target_values(measurements.sweep(), target)
        return values[:, measurements.position(scale)] - values[:, measurements.zero]

    return row_mean(target_column(scale), shift)


def effect_between(scale: float, target: str) -> Quantity:
    """How far the classifier sees the target move from -scale to +scale, in standard deviations."""

    def effect(measurements: Measurements) -> Float[Tensor, " rows"]:
        values = target_values(measurements.sweep(), target)
        return values[:, measurements.position(scale)] - values[:, measurements.position(-scale)]

    return row_mean(Column(f"effect from {-scale:+g} to {scale:+g} (standard deviations)"), effect)


def target_column(scale: float) -> Column:
    """The heading of `target_shift`, of whatever target."""
    return Column(f"target shift at {scale:+g} (standard deviations)")


def interference(scale: float, protected: Sequence[str]) -> Quantity:
    """Share of the images at -scale and +scale in which a protected attribute changes its class."""

    def edited_flips(measurements: Measurements) -> Float[Tensor, "rows images"]:
        ends = measurements.at_scales((-scale, scale))
        return protected_flips(ends.sweep(), protected)[:, [ends.position(-scale), ends.position(scale)]].double()

    return row_mean(Column(f"interference at ±{scale:g} ({', '.join(protected)})", 3), edited_flips)


def interference_at_effect(wanted: float, target: str, protected: Sequence[str]) -> Quantity:
    """Interference where the target moves by `wanted` standard deviations from -s to +s, whatever s that takes.

    A method that never gets there counts with its outermost pair of scales; ask `reaches` first.
    """

    def compare(first: Measurements, second: Measurements) -> PairedTest:
        ours, other = (_curves(m, target, protected) for m in (first, second))
        return paired_bootstrap(
            lambda index: shares_at_effect(ours, wanted, index),
            lambda index: shares_at_effect(other, wanted, index),
            len(ours),
        )

    def measure(measurements: Measurements) -> Measure:
        curves = _curves(measurements, target, protected)
        return bootstrap(lambda index: shares_at_effect(curves, wanted, index), len(curves))

    return Quantity(Column(f"interference at an effect of {wanted:g} ({', '.join(protected)})", 3), measure, compare)


def reaches(measurements: Measurements, wanted: float, target: str) -> bool:
    """Whether a pair of scales moves the target by `wanted` standard deviations from -s to +s."""
    return float(_curves(measurements, target, ())[:, 0].mean(0).max()) >= wanted


def _curves(measurements: Measurements, target: str, protected: Sequence[str]) -> Float[Tensor, "rows 3 points"]:
    sweep = measurements.sweep()
    values = target_values(sweep, target)
    flips = protected_flips(sweep, protected) if protected else torch.zeros_like(values, dtype=torch.bool)
    return effect_curves(values, flips, sweep.scales)


def eye_size(scale: float) -> Quantity:
    """Change of the mean eye area over its mean at 0; rows where no eye is found in one of the images are left out."""

    def areas(measurements: Measurements) -> tuple[Tensor, Tensor]:
        values = measurements.values("eye_area")
        return values[:, measurements.position(scale)], values[:, measurements.zero]

    def compare(first: Measurements, second: Measurements) -> PairedTest:
        (edited, original), (other, _) = areas(first), areas(second)
        found = (edited + original + other).isfinite()
        edited, original, other = edited[found], original[found], other[found]
        return paired_bootstrap(
            lambda index: edited[index].mean(1) / original[index].mean(1),
            lambda index: other[index].mean(1) / original[index].mean(1),
            len(original),
        )

    column = Column(f"change of eye area at {scale:+g}")
    return Quantity(column, lambda m: eye_area_change(*areas(m)).change, compare)


def method_rows(
    methods: Mapping[str, Measurements], quantities: Sequence[Quantity | None], reference: str, group: str = ""
) -> tuple[Row, ...]:
    """One row per method, each compared with the reference on the same rows of the grid.

    Args:
        methods: method to its measurements.
        quantities: one per column; None where these methods have no such figure.
        reference: the method that the others are compared with; where it is absent nothing is compared.
        group: heading of these rows.

    Raises:
        InputError: if a method was measured on other prompts or seeds, or by other judges, than the reference.
    """
    base = methods.get(reference)
    rows = []
    for name, measurements in methods.items():
        other = base if name != reference else None
        if other is not None:
            check_paired(measurements, other)
        cells = [quantity.cell(measurements, other) if quantity else Cell(text=ABSENT) for quantity in quantities]
        rows.append(Row(label(name), tuple(cells), group))
    return tuple(rows)


def label(method: str) -> str:
    """A method as tables and figures print it."""
    return LABELS.get(method, method)
