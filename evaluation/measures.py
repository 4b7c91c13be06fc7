"""All figures of one slider, from the measurements of its images."""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.attributes import Schema
from evaluation.measurements import Measurements
from evaluation.metrics.dose_response import spearman_over_scales
from evaluation.metrics.eye_size import eye_area_change
from evaluation.scale_sweeps import (
    attribute_shift,
    check_scales,
    interference,
    monotone_share,
    selectivity,
    target_values,
)
from evaluation.statistics import Measure, bootstrap_mean
from slider_lightning.errors import InputError


def slider_measures(measurements: Measurements, target: str | None, protected: Sequence[str]) -> dict[str, Measure]:
    """What a slider does to images.

    Args:
        measurements: the readings of its images, scale 0 among them.
        target: what the slider is meant to move: an attribute of the classifier, or a class as "hair_color=blond";
            without one the figures that need it are left out.
        protected: class attributes that must not flip.

    Returns:
        Flat figures, `<s>` being a scale such as "+1" or "-0.5" (0 is left out, where each is 0 by definition):
        `eval/attribute_shift/<attribute>/<s>` in standard deviations against scale 0;
        `eval/attribute_range/<attribute>`, the shift from the lowest to the highest scale;
        `eval/monotone_share`, `eval/spearman`, `eval/selectivity`;
        `eval/interference` over all protected attributes and `eval/interference/<attribute>` for each;
        `eval/clip_score_shift/<s>` and `eval/distance/<s>` (`eval/distance_native/<s>`) against scale 0;
        `eval/eye_area_change/<s>`, change of the mean eye area over its mean at scale 0, left out where no two pairs
        of images have eyes, and `eval/no_eye_found/<s>`, the share of images that it could not count.

    Raises:
        InputError: if target or protected attributes do not fit.
    """
    figures = attribute_measures(measurements, protected) | image_measures(measurements)
    return figures | (target_measures(measurements, target) if target else {})


def check_request(schema: Schema, scales: Sequence[float], target: str | None, protected: Sequence[str]) -> None:
    """Refuse what `slider_measures` could not measure, before images are generated for it.

    Raises:
        InputError: if the scales do not increase through 0, or a name is no attribute of the schema.
    """
    check_scales(scales)
    names = [attribute.name for attribute in schema]
    classes = [attribute.name for attribute in schema if attribute.kind == "class"]
    if target is not None and target.partition("=")[0] not in names:
        raise InputError(f"Expected evaluation.target to be one of {', '.join(names)}, but got {target!r}; set it.")
    for name in protected:
        if name not in classes:
            raise InputError(f"Expected evaluation.protected out of {', '.join(classes)}, but got {name!r}; change it.")


def attribute_measures(measurements: Measurements, protected: Sequence[str]) -> dict[str, Measure]:
    """Shifts of all attributes and flips of the protected ones."""
    sweep = measurements.sweep()
    measures: dict[str, Measure] = {}
    for attribute in sweep.schema:
        for column, label in edited_columns(sweep.scales):
            measures[f"eval/attribute_shift/{attribute.name}/{label}"] = attribute_shift(sweep, attribute.name, column)
        measures[f"eval/attribute_range/{attribute.name}"] = attribute_shift(sweep, attribute.name, -1, origin=0)
    if protected:
        measures["eval/interference"] = interference(sweep, protected)
        measures |= {f"eval/interference/{name}": interference(sweep, [name]) for name in protected}
    return measures


def target_measures(measurements: Measurements, target: str) -> dict[str, Measure]:
    """How evenly and how selectively the target moves."""
    sweep = measurements.sweep()
    return {
        "eval/monotone_share": monotone_share(sweep, target),
        "eval/spearman": bootstrap_mean(spearman_over_scales(target_values(sweep, target), sweep.scales)),
        "eval/selectivity": selectivity(sweep, target),
    }


def image_measures(measurements: Measurements) -> dict[str, Measure]:
    """The figures that rest on CLIP, the parser and the distances."""
    measures: dict[str, Measure] = {}
    for column, label in edited_columns(measurements.header.scales):
        scale = measurements.header.scales[column]
        measures[f"eval/clip_score_shift/{label}"] = bootstrap_mean(measurements.change("clip/positive", scale))
        for distance in ("distance", "distance_native"):
            if distance in measurements.frame:
                measures[f"eval/{distance}/{label}"] = bootstrap_mean(measurements.values(distance)[:, column])
        if "eye_area" in measurements.frame:
            areas = measurements.values("eye_area")[:, [measurements.zero, column]]
            missing = areas.isnan().any(1)
            measures[f"eval/no_eye_found/{label}"] = bootstrap_mean(missing.double())
            if int((~missing).sum()) > 1:
                measures[f"eval/eye_area_change/{label}"] = eye_area_change(areas[:, 1], areas[:, 0]).change
    return measures


def edited_columns(scales: Sequence[float]) -> list[tuple[int, str]]:
    """Column and label ("+1", "-0.5") of every scale but 0."""
    return [(column, f"{scale:+g}") for column, scale in enumerate(scales) if scale != 0]
