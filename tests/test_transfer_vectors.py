"""Transfer: effect vectors, their correlation, and what is left to chance of it."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy import stats

from evaluation.measurements import Measurements
from evaluation.scale_sweeps import attribute_shift
from evaluation.statistics import Measure
from experiments.paper.claims import FAILS, HOLDS, UNDECIDED
from experiments.paper.transfer_tables import similarities, target_effect, verdict
from experiments.paper.transfer_vectors import (
    EffectRows,
    Similarity,
    chance,
    effect_rows,
    eye_area_effect,
    pearson,
    similarity,
    spearman,
)
from slider_lightning.errors import InputError
from tests.report_measurements import linear_slider


def random_rows(entries: int, rows: int, seed: int, mean: torch.Tensor | None = None) -> EffectRows:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, entries, generator=generator).double()
    return EffectRows(tuple(f"a{i}" for i in range(entries)), values + (0 if mean is None else mean))


def test_correlations_are_scipys() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(2, 5, 22))
    second[2, :5] = second[2, 5]
    for row in range(5):
        assert pearson(first, second)[row] == pytest.approx(stats.pearsonr(first[row], second[row]).statistic)
        assert spearman(first, second)[row] == pytest.approx(stats.spearmanr(first[row], second[row]).statistic)


@pytest.mark.parametrize("statistic", [pearson, spearman])
def test_the_likeness_is_that_of_the_means(statistic: Similarity) -> None:
    first, second = random_rows(12, 20, 0), random_rows(12, 30, 1)
    found = similarity(first, second, statistic)
    assert found.mean == pytest.approx(float(statistic(first.values.mean(0).numpy(), second.values.mean(0).numpy())))
    assert found.ci95[0] < 0 < found.ci95[1], "two moves that have nothing in common"
    assert found.n == 30
    assert similarity(first, second, statistic) == found


def test_the_interval_is_that_of_a_bootstrap_of_either_sample() -> None:
    """Against scipy's two-sample bootstrap, which draws other resamples."""
    mean = torch.linspace(-1, 2, 12).double()
    first, second = random_rows(12, 40, 2, mean), random_rows(12, 60, 3, mean.flip(0).square())
    found = similarity(first, second, pearson)
    reference = stats.bootstrap(
        (np.arange(40), np.arange(60)),
        lambda i, j: float(pearson(first.values[i].mean(0).numpy(), second.values[j].mean(0).numpy())),
        n_resamples=2000,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert found.ci95 == pytest.approx((reference.low, reference.high), abs=0.02)


def test_the_interval_narrows_around_the_truth_with_more_images() -> None:
    mean = torch.linspace(-1, 2, 12).double()
    widths = []
    for rows in (10, 1000):
        low, high = similarity(random_rows(12, rows, 4, mean), random_rows(12, rows, 5, 2 * mean), pearson).ci95
        widths.append(high - low)
    assert widths[1] < widths[0] / 5
    assert low > 0.98


def test_vectors_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(InputError, match="same 3 or more"):
        similarity(random_rows(2, 5, 0), random_rows(2, 5, 1), pearson)
    with pytest.raises(InputError, match="same 3 or more"):
        similarity(random_rows(4, 5, 0), random_rows(5, 5, 1), pearson)
    idle = EffectRows(tuple(f"a{i}" for i in range(4)), torch.zeros(5, 4))
    with pytest.raises(InputError, match="changes none"):
        similarity(random_rows(4, 5, 0), idle, pearson)
    with pytest.raises(InputError, match="at least 2"):
        similarity(random_rows(4, 1, 0), random_rows(4, 5, 1), pearson)


def test_effects_are_signed_and_per_unit_of_scale() -> None:
    slider = linear_slider(age=0.25)
    rows = effect_rows(slider)
    assert rows.entries == ("age", "gender=woman", "hair=black", "hair=brown", "hair=red")
    measures = rows.measures()
    assert measures["age"].mean == pytest.approx(0.25)
    assert measures["age"].mean == pytest.approx(attribute_shift(slider.sweep(), "age", -1, origin=0).mean / 4)
    assert {measures[entry].mean for entry in rows.entries[1:]} == {0}
    assert target_effect(slider, "age").mean == pytest.approx(0.25)
    assert rows.without("hair=red").entries == ("age", "gender=woman")
    assert rows.without(None).entries == rows.entries


def test_eye_area_rests_on_the_rows_that_have_eyes() -> None:
    slider = linear_slider(rows=4, scales=(-1.0, 0.0, 1.0))
    assert eye_area_effect(slider) is None
    areas = [10.0, 20.0, 50.0] * 3 + [10.0, float("nan"), 20.0]
    measured = eye_area_effect(Measurements(slider.header, slider.frame.assign(eye_area=areas)))
    assert measured
    assert (measured.mean, measured.n) == (pytest.approx(1.0), 3)
    assert eye_area_effect(Measurements(slider.header, slider.frame.assign(eye_area=float("nan")))) is None


def test_the_verdict_leaves_the_target_out() -> None:
    """Two moves of one target that have nothing else in common: their correlation is no finding."""
    shared = torch.zeros(12).double()
    shared[0] = 40
    first, second = (random_rows(12, 30, seed, shared) for seed in (6, 7))
    found = similarities(first, second, "a0")
    assert found["Pearson, all"].ci95[0] > 0.9
    assert verdict(found["Pearson, without the target"], chance(first.without("a0"), second.without("a0"))) == UNDECIDED


def test_p_is_that_of_a_permutation_test_over_entries() -> None:
    first, second = random_rows(9, 20, 0), random_rows(9, 30, 1)
    means = [rows.values.mean(0).numpy() for rows in (first, second)]
    reference = stats.permutation_test(
        (means[0],),
        lambda x: float(pearson(x, means[1])),
        permutation_type="pairings",
        n_resamples=5000,
        vectorized=False,
        rng=np.random.default_rng(0),
    )
    two_sided = np.mean(np.abs(reference.null_distribution) >= abs(reference.statistic))
    assert chance(first, second) == pytest.approx(two_sided, abs=0.03)
    assert chance(first, first) == pytest.approx(1 / 10001)


BLOCKS = ("a", "b=up", "c", "h=x", "h=y", "h=z", "k=x", "k=y", "k=z", "s=1", "s=2", "s=3", "s=4")


def of_entries(entries: Sequence[str], seed: int) -> EffectRows:
    return EffectRows(tuple(entries), random_rows(len(entries), 20, seed).values)


def test_classes_of_one_attribute_stay_together_where_entries_are_permuted() -> None:
    """Against all orders: 3! of the single entries, 2! of the attributes with three classes, one of that with four."""
    first, second = of_entries(BLOCKS, 8), of_entries(BLOCKS, 9)
    x, y = (rows.values.mean(0).numpy() for rows in (first, second))
    orders = [
        [*single, *(3 + 3 * block + k for block in triples for k in range(3)), 9, 10, 11, 12]
        for single in itertools.permutations(range(3))
        for triples in itertools.permutations(range(2))
    ]
    reached = [abs(pearson(x, y[order])) >= abs(pearson(x, y)) - 1e-12 for order in orders]
    assert len(orders) == 12
    assert chance(first, second) == pytest.approx(np.mean(reached), abs=0.02)
    assert chance(first, first) == pytest.approx(1 / 12, abs=0.02)


def test_two_attributes_alone_show_nothing_whatever_the_number_of_their_classes() -> None:
    rows = of_entries([f"{name}={place}" for name in "hk" for place in range(9)], 10)
    assert chance(rows, rows) == pytest.approx(0.5, abs=0.02)
    alone = of_entries(["a", *(f"h={place}" for place in range(9))], 11)
    assert chance(alone, alone) == 1


def test_verdicts_follow_the_interval_and_p() -> None:
    ends: Sequence[tuple[float, float]] = ((0.1, 0.3), (-0.1, 0.3), (-0.3, -0.1))
    assert [verdict(Measure(0.0, end, 4)) for end in ends] == [HOLDS, UNDECIDED, FAILS]
    assert verdict(Measure(0.2, (0.1, 0.3), 4), 0.05) == UNDECIDED
