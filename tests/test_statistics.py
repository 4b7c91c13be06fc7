"""Means and bootstrap intervals."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import permutation_test

from evaluation.statistics import (
    PERMUTATIONS,
    Measure,
    bootstrap,
    bootstrap_mean,
    from_record,
    paired_bootstrap,
    paired_difference,
    paired_test,
    to_record,
)
from slider_lightning.errors import InputError


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def test_interval_of_a_normal_mean_matches_the_closed_form() -> None:
    values = 3.0 + 2.0 * normal(400)
    measure = bootstrap_mean(values)
    half = 1.96 * float(values.std()) / math.sqrt(400)
    assert measure.mean == pytest.approx(float(values.mean()), abs=1e-12)
    assert measure.ci95[0] == pytest.approx(measure.mean - half, abs=0.1 * half)
    assert measure.ci95[1] == pytest.approx(measure.mean + half, abs=0.1 * half)
    assert measure.n == 400


def test_interval_covers_the_truth_nearly_always() -> None:
    covered = 0
    for seed in range(60):
        low, high = bootstrap_mean(normal(40, seed=seed)).ci95
        covered += low <= 0 <= high
    assert covered / 60 >= 0.85


def test_equal_data_give_equal_intervals_whatever_the_global_generator_holds() -> None:
    values = normal(30)
    torch.manual_seed(1)
    first = bootstrap_mean(values)
    torch.manual_seed(2)
    assert bootstrap_mean(values) == first


def test_samples_of_one_unit_are_not_counted_as_independent() -> None:
    units = normal(50)
    repeated = bootstrap_mean(units[:, None].expand(50, 20))
    single = bootstrap_mean(units)
    assert repeated.ci95 == pytest.approx(single.ci95, abs=1e-12)
    assert (repeated.n, single.n) == (1000, 50)


def test_pairing_removes_what_both_sides_share() -> None:
    shared = 100 * normal(64)
    change = 0.5 + 0.1 * normal(64, seed=1)
    paired = paired_difference(shared + change, shared)
    assert paired.mean == pytest.approx(float(change.mean()), abs=1e-9)
    assert paired.ci95[1] - paired.ci95[0] < 0.1


def test_a_constant_has_a_point_interval() -> None:
    assert bootstrap_mean(torch.full((7,), 2.0)) == Measure(2.0, (2.0, 2.0), 7)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_units_for_an_interval_are_refused_in_one_sentence(count: int) -> None:
    values = torch.ones(count, 3)
    for measure in (
        lambda: bootstrap_mean(values),
        lambda: paired_test(values, values),
        lambda: paired_bootstrap(lambda index: values[index].sum((1, 2)), lambda index: index.sum(1), count),
    ):
        with pytest.raises(InputError, match=rf"at least 2 .* got {count};"):
            measure()


def test_interval_agrees_with_scipys_percentile_bootstrap() -> None:
    values = normal(80).exp()
    low, high = bootstrap_mean(values).ci95
    expected = scipy_bootstrap(
        (values.numpy(),), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    width = expected.high - expected.low
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.05 * width)


def test_a_statistic_sees_the_rows_of_each_resample() -> None:
    values = torch.arange(5, dtype=torch.double)
    measure = bootstrap(lambda index: values[index].max(1).values, 5)
    assert measure.mean == 4.0
    assert 2.0 <= measure.ci95[0] <= measure.ci95[1] == 4.0


def test_bad_samples_are_named_and_never_dropped() -> None:
    with pytest.raises(ValueError, match=r"\[1, 3\]"):
        bootstrap_mean(torch.tensor([0.0, math.nan, 1.0, math.inf]))
    with pytest.raises(ValueError, match="every resample"):
        bootstrap(lambda index: torch.where(index.sum(1) == 1, 1.0, math.nan), 2)
    with pytest.raises(ValueError, match="paired"):
        paired_difference(torch.zeros(3), torch.zeros(4))


def scipy_sign_flip(first: torch.Tensor, second: torch.Tensor, resamples: int) -> float:
    """p-value of scipy's permutation test, which flips signs when it is given one paired sample of differences."""
    return float(
        permutation_test(
            ((first - second).numpy(),),
            np.mean,
            permutation_type="samples",
            n_resamples=resamples,
            alternative="two-sided",
            rng=np.random.default_rng(1),
        ).pvalue
    )


@pytest.mark.parametrize("shift", [0.0, 0.4, 1.0])
def test_exact_sign_flip_p_value_is_scipys(shift: float) -> None:
    first, second = normal(10) + shift, normal(10, seed=1)
    test = paired_test(first, second)
    assert test.p_value == pytest.approx(scipy_sign_flip(first, second, 2**10), abs=1e-12)
    assert test.difference == paired_difference(first, second)
    assert "exact" in test.test


def test_sampled_sign_flip_p_value_is_scipys_up_to_sampling() -> None:
    first, second = normal(60) + 0.3, normal(60, seed=1)
    test = paired_test(first, second)
    expected = scipy_sign_flip(first, second, 50_000)
    assert test.p_value == pytest.approx(expected, abs=4 * math.sqrt(expected / PERMUTATIONS))
    assert 0.01 < expected < 0.5
    assert test == paired_test(first, second)
    assert "10000 permutations" in test.test


def test_known_sign_flip_p_values() -> None:
    assert paired_test(torch.arange(1.0, 6.0), torch.zeros(5)).p_value == 2 / 2**5
    assert paired_test(torch.zeros(5), torch.arange(1.0, 6.0)).p_value == 2 / 2**5, "two-sided"
    assert paired_test(torch.ones(5), torch.ones(5)).p_value == 1.0
    assert paired_test(torch.tensor([1.0, -1.0]), torch.zeros(2)).p_value == 1.0
    assert paired_test(torch.ones(100), torch.zeros(100)).p_value == 1 / (1 + PERMUTATIONS)


def test_sign_flips_treat_a_unit_as_one_and_ignore_rounding() -> None:
    first = normal(12, 4)
    second = normal(12, 4, seed=1)
    assert paired_test(first, second).p_value == paired_test(first.mean(1), second.mean(1)).p_value
    assert paired_test(first, second).difference.n == 48
    equal = torch.full((3,), 0.1, dtype=torch.double)
    assert paired_test(3 * equal, 2 * equal).p_value == 0.25, "0.3 - 0.2 is not 0.1 in binary"


def test_false_alarms_are_as_rare_as_promised() -> None:
    alarms = sum(paired_test(normal(11, seed=s), normal(11, seed=1000 + s)).p_value <= 0.05 for s in range(200))
    assert 2 <= alarms <= 20


def test_paired_bootstrap_of_means_agrees_with_the_mean_of_differences() -> None:
    shared = 10 * normal(50)
    first, second = shared + 0.5 + normal(50, seed=1), shared + normal(50, seed=2)
    test = paired_bootstrap(lambda i: first[i].mean(1), lambda i: second[i].mean(1), 50)
    expected = paired_difference(first, second)
    assert test.difference.mean == pytest.approx(expected.mean, abs=1e-9)
    assert test.difference.ci95 == pytest.approx(expected.ci95, abs=1e-9)
    assert test.p_value == pytest.approx(paired_test(first, second).p_value, abs=0.02)


def test_paired_bootstrap_p_value_and_interval_agree_about_zero() -> None:
    effect, drift = 2 + normal(40), 1 + 0.2 * normal(40, seed=1)
    for weaker in (0.5, 0.95, 1.0):
        test = paired_bootstrap(
            lambda i: effect[i].mean(1) / drift[i].mean(1),
            lambda i, w=weaker: w * effect[i].mean(1) / drift[i].mean(1),
            40,
        )
        low, high = test.difference.ci95
        assert (test.p_value < 0.05) == (low > 0 or high < 0)
    assert test.p_value == 1.0
    assert test.difference == Measure(0.0, (0.0, 0.0), 40)


def test_records_round_trip_and_leave_costs_alone() -> None:
    measures = {"eval/attribute_shift/age/+1": Measure(1.25, (1.0, 1.5), 64)}
    record = to_record(measures)
    assert record == {"eval/attribute_shift/age/+1": {"mean": 1.25, "ci95": [1.0, 1.5], "n": 64}}
    assert from_record({**record, "cost/seconds/train": 20.1}) == measures
    with pytest.raises(InputError, match="eval/x"):
        from_record({"eval/x": {"mean": 1.0}})
