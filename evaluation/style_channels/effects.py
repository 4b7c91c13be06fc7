"""What a style channel does, as pure functions of readings: its effect on a target, and its drift of all else.

A channel is moved by -k and +k of its deviations. Its effect on an attribute is the mean over faces of
(reading at +k - reading at -k) / 2k, in standard deviations of the attribute over the world; an attribute with more
than two classes has no sign, and its effect is the length that `evaluation.scale_sweeps` states. The effect on eye area
is relative to the mean area of the unmoved faces; that on CLIP is a change of the score (100 x cosine).

The score of a channel is |effect on the target| / (drift + charge). Drift is the mean |effect| on the attributes that
are not meant, so |effect| / drift is the selectivity of `evaluation.scale_sweeps`. To move the target by T takes
T / |effect| deviations and costs drift x T / |effect| on the way; were that all, a channel that hardly does anything,
and nothing else either, could win, though the move that it would take leaves the faces that the generator knows. So
every deviation of the move itself is charged as so much drift. The score is T over this cost. Its order does not depend
on the unit of the target, so one charge serves attributes, eye area and CLIP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from evaluation.attributes import Attribute, Schema, schema_labels, schema_slices
from evaluation.judges.panel import AttributeJudge
from evaluation.scale_sweeps import SMALLEST_DRIFT, shift_of
from evaluation.statistics import Measure, bootstrap
from evaluation.style_channels.readings import CLIP, EYE_AREA, clip_texts
from slider_lightning.errors import InputError

EFFECT, DRIFT, SELECTIVITY, SCORE = "effect", "drift", "selectivity", "score"


@dataclass(frozen=True)
class ChannelAim:
    """What a channel should move, and what it should leave alone.

    Args:
        target: a continuous attribute of the classifier, a class attribute with two classes (its second class is up),
            one class of a larger one as "hair_color=blond", "eye_area", "clip: TEXT", or "clip: TEXT | OPPOSITE".
        schema: the classifier's attributes.
        akin: attributes that mean the same as the target and are no drift; names that the classifier does not read
            change nothing.
        charge: drift that a deviation of the move counts as, above 0.

    Raises:
        InputError: if the target is none of these, nothing is left to be drift, or the charge is not above 0.
    """

    target: str
    schema: Schema
    akin: tuple[str, ...] = ()
    charge: float = 0.02
    column: int | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.charge <= 0:
            raise InputError(f"Expected charge to be above 0, but got {self.charge:g}; raise it.")
        if self.target != EYE_AREA and not clip_texts(self.target):
            object.__setattr__(self, "column", target_column(self.schema, self.target))
        if not self.others:
            raise InputError(
                f"Expected attributes beside '{self.target}' to compare with, but the classifier has none."
            )

    @property
    def others(self) -> tuple[Attribute, ...]:
        """The attributes whose effects are drift."""
        meant = {self.target.partition("=")[0], *self.akin}
        return tuple(attribute for attribute in self.schema if attribute.name not in meant)


def target_column(schema: Schema, target: str) -> int:
    """Position of a target among the labels of a schema.

    Raises:
        InputError: if it is no attribute, no class of its attribute, or leaves open which of several classes goes up.
    """
    name, _, label = target.partition("=")
    attribute = next((a for a in schema if a.name == name), None)
    if attribute is None:
        known = ", ".join(a.name for a in schema)
        raise InputError(
            f"Expected the target to be one of {known}, {EYE_AREA} or '{CLIP}: TEXT', but got {target!r}; alter it."
        )
    if not label and attribute.width > 2:
        classes = ", ".join(attribute.labels)
        raise InputError(f"Expected the target {target!r} to name the class that goes up, one of {classes}.")
    wanted = target if label else attribute.labels[-1]
    if wanted not in attribute.labels:
        raise InputError(
            f"Expected a class of '{name}' out of {list(attribute.classes)}, but got {label!r}; change it."
        )
    return schema_labels(schema).index(wanted)


@dataclass(frozen=True)
class ChannelChanges:
    """What moving some channels changes in each face, of which every figure is a function of the means over faces.

    Args:
        aim: target and drift.
        values: the features of `face_features`.
        columns: their names.
    """

    aim: ChannelAim
    values: Float[Tensor, "channels faces features"]
    columns: tuple[str, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the figures: attributes, eye area and CLIP where they are read, then those of the score."""
        more = [name for name in (EYE_AREA, CLIP) if name in self.columns]
        return (*(a.name for a in self.aim.schema), *more, EFFECT, DRIFT, SELECTIVITY, SCORE)

    def figures(self) -> dict[str, Float[Tensor, " channels"]]:
        """Every figure of every channel; NaN of eye area where no face has eyes in all three images."""
        return figures_of(self.values.nanmean(1), self.aim, self.columns)

    def measures(self, channel: int) -> dict[str, Measure]:
        """Every figure of one channel with its interval over faces.

        Eye area, and all that depends on it, rests on the faces whose eyes are found in all three images; where these
        are fewer than 2 the figure is left out.
        """
        values = self.values[channel]
        found = values.isfinite().all(1)
        readable = {True: values.nan_to_num(), False: values[found]}
        tied = {EYE_AREA} | ({EFFECT, SELECTIVITY, SCORE} if self.aim.target == EYE_AREA else set())
        measures = {}
        for name in self.names:
            rows = readable[name not in tied]
            if len(rows) > 1:
                measures[name] = self._measure(rows, name)
        return measures

    def without_eyes(self, channel: int) -> int:
        """Number of faces whose eyes were not found in one of the three images."""
        return int((~self.values[channel].isfinite().all(1)).sum())

    def _measure(self, rows: Float[Tensor, "faces features"], name: str) -> Measure:
        def statistic(index: Tensor) -> Tensor:
            counts = torch.zeros(index.shape, dtype=rows.dtype)
            counts.scatter_add_(1, index, torch.ones(1, dtype=rows.dtype).expand_as(index))
            return figures_of(counts @ rows / len(rows), self.aim, self.columns)[name]

        return bootstrap(statistic, len(rows))


def channel_changes(
    base: Float[Tensor, "faces columns"],
    moved: Float[Tensor, "channels 2 faces columns"],
    columns: Sequence[str],
    strength: float,
    classifier: AttributeJudge,
    aim: ChannelAim,
) -> ChannelChanges:
    """The changes per deviation of each channel, of each face.

    Args:
        base: readings of the faces as they are.
        moved: of the same faces at -strength and +strength.
        columns: of the readings, the classifier's labels first.
        strength: of the moves, in deviations.
        classifier: for the standard deviations of its labels.
        aim: target and drift.
    """
    labels = schema_labels(classifier.schema)
    std = classifier.standard_deviations()
    scale = torch.cat([std[a.name].double().cpu() for a in classifier.schema])
    change = (moved[:, 1] - moved[:, 0]) / (2 * strength)
    features, names = [change[..., : len(labels)] / scale], list(labels)
    if EYE_AREA in columns:
        column = list(columns).index(EYE_AREA)
        unmoved = base[:, column].expand(len(moved), -1)
        areas = torch.stack([change[..., column], unmoved], dim=-1)
        # A face counts where its eyes are found in all three images.
        features.append(areas.where(areas.isfinite().all(-1, keepdim=True), torch.nan))
        names += [EYE_AREA, "unmoved eye area"]
    if CLIP in columns:
        features.append(change[..., [list(columns).index(CLIP)]])
        names.append(CLIP)
    return ChannelChanges(aim, torch.cat(features, dim=-1), tuple(names))


def figures_of(
    means: Float[Tensor, "*rows features"], aim: ChannelAim, columns: Sequence[str]
) -> dict[str, Float[Tensor, "*rows"]]:
    """All figures from means over faces.

    Args:
        means: of the features of `channel_changes`.
        aim: target and drift.
        columns: names of the features.
    """
    places = {name: index for index, name in enumerate(columns)}
    slices = schema_slices(aim.schema)
    figures = {}
    for attribute in aim.schema:
        labels = means[..., slices[attribute.name]]
        figures[attribute.name] = shift_of(labels[..., 1:] if attribute.width == 2 else labels)
    if EYE_AREA in places:
        figures[EYE_AREA] = means[..., places[EYE_AREA]] / means[..., places["unmoved eye area"]]
    if CLIP in places:
        figures[CLIP] = means[..., places[CLIP]]
    named = EYE_AREA if aim.target == EYE_AREA else CLIP
    effect = figures[named] if aim.column is None else means[..., aim.column]
    drift = torch.stack([figures[attribute.name].abs() for attribute in aim.others]).mean(0)
    figures[EFFECT], figures[DRIFT] = effect, drift
    figures[SELECTIVITY] = effect.abs() / drift.clamp_min(SMALLEST_DRIFT)
    figures[SCORE] = effect.abs() / (drift + aim.charge)
    return figures


def best_first(scores: Float[Tensor, " channels"], count: int) -> list[int]:
    """Positions of the highest scores, best first; those that are not finite never are."""
    kept: Bool[Tensor, " channels"] = scores.isfinite()
    order = scores.where(kept, -torch.inf).argsort(descending=True, stable=True)
    return order[: min(count, int(kept.sum()))].tolist()
