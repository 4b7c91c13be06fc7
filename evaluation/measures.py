"""All figures of one slider, from its images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from evaluation.attributes import Schema
from evaluation.judges.panel import Judges
from evaluation.statistics import Measure, bootstrap, bootstrap_mean
from evaluation.sweeps import (
    Sweep,
    attribute_shift,
    check_scales,
    interference,
    monotone_share,
    selectivity,
    spearman_over_scales,
    target_values,
)
from slider_lightning.errors import InputError


def evaluate_slider(
    images: Float[Tensor, "seeds scales 3 height width"],
    scales: Sequence[float],
    target: str,
    protected: Sequence[str],
    judges: Judges,
    edit_prompt: str,
) -> dict[str, Measure]:
    """Measures what a slider does to images.

    Args:
        images: In [0, 1]; one row per seed, one column per scale.
        scales: Slider scales of the columns: strictly increasing, with 0 among them.
        target: What the slider is meant to move: an attribute of the probe, or a class as "hair_color=blond".
        protected: Class attributes that must not flip.
        judges: Who measures.
        edit_prompt: The text that the upper pole should fit.

    Returns:
        Flat figures, `<s>` being a scale such as "+1" or "-0.5" (0 is left out, where each is 0 by definition):
        `eval/attribute_shift/<attribute>/<s>` in standard deviations against scale 0;
        `eval/attribute_range/<attribute>`, the shift from the lowest to the highest scale;
        `eval/monotone_share`, `eval/spearman`, `eval/selectivity`;
        `eval/interference` over all protected attributes and `eval/interference/<attribute>` for each;
        `eval/clip_score_shift/<s>` and `eval/perceptual_distance/<s>` against scale 0;
        `eval/eye_area_change/<s>`, change of the mean eye area over its mean at scale 0.

    Raises:
        InputError: If scales, target or protected attributes do not fit.
        ValueError: If the images do not fit the scales or leave [0, 1].
    """
    check_scales(scales)
    if images.ndim != 5 or images.shape[1] != len(scales):
        raise ValueError(
            f"Expected images (seeds, {len(scales)} scales, 3, height, width), but got {tuple(images.shape)}."
        )
    images = images.cpu()
    sweep = read_sweep(images, scales, judges)
    return attribute_measures(sweep, target, protected) | image_measures(images, sweep, judges, edit_prompt)


def check_request(schema: Schema, scales: Sequence[float], target: str, protected: Sequence[str]) -> None:
    """Refuse what `evaluate_slider` could not measure, before images are generated for it.

    Raises:
        InputError: If the scales do not increase through 0, or a name is no attribute of the schema.
    """
    check_scales(scales)
    names = [attribute.name for attribute in schema]
    classes = [attribute.name for attribute in schema if attribute.kind == "class"]
    if target.partition("=")[0] not in names:
        raise InputError(f"Expected evaluation.target to be one of {', '.join(names)}, but got {target!r}; set it.")
    for name in protected:
        if name not in classes:
            raise InputError(f"Expected evaluation.protected out of {', '.join(classes)}, but got {name!r}; change it.")


def read_sweep(images: Float[Tensor, "seeds scales 3 h w"], scales: Sequence[float], judges: Judges) -> Sweep:
    """The probe's readings of all images, per seed and scale."""
    seeds, columns = images.shape[:2]
    readings = {
        name: values.unflatten(0, (seeds, columns)) for name, values in judges.probe(images.flatten(0, 1)).items()
    }
    std = {name: values.cpu() for name, values in judges.probe.standard_deviations().items()}
    return Sweep(tuple(float(s) for s in scales), readings, judges.probe.schema, std)


def attribute_measures(sweep: Sweep, target: str, protected: Sequence[str]) -> dict[str, Measure]:
    """The figures that rest on the probe."""
    measures: dict[str, Measure] = {}
    for attribute in sweep.schema:
        for column, label in edited_columns(sweep.scales):
            measures[f"eval/attribute_shift/{attribute.name}/{label}"] = attribute_shift(sweep, attribute.name, column)
        measures[f"eval/attribute_range/{attribute.name}"] = attribute_shift(sweep, attribute.name, -1, origin=0)
    measures["eval/monotone_share"] = monotone_share(sweep, target)
    measures["eval/spearman"] = bootstrap_mean(spearman_over_scales(target_values(sweep, target), sweep.scales))
    measures["eval/selectivity"] = selectivity(sweep, target)
    if protected:
        measures["eval/interference"] = interference(sweep, protected)
        measures |= {f"eval/interference/{name}": interference(sweep, [name]) for name in protected}
    return measures


def image_measures(
    images: Float[Tensor, "seeds scales 3 h w"], sweep: Sweep, judges: Judges, edit_prompt: str
) -> dict[str, Measure]:
    """The figures that rest on CLIP, the parser and the perceptual distance."""
    shape = images.shape[:2]
    rows = images.flatten(0, 1)
    scores = judges.clip.score(rows, [edit_prompt]).unflatten(0, shape)
    areas = judges.parser.eye_area(rows).unflatten(0, shape)
    original = sweep.zero
    measures: dict[str, Measure] = {}
    for column, label in edited_columns(sweep.scales):
        distance = judges.perceptual(images[:, original], images[:, column])
        measures[f"eval/clip_score_shift/{label}"] = bootstrap_mean(scores[:, column] - scores[:, original])
        measures[f"eval/perceptual_distance/{label}"] = bootstrap_mean(distance)
        measures[f"eval/eye_area_change/{label}"] = relative_change(areas[:, column], areas[:, original])
    return measures


def relative_change(edited: Float[Tensor, " seeds"], original: Float[Tensor, " seeds"]) -> Measure:
    """(mean edited - mean original) / mean original: a ratio of means, so that one tiny original cannot rule it."""
    edited, original = edited.double(), original.double()

    def ratio(index: Tensor) -> Tensor:
        before = original[index].mean(1)
        return (edited[index].mean(1) - before) / before.clamp_min(torch.finfo(torch.double).tiny)

    return bootstrap(ratio, len(original))


def edited_columns(scales: Sequence[float]) -> list[tuple[int, str]]:
    """Column and label ("+1", "-0.5") of every scale but 0."""
    return [(column, f"{scale:+g}") for column, scale in enumerate(scales) if scale != 0]
