"""Interference against counts by hand and closed forms."""

import doctest
import math

import numpy as np
import pytest
import torch
from torchmetrics.functional import accuracy

from evaluation.metrics import interference as module
from evaluation.metrics.interference import (
    Interference,
    any_flip,
    flips,
    interference_at_effect,
)
from evaluation.metrics.interference import interference as flip_shares
from slider_lightning.errors import InputError

SCALES = (-2.0, -1.0, 0.0, 1.0, 2.0)
A, B, C = (torch.eye(3) * 0.7 + 0.1).unbind()


def one_hot(classes: list[list[int]]) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(classes)).float()


GENDER = one_hot([[1, 0, 0, 0, 1], [1, 1, 1, 1, 1], [0, 0, 0, 1, 1], [0, 0, 1, 0, 0]])
RACE = one_hot([[2, 0, 0, 0, 0], [2, 2, 2, 2, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
PROTECTED = {"gender": GENDER, "race": RACE}


def test_examples_in_docstrings_hold() -> None:
    assert doctest.testmod(module).failed == 0


def test_flips_compare_each_image_with_its_own_row_at_scale_zero() -> None:
    where = flips(PROTECTED, SCALES)
    assert where["gender"].sum(1).tolist() == [2, 0, 2, 4]
    assert where["race"].sum(1).tolist() == [1, 1, 0, 0]
    assert any_flip(where).sum(1).tolist() == [2, 1, 2, 4]
    assert not bool(any_flip(where)[:, 2].any()), "an image does not flip against itself"


def test_probabilities_count_by_their_largest_class_only() -> None:
    unsure = torch.stack([A, B, 0.5 * A + 0.5 * B + 0.01 * A, C]).expand(2, 4, 3)
    assert flips({"race": unsure}, (-1, 0, 1, 2))["race"].tolist() == [[True, False, True, True]] * 2


def test_shares_are_over_edited_images_per_attribute_and_any() -> None:
    shares = flip_shares(PROTECTED, SCALES)
    assert shares.attributes["gender"].mean == pytest.approx(8 / 16)
    assert shares.attributes["race"].mean == pytest.approx(2 / 16)
    assert shares.any.mean == pytest.approx(9 / 16)
    assert shares.any.n == 16
    rows = np.random.default_rng(0).choice([2, 1, 2, 4], (20_000, 4)).mean(1) / 4
    assert shares.any.ci95 == pytest.approx(tuple(np.quantile(rows, [0.025, 0.975])), abs=0.07)


def test_bad_probabilities_are_refused() -> None:
    broken = GENDER.clone()
    broken[3, 0, 0] = math.nan
    with pytest.raises(ValueError, match=r"\[3\]"):
        flips({"gender": broken}, SCALES)
    with pytest.raises(ValueError, match="'gender'"):
        flips({"gender": GENDER[:, 1:]}, SCALES)
    with pytest.raises(InputError, match="0 among them"):
        flips({"gender": GENDER[:, 3:]}, (1, 2))
    with pytest.raises(InputError, match="protected"):
        flip_shares({}, SCALES)


def linear_rows(rows: int, strength: float = 1.0) -> torch.Tensor:
    """Effect `strength` standard deviations per unit of scale, each row from its own level."""
    return torch.linspace(-1, 1, rows)[:, None] + strength * torch.tensor(SCALES)


def test_interference_at_an_effect_is_linear_between_pairs() -> None:
    """Effect 2 s; flips 0.25 at the pair +-1 and 0.75 at +-2; effect 2.5 is reached at s = 1.25."""
    where = torch.zeros(4, 5, dtype=torch.bool)
    where[:2, 1] = True
    where[:, 0] = True
    where[:2, 4] = True
    found = interference_at_effect(linear_rows(4), where, SCALES, 2.5)
    assert found.scale is not None
    assert found.interference is not None
    assert found.scale.mean == pytest.approx(1.25)
    assert found.interference.mean == pytest.approx(0.25 + 0.25 * 0.5)
    assert found.interference.n == 16
    assert found.scale.ci95 == pytest.approx((1.25, 1.25)), "rows share the slope, so their level must not widen it"
    assert found.largest_effect.mean == pytest.approx(4.0)
    weak = interference_at_effect(linear_rows(4), where, SCALES, 1.0)
    assert weak.scale is not None
    assert weak.interference is not None
    assert (weak.scale.mean, weak.interference.mean) == pytest.approx((0.5, 0.125)), "from nothing at scale 0"


def test_interference_at_an_effect_agrees_with_numpys_interpolation_and_resamples_rows_together() -> None:
    generator = torch.Generator().manual_seed(0)
    slope = 1 + 0.3 * torch.randn(200, 1, generator=generator)
    effect = slope * torch.tensor(SCALES) + 0.2 * torch.randn(200, 5, generator=generator)
    where = torch.rand(200, 5, generator=generator) < 0.1 * torch.tensor(SCALES).abs()
    found = interference_at_effect(effect, where, SCALES, 2.5)
    effects = [0.0, *((effect[:, 2 + i] - effect[:, 2 - i]).mean().item() for i in (1, 2))]
    shares = [0.0, *(where[:, [2 + i, 2 - i]].float().mean().item() for i in (1, 2))]
    assert found.interference is not None
    assert found.scale is not None
    assert found.interference.mean == pytest.approx(np.interp(2.5, effects, shares))
    assert found.scale.mean == pytest.approx(np.interp(2.5, effects, [0, 1, 2]))
    draws = []
    for _ in range(2000):
        rows = torch.randint(200, (200,), generator=generator)
        e = [0.0, *((effect[rows, 2 + i] - effect[rows, 2 - i]).mean().item() for i in (1, 2))]
        s = [0.0, *(where[rows][:, [2 + i, 2 - i]].float().mean().item() for i in (1, 2))]
        draws.append(np.interp(2.5, e, s))
    assert found.interference.ci95 == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=0.006)


@pytest.mark.parametrize("strength", [0.1, 0.0, -2.0])
def test_an_effect_that_is_never_reached_has_no_interference(strength: float) -> None:
    found = interference_at_effect(linear_rows(5, strength), torch.zeros(5, 5, dtype=torch.bool), SCALES, 2.5)
    assert found.interference is None
    assert found.scale is None
    assert found.largest_effect.mean == pytest.approx(max(0.0, 4 * strength))


def test_an_effect_is_reached_at_its_first_crossing() -> None:
    effect = torch.tensor([[0.0, -1.0, 0.0, 2.0, 0.0]]).expand(3, -1)
    found = interference_at_effect(effect, torch.ones(3, 5, dtype=torch.bool), SCALES, 1.5)
    assert found.scale is not None
    assert found.scale.mean == pytest.approx(0.5)


def test_interference_at_an_effect_needs_pairs_of_scales() -> None:
    where = torch.zeros(4, 5, dtype=torch.bool)
    with pytest.raises(InputError, match="pairs"):
        interference_at_effect(linear_rows(4), where, (0.0, 1.0, 2.0, 3.0, 4.0), 2.5)
    with pytest.raises(InputError, match="above 0"):
        interference_at_effect(linear_rows(4), where, SCALES, 0.0)
    with pytest.raises(ValueError, match="5 scales"):
        interference_at_effect(linear_rows(4), where[:3], SCALES, 2.5)
    with pytest.raises(InputError, match="at least 2"):
        interference_at_effect(linear_rows(1), where[:1], SCALES, 2.5)


def test_metric_over_batches_is_one_minus_the_agreement_of_classes() -> None:
    generator = torch.Generator().manual_seed(1)
    edited = {"race": torch.rand(40, 4, generator=generator), "gender": torch.rand(40, 2, generator=generator)}
    original = {"race": torch.rand(40, 4, generator=generator), "gender": torch.rand(40, 2, generator=generator)}
    metric = Interference(["gender", "race"])
    for rows in torch.arange(40).split(12):
        metric({k: v[rows] for k, v in edited.items()}, {k: v[rows] for k, v in original.items()})
    shares = metric.compute()
    for name, classes in (("gender", 2), ("race", 4)):
        agreement = accuracy(edited[name], original[name].argmax(-1), task="multiclass", num_classes=classes)
        assert float(shares[name]) == pytest.approx(1 - float(agreement))
    assert max(float(shares["gender"]), float(shares["race"])) <= float(shares["any"]) <= 1
    with pytest.raises(ValueError, match="'race'"):
        metric.update({"gender": edited["gender"]}, original)
    with pytest.raises(ValueError, match="finite"):
        metric.update({**edited, "race": edited["race"] * math.nan}, original)
    with pytest.raises(InputError, match="protected"):
        Interference([])
