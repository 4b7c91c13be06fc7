"""Means and bootstrap intervals."""

import math

import pytest
import torch

from evaluation.statistics import Measure, bootstrap, bootstrap_mean, from_record, paired_difference, to_record
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


def test_a_constant_has_a_point_interval_and_one_sample_too() -> None:
    assert bootstrap_mean(torch.full((7,), 2.0)) == Measure(2.0, (2.0, 2.0), 7)
    assert bootstrap_mean(torch.tensor([4.0])) == Measure(4.0, (4.0, 4.0), 1)


def test_a_statistic_sees_the_rows_of_each_resample() -> None:
    values = torch.arange(5, dtype=torch.double)
    measure = bootstrap(lambda index: values[index].max(1).values, 5)
    assert measure.mean == 4.0
    assert 2.0 <= measure.ci95[0] <= measure.ci95[1] == 4.0


def test_bad_samples_are_named_and_never_dropped() -> None:
    with pytest.raises(ValueError, match=r"\[1, 3\]"):
        bootstrap_mean(torch.tensor([0.0, math.nan, 1.0, math.inf]))
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_mean(torch.empty(0))
    with pytest.raises(ValueError, match="paired"):
        paired_difference(torch.zeros(3), torch.zeros(4))


def test_records_round_trip_and_leave_costs_alone() -> None:
    measures = {"eval/attribute_shift/age/+1": Measure(1.25, (1.0, 1.5), 64)}
    record = to_record(measures)
    assert record == {"eval/attribute_shift/age/+1": {"mean": 1.25, "ci95": [1.0, 1.5], "n": 64}}
    assert from_record({**record, "cost/seconds/train": 20.1}) == measures
    with pytest.raises(InputError, match="eval/x"):
        from_record({"eval/x": {"mean": 1.0}})
