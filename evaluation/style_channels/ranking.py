"""The search over all style channels: a cheap look at each, then a precise one at the best, on other faces."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from evaluation.judges.panel import Judges
from evaluation.measuring import judge_names
from evaluation.statistics import Measure, to_record
from evaluation.style_channels.effects import (
    DRIFT,
    EFFECT,
    SCORE,
    SELECTIVITY,
    ChannelAim,
    ChannelChanges,
    best_first,
    channel_changes,
)
from evaluation.style_channels.readings import EYE_AREA, FaceMoves, FaceReader, MovedFaces, clip_texts
from slider_lightning.data.style_space import StyleChannel, StyleLayer, StyleSpace
from slider_lightning.errors import InputError
from slider_lightning.generation import ProgressCallback


@dataclass(frozen=True)
class RankingSettings:
    """How channels are searched.

    Args:
        strength: deviations that a channel is moved to either side.
        screened_faces: faces that every channel is tried on.
        finalists: channels that are then measured precisely, the best of the first pass.
        faces: faces of that second pass, others than those of the first, so that luck in the first does not count.
        first_seed: of the faces.
        truncation_psi: how near the faces are drawn to the mean one.
        charge: drift that a deviation of the move counts as, see `evaluation.style_channels.effects`.
        akin: target to the attributes that mean the same and are no drift, e.g. {"eye_area": ("eye_size",)}.
        layers: names or numbers of the style layers that are searched; None for all.
        batch_size: images per call of the generator.

    Raises:
        InputError: if a number is out of range.
    """

    strength: float = 4.0
    screened_faces: int = 4
    finalists: int = 16
    faces: int = 64
    first_seed: int = 0
    truncation_psi: float = 0.7
    charge: float = 0.02
    akin: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    layers: tuple[int | str, ...] | None = None
    batch_size: int = 32

    def __post_init__(self) -> None:
        for name, least in (
            ("screened_faces", 1),
            ("finalists", 1),
            ("faces", 2),
            ("first_seed", 0),
            ("batch_size", 1),
        ):
            if (value := getattr(self, name)) < least:
                raise InputError(f"Expected settings.{name} to be {least} or more, but got {value}; raise it.")
        for name in ("strength", "charge"):
            if (number := getattr(self, name)) <= 0:
                raise InputError(f"Expected settings.{name} to be above 0, but got {number:g}; raise it.")

    @property
    def screening(self) -> FaceMoves:
        """Faces of the first pass."""
        return FaceMoves(self.first_seed, self.screened_faces, self.strength, self.truncation_psi)

    @property
    def final(self) -> FaceMoves:
        """Faces of the second pass."""
        return FaceMoves(self.first_seed + self.screened_faces, self.faces, self.strength, self.truncation_psi)


@dataclass(frozen=True)
class RankedChannel:
    """One channel, measured precisely.

    Args:
        channel: layer and number.
        effects: per deviation of the move: attribute to its shift in standard deviations, "eye_area" relative, "clip".
        effect: on the target.
        drift: mean |shift| of the attributes that are not meant.
        selectivity: |effect| / drift.
        score: what channels are ranked by.
        without_eyes: faces whose eyes were not found, moved or unmoved.
    """

    channel: StyleChannel
    effects: Mapping[str, Measure]
    effect: Measure
    drift: Measure
    selectivity: Measure
    score: Measure
    without_eyes: int

    @property
    def sign(self) -> float:
        """The side that raises the target."""
        return math.copysign(1.0, self.effect.mean)

    @property
    def moves_target(self) -> bool:
        """Whether the interval of the effect leaves 0 out."""
        low, high = self.effect.ci95
        return low > 0 or high < 0

    @property
    def name(self) -> str:
        """As tables print it, e.g. "b16.conv0 34"."""
        return f"{self.channel.layer.removeprefix('synthesis.')} {self.channel.channel}"


@dataclass(frozen=True)
class ChannelRanking:
    """The finalists of a search, best first.

    Args:
        target: what they should move.
        generator: printed name of the generator.
        judges: role to printed name.
        settings: of the search.
        screened: channels of the first pass.
        channels: those of the second, by descending score.
    """

    target: str
    generator: str
    judges: Mapping[str, str]
    settings: RankingSettings
    screened: int
    channels: tuple[RankedChannel, ...]

    def best(self, count: int) -> tuple[RankedChannel, ...]:
        """The best channels whose effect on the target is not chance.

        Raises:
            InputError: if there are fewer than `count`.
        """
        moving = tuple(channel for channel in self.channels if channel.moves_target)
        if len(moving) < count:
            raise InputError(
                f"Expected {count} style channels of {self.generator} that move '{self.target}', but the intervals of "
                f"only {len(moving)} leave 0 out; ask for fewer, for another target, or try more faces or strength."
            )
        return moving[:count]

    def record(self) -> dict[str, Any]:
        """The ranking as plain JSON values."""
        return {
            "target": self.target,
            "generator": self.generator,
            "judges": dict(self.judges),
            "settings": asdict(self.settings),
            "screened": self.screened,
            "channels": [
                {
                    **asdict(ranked.channel),
                    "sign": ranked.sign,
                    "without_eyes": ranked.without_eyes,
                    **to_record({name: getattr(ranked, name) for name in (EFFECT, DRIFT, SELECTIVITY, SCORE)}),
                    "effects": to_record(ranked.effects),
                }
                for ranked in self.channels
            ],
        }


def rank_channels(
    space: StyleSpace, judges: Judges, target: str, settings: RankingSettings, cache: Path
) -> ChannelRanking:
    """The channels that move a target most at the least drift of everything else.

    Args:
        space: the generator; the judges are moved to its device.
        judges: who measures; the classifier always does, the parser where there is one, CLIP where the target asks.
        target: see `ChannelAim`.
        settings: of the search.
        cache: folder of the readings, which are made once for all searches with the same generator and judges.

    Raises:
        InputError: if the target or a layer is unknown, or no channel can be measured.
    """
    if target == EYE_AREA and judges.parser is None:
        raise InputError(f"Expected judges with a parser to find channels for {EYE_AREA}, but these have none.")
    aim = ChannelAim(target, judges.classifier.schema, tuple(settings.akin.get(target, ())), settings.charge)
    search = _Search(space, FaceReader(judges.to(space.device), clip_texts(target)), aim, settings, cache)
    layers = searched_layers(space, settings.layers)
    finalists = search.screen(layers)
    ranked = search.measure(finalists)
    screened = sum(layer.channels for layer in layers)
    return ChannelRanking(target, space.name, judge_names(judges), settings, screened, ranked)


def searched_layers(space: StyleSpace, wanted: Sequence[int | str] | None) -> tuple[StyleLayer, ...]:
    """The style layers to search, in the order of the forward pass.

    Raises:
        InputError: if there is no layer, or one is unknown.
    """
    layers = space.layers if wanted is None else tuple(space.layer(key) for key in wanted)
    if not layers:
        raise InputError("Expected at least one style layer to search, but got none; leave settings.layers out.")
    return tuple(layer for layer in space.layers if layer in layers)


@dataclass(frozen=True)
class _Search:
    space: StyleSpace
    reader: FaceReader
    aim: ChannelAim
    settings: RankingSettings
    cache: Path

    def screen(self, layers: Sequence[StyleLayer]) -> list[StyleChannel]:
        """The finalists, best first."""
        faces = self._faces(self.settings.screening)
        channels, scores = [], []
        total = sum(layer.channels for layer in layers)
        with ProgressCallback(f"style channels of {self.space.name}") as progress:
            count = _Counter(progress, total)
            for layer in layers:
                group = [StyleChannel(layer.name, number) for number in range(layer.channels)]
                changes = self._changes(faces, layer.name, group, count)
                channels += group
                scores.append(self._scores(changes))
        kept = best_first(torch.cat(scores), self.settings.finalists)
        if not kept:
            raise InputError(
                f"Expected to read '{self.aim.target}' off faces of {self.space.name}, but no channel leaves enough "
                "faces on which it can be read; choose another target or other judges."
            )
        return [channels[place] for place in kept]

    def measure(self, finalists: Sequence[StyleChannel]) -> tuple[RankedChannel, ...]:
        """The finalists by descending score; those whose target cannot be read on 2 faces are left out."""
        faces = self._faces(self.settings.final)
        ranked = []
        with ProgressCallback(f"the best {len(finalists)} on {self.settings.faces} faces") as progress:
            count = _Counter(progress, len(finalists))
            for channel in finalists:
                changes = self._changes(faces, f"{channel.layer}-{channel.channel}", [channel], count)
                measures = changes.measures(0)
                if SCORE in measures:
                    ends = {name: measures.pop(name) for name in (EFFECT, DRIFT, SELECTIVITY, SCORE)}
                    ranked.append(RankedChannel(channel, measures, without_eyes=changes.without_eyes(0), **ends))
        if not ranked:
            raise InputError(
                f"Expected to read '{self.aim.target}' off 2 faces or more, but could not; try more faces."
            )
        return tuple(sorted(ranked, key=lambda found: -found.score.mean))

    def _faces(self, moves: FaceMoves) -> MovedFaces:
        return MovedFaces(self.cache, self.space, self.reader, moves, self.settings.batch_size)

    def _changes(
        self, faces: MovedFaces, name: str, channels: Sequence[StyleChannel], on_channel: Callable[[int], None]
    ) -> ChannelChanges:
        moved = faces.moved(name, channels, on_channel)
        strength, classifier = self.settings.strength, self.reader.judges.classifier
        return channel_changes(faces.base, moved, self.reader.columns, strength, classifier, self.aim)

    def _scores(self, changes: ChannelChanges) -> torch.Tensor:
        """Scores of the first pass; for eye area NaN where a channel hides the eyes of over half of the faces."""
        scores = changes.figures()[SCORE]
        if self.aim.target != EYE_AREA:
            return scores
        hidden = (~changes.values.isfinite().all(2)).double().mean(1)
        return scores.where(hidden <= 0.5, torch.nan)


class _Counter:
    """Channels done so far, told to a progress bar."""

    def __init__(self, progress: Callable[[int, int], None], total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def __call__(self, more: int) -> None:
        self.done += more
        self.progress(self.done, self.total)


@dataclass(frozen=True)
class BestChannels:
    """The best channels for a target, as a choice of channels for pairs of `StyleGanPairs`.

    Args:
        target: what they should move, see `ChannelAim`.
        judges: who measures.
        cache: folder of the readings; a ranking whose readings lie there costs seconds.
        count: how many are moved together, each to the side that raises the target.
        settings: of the search.

    Raises:
        InputError: if `count` is below 1.
    """

    target: str
    judges: Judges
    cache: str
    count: int = 1
    settings: RankingSettings = field(default_factory=RankingSettings)

    def __post_init__(self) -> None:
        if not 1 <= self.count <= self.settings.finalists:
            raise InputError(
                f"Expected count between 1 and the {self.settings.finalists} finalists, but got {self.count}; alter it."
            )

    def channels(self, space: StyleSpace) -> tuple[tuple[StyleChannel, float], ...]:
        """The channels with the sign that raises the target.

        Raises:
            InputError: if the target is unknown, or too few channels move it beyond chance.
        """
        ranking = rank_channels(space, self.judges, self.target, self.settings, Path(self.cache))
        return tuple((ranked.channel, ranked.sign) for ranked in ranking.best(self.count))
