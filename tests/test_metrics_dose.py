"""The dose-response figures against scipy, numpy and closed forms."""

import doctest
import math

import numpy as np
import pytest
import torch
from scipy.stats import linregress, spearmanr

from evaluation.metrics import dose_response, freesliders
from evaluation.metrics.dose_response import (
    DoseResponse,
    linear_fit,
    rank_monotone,
    response_curve,
    saturation_of_mean,
    saturation_point,
    spearman_over_scales,
    strictly_monotone,
)
from evaluation.metrics.freesliders import FreeSlidersScores, conceptual_range, preservation, smoothness
from evaluation.statistics import bootstrap_mean
from slider_lightning.errors import InputError

SCALES = (-2.0, -1.0, -0.5, 0.0, 1.0, 2.0, 3.5)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


@pytest.fixture
def noisy() -> torch.Tensor:
    return 0.8 * torch.tensor(SCALES, dtype=torch.double) + normal(30, len(SCALES))


@pytest.mark.parametrize("module", [dose_response, freesliders])
def test_examples_in_docstrings_hold(module: object) -> None:
    assert doctest.testmod(module).failed == 0  # type: ignore[arg-type]


def test_spearman_is_scipys_with_and_without_ties(noisy: torch.Tensor) -> None:
    tied = torch.randint(3, (20, len(SCALES)), generator=torch.Generator().manual_seed(3)).double()
    for values in (noisy, tied):
        for row, rho in zip(values, spearman_over_scales(values, SCALES), strict=True):
            expected = spearmanr(row.numpy(), SCALES).statistic if len(row.unique()) > 1 else 0.0
            assert float(rho) == pytest.approx(expected, abs=1e-5)


def test_line_is_scipys(noisy: torch.Tensor) -> None:
    fit = linear_fit(noisy, SCALES)
    for i, row in enumerate(noisy):
        expected = linregress(SCALES, row.numpy())
        assert float(fit.slope[i]) == pytest.approx(expected.slope, abs=1e-10)
        assert float(fit.intercept[i]) == pytest.approx(expected.intercept, abs=1e-10)
        assert float(fit.r2[i]) == pytest.approx(expected.rvalue**2, abs=1e-10)


def test_a_row_that_never_changes_is_no_fit_and_no_order() -> None:
    flat = torch.full((2, 7), 0.3)
    assert linear_fit(flat, SCALES).r2.tolist() == [0.0, 0.0]
    assert spearman_over_scales(flat, SCALES).tolist() == [0.0, 0.0]
    assert not bool(strictly_monotone(flat).any() | rank_monotone(flat, SCALES).any())


def test_the_two_rules_of_monotone_differ_by_one_backward_step() -> None:
    rising = torch.tensor([0.0, 1, 2, 3, 4, 5, 6])
    one_back = torch.tensor([0.0, 1, 3, 2, 4, 5, 6])
    level = torch.tensor([0.0, 1, 2, 2, 4, 5, 6])
    rows = torch.stack([rising, one_back, level, rising.flip(0)])
    assert strictly_monotone(rows).tolist() == [True, False, False, False]
    assert rank_monotone(rows, SCALES).tolist() == [True, True, True, False]


def test_response_curve_gathers_rows_means_and_the_mean_curve(noisy: torch.Tensor) -> None:
    curve = response_curve(noisy, SCALES)
    fits = [linregress(SCALES, row.numpy()) for row in noisy]
    of_mean = linregress(SCALES, noisy.mean(0).numpy())
    assert curve.slope.mean == pytest.approx(np.mean([fit.slope for fit in fits]))
    assert curve.slope.mean == pytest.approx(of_mean.slope), "ordinary least squares is linear in the values"
    assert curve.r2.mean == pytest.approx(np.mean([fit.rvalue**2 for fit in fits]))
    assert curve.r2_of_mean.mean == pytest.approx(of_mean.rvalue**2)
    assert curve.r2_of_mean.mean > curve.r2.mean, "averaging rows removes noise"
    rho = [spearmanr(row.numpy(), SCALES).statistic for row in noisy]
    assert curve.spearman.mean == pytest.approx(np.mean(rho), abs=1e-5)
    assert curve.rank_monotone_share.mean == np.mean([r > 0.8 for r in rho])
    assert curve.strictly_monotone_share.mean == np.mean([bool((np.diff(row.numpy()) > 0).all()) for row in noisy])
    assert curve.slope == bootstrap_mean(linear_fit(noisy, SCALES).slope)
    assert curve.r2.n == curve.r2_of_mean.n == 30


def test_saturation_of_a_parabola_is_where_its_slope_halves() -> None:
    """Slopes of a - b s^2 between neighbours are exact at their middles, so interpolation is exact too."""
    scales = torch.arange(-4, 5, dtype=torch.double)
    a, b = 3.0, 0.4
    values = a * scales - b * scales.sign() * scales.square()
    first = a - 2 * b * 0.5
    expected = (a - first / 2) / (2 * b)
    for positive in (True, False):
        point = saturation_point(values, scales.tolist(), positive=positive)
        assert float(point) == pytest.approx(expected)
        assert float(saturation_point(-values, scales.tolist(), positive=positive)) == pytest.approx(expected)


def test_saturation_needs_no_even_scales_and_sees_each_side_alone() -> None:
    scales = (-3.0, -1.0, 0.0, 1.0, 2.0, 4.0)
    values = torch.tensor([-6.0, -2.0, 0.0, 4.0, 6.0, 6.0])
    assert math.isnan(saturation_point(values, scales, positive=False))
    assert float(saturation_point(values, scales, positive=True)) == pytest.approx(1.5)
    steep = torch.tensor([-6.0, -2.0, 0.0, 4.0, 7.0, 7.0])
    assert float(saturation_point(steep, scales, positive=True)) == pytest.approx(1.5 + 1.5 * (0.75 - 0.5) / 0.75)


@pytest.mark.parametrize("values", [[0.0, 1, 2, 3], [0.0, 1, 3, 6], [0.0, 0, 1, 2], [0.0, 0, 0, 0]])
def test_a_curve_that_never_saturates_has_no_point(values: list[float]) -> None:
    scales = (0.0, 1.0, 2.0, 3.0)
    assert math.isnan(saturation_point(torch.tensor(values), scales, positive=True))
    assert saturation_of_mean(torch.tensor([values, values]), scales, positive=True) is None
    assert saturation_of_mean(torch.tensor([values, values]), scales, positive=False) is None, "a side without scales"


def test_saturation_interval_counts_late_resamples_at_the_last_scale() -> None:
    scales = (0.0, 1.0, 2.0, 3.0)
    early, never = torch.tensor([0.0, 4.0, 5.0, 5.5]), torch.tensor([0.0, 1.0, 2.0, 3.0])
    assert saturation_of_mean(torch.stack([early] * 5), scales, positive=True).ci95 == pytest.approx((7 / 6, 7 / 6))
    mixed = saturation_of_mean(torch.stack([early] * 3 + [never] * 3), scales, positive=True)
    assert mixed is not None
    assert 7 / 6 < mixed.mean < 3
    assert mixed.ci95[0] == pytest.approx(7 / 6, abs=0.15)
    assert mixed.ci95[1] == pytest.approx(3.0)


def test_a_sweep_must_be_one(noisy: torch.Tensor) -> None:
    broken = noisy.clone()
    broken[[2, 5], 1] = math.nan
    with pytest.raises(ValueError, match=r"\[2, 5\]"):
        response_curve(broken, SCALES)
    with pytest.raises(ValueError, match="7 scales"):
        response_curve(noisy[:, :5], SCALES)
    with pytest.raises(InputError, match="increasing"):
        response_curve(noisy, SCALES[::-1])
    with pytest.raises(InputError, match="0 among them"):
        response_curve(noisy[:, 4:], SCALES[4:])
    with pytest.raises(InputError, match="at least 2"):
        response_curve(noisy[:1], SCALES)


def test_dose_response_metric_equals_the_function_over_batches(noisy: torch.Tensor) -> None:
    metric = DoseResponse()
    for rows in noisy.split(7):
        metric(rows, SCALES)
    curve = response_curve(noisy, SCALES)
    for name, value in metric.compute().items():
        assert float(value) == pytest.approx(getattr(curve, name).mean, abs=1e-9), name
    with pytest.raises(InputError, match="same scales"):
        metric.update(noisy, [2 * s for s in SCALES])
    metric.reset()
    metric.update(noisy[:, 2:5], SCALES[2:5])
    assert float(metric.compute()["slope"]) == pytest.approx(float(linear_fit(noisy[:, 2:5], SCALES[2:5]).slope.mean()))


def test_freesliders_scores_by_hand() -> None:
    scales = (-2, -1, 0, 1, 2)
    positive = torch.tensor([[18.0, 19.0, 20.0, 24.0, 23.0], [20.0, 20.0, 20.0, 20.0, 20.0]])
    negative = torch.tensor([[25.0, 21.0, 20.0, 19.0, 17.0], [20.0, 20.0, 20.0, 20.0, 20.0]])
    assert conceptual_range(positive, negative).tolist() == [(23 - 18 + 25 - 17) / 2, 0.0]
    distances = torch.tensor([[0.4, 0.1, 0.0, 0.1, 0.2], [0.0, 0.0, 0.0, 0.0, 0.0]])
    assert preservation(distances, scales).tolist() == pytest.approx([0.2, 0.0])
    gaps = [25 - 21, 21 - 20, 24 - 20, 23 - 24]
    assert smoothness(positive, negative, scales).tolist() == pytest.approx([np.std(gaps), 0.0])
    assert np.std(gaps) > np.std([gap for gap in gaps if gap >= 0]), "dropping the step back would flatter the slider"


def test_freesliders_metric_is_the_mean_over_all_batches() -> None:
    positive, negative, distances = normal(10, 7), normal(10, 7, seed=1), normal(10, 7, seed=2).abs()
    metric = FreeSlidersScores()
    for rows in torch.arange(10).split(4):
        metric.update(positive[rows], negative[rows], distances[rows], SCALES)
    scores = metric.compute()
    assert float(scores["range"]) == pytest.approx(float(conceptual_range(positive, negative).mean()))
    assert float(scores["preservation"]) == pytest.approx(float(preservation(distances, SCALES).mean()))
    assert float(scores["smoothness"]) == pytest.approx(float(smoothness(positive, negative, SCALES).mean()))
    with pytest.raises(ValueError, match="7 scales"):
        metric.update(positive, negative, distances[:, 1:], SCALES)
