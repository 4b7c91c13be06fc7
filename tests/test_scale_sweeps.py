"""The figures of a sweep against closed forms."""

import math

import pytest
import torch

from evaluation.attributes import Attribute
from evaluation.scale_sweeps import (
    Sweep,
    attribute_shift,
    flips,
    interference,
    monotone_share,
    protected_flips,
    protected_probabilities,
    selectivity,
    target_values,
)
from slider_lightning.errors import InputError

SCHEMA = (
    Attribute("age", "continuous"),
    Attribute("smile", "continuous"),
    Attribute("gender", "class", ("man", "woman")),
    Attribute("hair", "class", ("black", "brown", "blond")),
)
STD = {
    "age": torch.tensor([0.25]),
    "smile": torch.tensor([0.5]),
    "gender": torch.tensor([0.5, 0.5]),
    "hair": torch.tensor([0.4, 0.4, 0.2]),
}
SCALES = (-2.0, -1.0, 0.0, 1.0, 2.0)
SEEDS = 6


def make_sweep(age: float = 0.1, smile: float = 0.0, woman: float = 0.0, blond: float = 0.0) -> Sweep:
    """A sweep whose readings are linear in the scale, each seed from its own level."""
    scale = torch.tensor(SCALES, dtype=torch.double)[None]
    base = torch.linspace(0.2, 0.8, SEEDS, dtype=torch.double)[:, None]
    p_woman = 0.5 + woman * scale + 0 * base
    p_blond = 0.3 + blond * scale + 0 * base
    return Sweep(
        SCALES,
        {
            "age": base + age * scale,
            "smile": base.flip(0) + smile * scale,
            "gender": torch.stack([1 - p_woman, p_woman], -1),
            "hair": torch.stack([0.5 * (1 - p_blond), 0.5 * (1 - p_blond), p_blond], -1),
        },
        SCHEMA,
        STD,
    )


def test_shift_is_the_change_against_scale_zero_in_standard_deviations() -> None:
    sweep = make_sweep(age=0.1, woman=0.1)
    for column, scale in enumerate(SCALES):
        age = attribute_shift(sweep, "age", column)
        assert age.mean == pytest.approx(0.1 * scale / 0.25)
        assert age.ci95 == pytest.approx((age.mean, age.mean)), "the seeds' own level must not widen the interval"
        assert attribute_shift(sweep, "gender", column).mean == pytest.approx(0.1 * scale / 0.5)
    assert attribute_shift(sweep, "age", -1, origin=0).mean == pytest.approx(1.6)


def test_shift_of_many_classes_is_the_length_of_the_standardized_change() -> None:
    sweep = make_sweep(blond=0.1)
    black = brown = -0.05 * 2 / 0.4
    blond = 0.1 * 2 / 0.2
    expected = math.sqrt((black**2 + brown**2 + blond**2) / 2)
    assert attribute_shift(sweep, "hair", -1).mean == pytest.approx(expected)
    assert attribute_shift(sweep, "hair", 0).mean == pytest.approx(expected), "it has no sign"


def test_the_length_of_two_classes_is_the_absolute_binary_shift() -> None:
    sweep = make_sweep(woman=-0.1)
    change = (sweep.readings["gender"][:, -1] - sweep.readings["gender"][:, 2]) / STD["gender"]
    length = (change.mean(0).square().sum() / 2).sqrt()
    assert attribute_shift(sweep, "gender", -1).mean == pytest.approx(-float(length))


def test_selectivity_is_the_targets_range_over_the_mean_range_of_the_others() -> None:
    sweep = make_sweep(age=0.1, smile=-0.05, woman=0.02)
    own = 0.4 / 0.25
    others = (0.2 / 0.5 + 0.08 / 0.5 + 0.0) / 3
    assert selectivity(sweep, "age").mean == pytest.approx(own / others)
    assert math.isfinite(selectivity(make_sweep(), "age").mean)


def test_opposite_drifts_of_seeds_cancel_in_the_mean_shift_only() -> None:
    sweep = make_sweep()
    sign = torch.tensor([1.0, -1.0] * (SEEDS // 2), dtype=torch.double)[:, None]
    smile = 0.5 + 0.1 * sign * torch.tensor(SCALES, dtype=torch.double)
    drifting = Sweep(SCALES, {**sweep.readings, "smile": smile}, SCHEMA, STD)
    assert attribute_shift(drifting, "smile", -1).mean == pytest.approx(0.0, abs=1e-12)
    low, high = attribute_shift(drifting, "smile", -1).ci95
    assert low < -0.1 < 0.1 < high


def test_monotone_share_counts_seeds() -> None:
    sweep = make_sweep()
    age = sweep.readings["age"].clone()
    age[0] = age[0].flip(0)
    age[1] = 0.5
    mixed = Sweep(SCALES, {**sweep.readings, "age": age}, SCHEMA, STD)
    assert monotone_share(mixed, "age").mean == pytest.approx((SEEDS - 2) / SEEDS)
    assert monotone_share(sweep, "age").mean == 1.0


def test_targets_may_name_one_class() -> None:
    sweep = make_sweep(blond=0.1)
    assert torch.allclose(target_values(sweep, "hair=blond"), sweep.readings["hair"][..., 2] / 0.2)
    assert monotone_share(sweep, "hair=blond").mean == 1.0
    assert monotone_share(sweep, "hair=black").mean == 0.0
    with pytest.raises(InputError, match="hair=black"):
        target_values(sweep, "hair")
    with pytest.raises(InputError, match="green"):
        target_values(sweep, "hair=green")
    with pytest.raises(InputError, match="height"):
        target_values(sweep, "height")


def test_interference_counts_images_in_which_any_protected_class_flips() -> None:
    sweep = make_sweep()
    gender = torch.full((SEEDS, 5, 2), 0.5, dtype=torch.double)
    gender[..., 0] = 0.6
    gender[..., 1] = 0.4
    gender[0, 4] = torch.tensor([0.1, 0.9])
    gender[1, 2] = torch.tensor([0.1, 0.9])
    hair = sweep.readings["hair"].clone()
    hair[0, 4] = torch.tensor([0.0, 0.0, 1.0])
    hair[2, 0] = torch.tensor([0.0, 0.0, 1.0])
    flipped = Sweep(SCALES, {**sweep.readings, "gender": gender, "hair": hair}, SCHEMA, STD)
    assert flips(flipped, "gender").sum(1).tolist() == [1, 4, 0, 0, 0, 0]
    both = interference(flipped, ["gender", "hair"])
    assert both.mean == pytest.approx((1 + 4 + 1) / (SEEDS * 4))
    assert both.n == SEEDS * 4
    assert interference(flipped, ["hair"]).mean == pytest.approx(2 / (SEEDS * 4))
    assert protected_flips(flipped, ["gender", "hair"]).sum(1).tolist() == [1, 4, 1, 0, 0, 0]
    assert torch.equal(protected_probabilities(flipped, ["hair"])["hair"], hair)
    with pytest.raises(InputError, match="age"):
        interference(flipped, ["age"])
    with pytest.raises(InputError, match="at least one"):
        interference(flipped, [])


@pytest.mark.parametrize("scales", [(-1.0, 1.0), (0.0, 1.0, 1.0), (1.0, 0.0), (0.0,)])
def test_scales_must_increase_around_zero(scales: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="scales"):
        Sweep(scales, {}, (), {})


def test_readings_must_fit_and_be_finite() -> None:
    sweep = make_sweep()
    with pytest.raises(ValueError, match="age"):
        Sweep(SCALES, {**sweep.readings, "age": torch.zeros(SEEDS, 4)}, SCHEMA, STD)
    broken = sweep.readings["age"].clone()
    broken[3, 1] = math.nan
    with pytest.raises(ValueError, match=r"\[3\]"):
        Sweep(SCALES, {**sweep.readings, "age": broken}, SCHEMA, STD)
