"""What a slider does over a sweep of scales: pure functions of readings per seed and scale.

A sweep is measured as `Readings`: attribute name -> (seeds, scales) values of a continuous attribute, or
(seeds, scales, classes) probabilities of a class attribute. Every seed is compared with itself at scale 0.

How far an attribute moved is stated in units of its standard deviation over the world:

- continuous: the value's change over the value's standard deviation;
- class with two classes: the change of the second class's probability over the standard deviation of its indicator;
- class with more: there is no order to give a sign, so the shift is sqrt(1/2 sum over classes of (change of the mean
  probability / standard deviation of the class's indicator)^2). With two classes this is the absolute binary shift.
  It is at least 0 and grows a little by chance alone, which makes selectivity cautious, never flattering.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from evaluation.attributes import Schema
from evaluation.metrics.dose_response import rank_monotone
from evaluation.metrics.interference import any_flip
from evaluation.metrics.interference import flips as flips_of
from evaluation.metrics.interference import interference as flip_shares
from evaluation.statistics import Measure, bootstrap, bootstrap_mean
from slider_lightning.errors import InputError

Readings = Mapping[str, Tensor]
SMALLEST_DRIFT = 1e-6


@dataclass(frozen=True)
class Sweep:
    """Readings of seeds at scales.

    Args:
        scales: Strictly increasing, with 0 among them.
        readings: One entry per attribute of the schema.
        schema: The attributes.
        std: Per attribute the world's standard deviation of each of its labels, (1,) or (classes,).

    Raises:
        InputError: If the scales do not increase or lack 0.
        ValueError: If the readings do not fit the scales or are not finite.
    """

    scales: tuple[float, ...]
    readings: Readings
    schema: Schema
    std: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        check_scales(self.scales)
        for attribute in self.schema:
            values = self.readings[attribute.name]
            expected = 2 if attribute.kind == "continuous" else 3
            if values.ndim != expected or values.shape[1] != len(self.scales):
                raise ValueError(
                    f"Expected readings of '{attribute.name}' as (seeds, {len(self.scales)} scales"
                    f"{', classes' if expected == 3 else ''}), but got {tuple(values.shape)}."
                )
            bad = ~values.isfinite().flatten(1).all(1)
            if bad.any():
                names = bad.nonzero().flatten().tolist()
                raise ValueError(f"Expected finite readings of '{attribute.name}', but seeds {names} are not.")

    @property
    def zero(self) -> int:
        """Column of scale 0."""
        return self.scales.index(0)

    @property
    def seeds(self) -> int:
        """Number of seeds."""
        return len(self.readings[self.schema[0].name])

    def standard(self, name: str) -> Float[Tensor, "seeds scales labels"]:
        """Readings of an attribute in standard deviations, one column per label; of two classes the second one."""
        attribute = next((a for a in self.schema if a.name == name), None)
        if attribute is None:
            raise InputError(f"Expected one of the attributes {[a.name for a in self.schema]}, but got '{name}'.")
        values = self.readings[name].double()
        values = values[..., None] if attribute.kind == "continuous" else values
        values = values / self.std[name].double()
        return values[..., 1:] if attribute.width == 2 else values


def check_scales(scales: Sequence[float]) -> None:
    """Refuses scales that are not strictly increasing around 0.

    Raises:
        InputError: If they are not.
    """
    if len(scales) < 2 or 0 not in scales or any(b <= a for a, b in pairwise(scales)):
        raise InputError(f"Expected at least two strictly increasing scales with 0 among them, but got {list(scales)}.")


def attribute_shift(sweep: Sweep, name: str, column: int, origin: int | None = None) -> Measure:
    """Shift of an attribute between two columns of scales, over all seeds.

    Args:
        sweep: The readings.
        name: The attribute.
        column: Where it moved to.
        origin: Where it came from; the column of scale 0 by default.
    """
    changes = seed_changes(sweep, name, column, sweep.zero if origin is None else origin)
    return bootstrap(lambda index: shift_of(changes[index].mean(1)), sweep.seeds)


def seed_changes(sweep: Sweep, name: str, column: int, origin: int) -> Float[Tensor, "seeds labels"]:
    """Change of each label of an attribute from one column to another, per seed, in standard deviations."""
    values = sweep.standard(name)
    return values[:, column] - values[:, origin]


def shift_of(change: Float[Tensor, "*rows labels"]) -> Float[Tensor, "*rows"]:
    """One number for mean changes: of a single label its signed change, of several classes the length."""
    if change.shape[-1] == 1:
        return change[..., 0]
    return (change.square().sum(-1) / 2).sqrt()


def target_values(sweep: Sweep, target: str) -> Float[Tensor, "seeds scales"]:
    """The scalar that a slider is meant to move, in standard deviations.

    Args:
        sweep: The readings.
        target: A continuous attribute, a class attribute with two classes (its second class is up), or one class of
            a larger one as "hair_color=blond".

    Raises:
        InputError: If it is none of these.
    """
    name, _, label = target.partition("=")
    values = sweep.standard(name)
    attribute = next(a for a in sweep.schema if a.name == name)
    if label:
        if label not in attribute.classes:
            raise InputError(f"Expected a class of '{name}' out of {list(attribute.classes)}, but got '{label}'.")
        index = attribute.classes.index(label)
        return sweep.readings[name].double()[..., index] / float(sweep.std[name][index])
    if values.shape[-1] > 1:
        classes = [f"{name}={c}" for c in attribute.classes]
        raise InputError(f"Expected the target '{name}' to name the class that goes up, one of {classes}.")
    return values[..., 0]


def monotone_share(sweep: Sweep, target: str) -> Measure:
    """Share of seeds whose target rises with the scale on the whole: Spearman over the scales above 0.8."""
    return bootstrap_mean(rank_monotone(target_values(sweep, target), sweep.scales).double())


def selectivity(sweep: Sweep, target: str) -> Measure:
    """|Shift of the target| over the mean |shift| of the other attributes, from the lowest to the highest scale."""
    aim = target_values(sweep, target)
    own = aim[:, -1] - aim[:, 0]
    name = target.partition("=")[0]
    others = [seed_changes(sweep, a.name, -1, 0) for a in sweep.schema if a.name != name]
    if not others:
        raise InputError(f"Expected attributes beside '{name}' to compare with, but the schema has none.")

    def ratio(index: Tensor) -> Tensor:
        drifts = torch.stack([shift_of(change[index].mean(1)).abs() for change in others])
        return own[index].mean(1).abs() / drifts.mean(0).clamp_min(SMALLEST_DRIFT)

    return bootstrap(ratio, sweep.seeds)


def protected_probabilities(sweep: Sweep, protected: Sequence[str]) -> dict[str, Float[Tensor, "seeds scales classes"]]:
    """The class probabilities of the protected attributes, as `evaluation.metrics.interference` reads them.

    Raises:
        InputError: If there is none, or one of them is continuous: it has no class to flip.
    """
    classes = [a.name for a in sweep.schema if a.kind == "class"]
    for name in protected:
        if name not in classes:
            raise InputError(f"Expected protected attributes out of {classes}, but got '{name}'; change it.")
    if not protected:
        raise InputError("Expected at least one protected attribute to measure interference, but got none; name one.")
    return {name: sweep.readings[name] for name in protected}


def flips(sweep: Sweep, name: str) -> Bool[Tensor, "seeds scales"]:
    """Where the most probable class of a class attribute differs from the same seed's at scale 0."""
    return flips_of(protected_probabilities(sweep, [name]), sweep.scales)[name]


def protected_flips(sweep: Sweep, protected: Sequence[str]) -> Bool[Tensor, "seeds scales"]:
    """Where any protected attribute flips against scale 0."""
    return any_flip(flips_of(protected_probabilities(sweep, protected), sweep.scales))


def interference(sweep: Sweep, protected: Sequence[str]) -> Measure:
    """Share of the edited images (every scale but 0) in which any protected class attribute flips.

    REFERENCE.md, Evaluation protocol; the interval is over seeds, n counts images.
    """
    return flip_shares(protected_probabilities(sweep, protected), sweep.scales).any
