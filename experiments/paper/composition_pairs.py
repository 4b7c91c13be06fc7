"""Do two sliders keep their effects when they are composed? Pure functions of their measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from evaluation.dose import Response, UsefulRule, monotone_fit
from evaluation.measurements import Measurements
from evaluation.scale_sweeps import attribute_shift, check_scales, target_values
from evaluation.statistics import Measure, bootstrap
from slider_lightning.errors import InputError


@dataclass(frozen=True)
class PairRule:
    """How strong two sliders are when they are composed, and when a pair is said to compose.

    Args:
        effect: that either slider alone should have, in standard deviations of its target.
        least_kept: share of the effect alone that either must keep in the pair.
        largest_drift: of any other attribute against the unedited images, in standard deviations.
        scales: slider scales, increasing from 0, on which the scale of that effect is found.

    Raises:
        InputError: if a value is out of range.
    """

    effect: float
    least_kept: float
    largest_drift: float
    scales: tuple[float, ...]

    def __post_init__(self) -> None:
        check_scales(self.scales)
        if self.scales[0] != 0 or min(self.effect, self.least_kept, self.largest_drift) <= 0:
            raise InputError(f"Expected scales from 0 on and an effect and limits above 0, but got {self}; change it.")


@dataclass(frozen=True)
class Strength:
    """The scale at which a slider is composed.

    Args:
        scale: its slider_scale.
        effect: its expected effect, in standard deviations of its target.
        saturated: whether that is the end of its useful range, below the effect asked for.
    """

    scale: float
    effect: float
    saturated: bool


def strength_of(measurements: Measurements, target: str, rule: PairRule) -> Strength | None:
    """The scale of the rule's effect, or of the end of the useful range; None where the slider does not act.

    Args:
        measurements: of the slider alone at the rule's scales.
        target: what it should move.
        rule: the effect.
    """
    useful = UsefulRule()
    response = Response.of(measurements, target, useful)
    end = response.side(1, useful).end
    inside = [scale for scale in response.scales if scale <= end]
    fitted = monotone_fit(response.scales, [effect.mean for effect in response.effects], (0.0, end))
    fit = torch.tensor(fitted[: len(inside)])
    if len(inside) < 2 or fit[-1] <= 0:
        return None
    effect = min(rule.effect, float(fit[-1]))
    upper = int(torch.nonzero(fit >= effect)[0])
    share = (effect - float(fit[upper - 1])) / (float(fit[upper]) - float(fit[upper - 1]))
    return Strength(inside[upper - 1] + share * (inside[upper] - inside[upper - 1]), effect, effect < rule.effect)


@dataclass(frozen=True)
class PairVerdict:
    """What two composed sliders did.

    Args:
        names: of the sliders.
        targets: the attribute each should move.
        kept: share of its shift alone that each keeps in the pair.
        drifts: shift of every attribute that neither should move.
        rule: what composing means.
    """

    names: tuple[str, str]
    targets: tuple[str, str]
    kept: tuple[Measure, Measure]
    drifts: Mapping[str, Measure]
    rule: PairRule

    @property
    def largest_drift(self) -> tuple[str, float]:
        """The attribute that drifts furthest, and how far."""
        return max(((name, abs(drift.mean)) for name, drift in self.drifts.items()), key=lambda item: item[1])

    @property
    def faults(self) -> tuple[str, ...]:
        """Why the pair does not compose; empty where it does."""
        lost = [
            f"{name} keeps {kept.mean:.2f}"
            for name, kept in zip(self.names, self.kept, strict=True)
            if kept.mean < self.rule.least_kept
        ]
        attribute, drift = self.largest_drift
        drifted = [f"{attribute} drifts {drift:.2f}"] if drift > self.rule.largest_drift else []
        return (*lost, *drifted)


def pairs_of(targets: Mapping[str, str]) -> list[tuple[str, str]]:
    """All pairs of sliders that move different attributes; `targets` maps name to target."""
    return [(a, b) for a, b in combinations(targets, 2) if _attribute(targets[a]) != _attribute(targets[b])]


def pair_verdict(
    names: tuple[str, str], targets: tuple[str, str], alone: Sequence[Measurements], pair: Measurements, rule: PairRule
) -> PairVerdict:
    """Compares a pair with either slider alone, on the same rows.

    Args:
        names: of the sliders.
        targets: of the sliders.
        alone: images of either slider alone, at the scale that it has in the pair; one scale beside 0.
        pair: images of both.
        rule: when they compose.
    """
    sweep = pair.sweep()
    moved = {_attribute(target) for target in targets}
    kept = tuple(
        kept_share(_shifts(single, target), _shifts(pair, target))
        for single, target in zip(alone, targets, strict=True)
    )
    drifts = {a.name: attribute_shift(sweep, a.name, 1) for a in sweep.schema if a.name not in moved}
    return PairVerdict(names, targets, (kept[0], kept[1]), drifts, rule)


def kept_share(alone: Float[Tensor, " rows"], composed: Float[Tensor, " rows"]) -> Measure:
    """Mean shift when composed over the mean shift alone, paired over the rows."""
    return bootstrap(lambda index: composed[index].mean(1) / alone[index].mean(1), len(alone))


def compose_share(verdicts: Sequence[PairVerdict]) -> float:
    """Share of the pairs that compose."""
    return sum(not verdict.faults for verdict in verdicts) / len(verdicts)


def common_faults(verdicts: Sequence[PairVerdict]) -> dict[str, tuple[int, int]]:
    """What pairs that do not compose have in common: slider or drifting attribute to (pairs at fault, all its pairs).

    A slider counts where it keeps too little; an attribute where it drifts too far.
    """
    failed = [verdict for verdict in verdicts if verdict.faults]
    counts: dict[str, tuple[int, int]] = {}
    for name in dict.fromkeys(name for verdict in verdicts for name in verdict.names):
        mine = [verdict for verdict in verdicts if name in verdict.names]
        lost = [
            verdict
            for verdict in failed
            if name in verdict.names and verdict.kept[verdict.names.index(name)].mean < verdict.rule.least_kept
        ]
        counts[f"{name} keeps too little"] = len(lost), len(mine)
    for attribute in dict.fromkeys(name for verdict in verdicts for name in verdict.drifts):
        at_risk = [verdict for verdict in verdicts if attribute in verdict.drifts]
        drifted = [v for v in at_risk if abs(v.drifts[attribute].mean) > v.rule.largest_drift]
        counts[f"{attribute} drifts"] = len(drifted), len(at_risk)
    return {what: count for what, count in sorted(counts.items(), key=lambda item: -item[1][0]) if count[0]}


def _shifts(measurements: Measurements, target: str) -> Float[Tensor, " rows"]:
    values = target_values(measurements.sweep(), target)
    return values[:, 1] - values[:, 0]


def _attribute(target: str) -> str:
    return target.partition("=")[0]
