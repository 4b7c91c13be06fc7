"""Responses: the monotone fit, where they saturate, what is useful, and which scales are measured next."""

import math
from collections.abc import Callable

import pytest
import torch

from evaluation.calibration import CalibrationConfig, calibration_of, next_scales, sampler_facts, shown_units
from evaluation.calibration_report import calibration_figure, calibration_table, record_of
from evaluation.dose import Response, UsefulRule, monotone_fit
from evaluation.report import markdown
from slider_lightning.backbone import SamplerConfig
from slider_lightning.errors import InputError

WIDE = tuple(float(scale) for scale in range(-5, 6))
RULE = UsefulRule(least_growth=0.2)


def response(curve: Callable[[float], float], scales: tuple[float, ...] = WIDE, noise: float = 0.05) -> Response:
    """40 rows around a curve."""
    mean = torch.tensor([curve(scale) for scale in scales], dtype=torch.double)
    spread = noise * torch.randn(40, len(scales), generator=torch.Generator().manual_seed(0), dtype=torch.double)
    changes = (mean + spread - spread.mean(0)) * torch.tensor([scale != 0 for scale in scales])
    return Response("age", "sd", scales, changes, (True,) * len(scales))


def useful(measured: Response, rule: UsefulRule = RULE) -> tuple[float, float, float | None, float | None]:
    low, high = measured.side(-1, rule), measured.side(1, rule)
    return low.end, high.end, low.saturation, high.saturation


def test_the_fit_pools_what_falls_and_goes_through_zero() -> None:
    fitted = monotone_fit((-1, 0, 1, 2, 3, 4), (-1, 0, 1, 3, 2, 4), (-1, 4))
    assert fitted == pytest.approx((-1, 0, 1, 2.5, 2.5, 4))
    assert monotone_fit((-2, -1, 0, 1), (0.5, 0.1, 0, -0.3), (0, 0)) == pytest.approx((0, 0, 0, 0))
    assert monotone_fit((0, 1), (0, 2), (0, 1)) == (0, 2)


def test_what_falls_beyond_the_useful_range_does_not_pull_the_fit_down() -> None:
    fitted = monotone_fit((-3, -2, -1, 0, 1, 2, 3, 4), (5, -2, -1, 0, 1, 2, -7, 3), (-2, 2))
    assert fitted == pytest.approx((-2, -2, -1, 0, 1, 2, 2, 3))


def test_a_curve_is_useful_until_its_growth_is_a_fifth_of_the_steepest() -> None:
    steps = [math.tanh(s / 2) - math.tanh((s - 1) / 2) for s in range(1, 6)]
    last = next(n for n, step in enumerate(steps) if step < 0.2 * steps[0])
    assert useful(response(lambda scale: 3 * math.tanh(scale / 2), noise=0.01)) == (-last, last, -last, last)


def test_a_line_never_saturates_and_stays_open() -> None:
    line = response(lambda scale: scale)
    assert useful(line) == (-5, 5, None, None)
    assert not line.side(1, RULE).closed


def test_a_reversal_and_a_step_lost_in_noise_end_the_range() -> None:
    assert useful(response(lambda scale: min(scale, 4 - scale)))[1::2] == (2, 2)
    # Steps of 0.3 after steps of 1 are above a fifth, but 40 rows with a spread of 2 cannot tell them from 0.
    assert useful(response(lambda scale: min(scale, 0.7 + 0.3 * scale), noise=2.0))[1] == 1


def test_sliders_that_act_upward_alone_late_or_not_at_all() -> None:
    assert useful(response(lambda scale: max(scale, 0.0), noise=0.01)) == (0, 5, None, None)
    late = response(lambda scale: max(scale - 2, 0.0), noise=0.01)
    assert useful(late) == (0, 5, None, None)
    found = calibration_of(late, RULE, {})
    assert found.scale_of(1.0) == pytest.approx(3.0, abs=0.02)
    for curve in (lambda scale: 0.0, lambda scale: -scale):
        with pytest.raises(InputError, match="no effect measured"):
            calibration_of(response(curve), RULE, {})


def test_scales_beyond_a_limit_are_not_useful() -> None:
    line = response(lambda scale: scale)
    kept = tuple(-3 <= scale <= 1 for scale in WIDE)
    limited = Response(line.target, line.unit, line.scales, line.changes, kept)
    assert useful(limited) == (-3, 1, None, None)
    assert limited.side(1, RULE).closed


@pytest.mark.parametrize("values", [{"least_growth": 1.0}, {"largest_drift": 0.0}, {"largest_distance": -1.0}])
def test_a_rule_out_of_range_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(InputError, match="least_growth"):
        UsefulRule(**values)


def test_scales_go_outward_until_saturated_and_then_between() -> None:
    config, curve = CalibrationConfig(widest=4.0, rule=RULE), (lambda scale: max(-2.5, min(scale, 1.0)))
    scales, rounds = (-2.0, -1.0, 0.0, 1.0, 2.0), []
    while wanted := next_scales(response(curve, scales), config):
        rounds.append(wanted)
        scales = tuple(sorted({*scales, *wanted}))
    # Above 0 it is flat from 1 on, which 2 shows; below 0 it grows to -2.5, which -4 shows.
    assert rounds[:2] == [(-3.0,), (-4.0,)]
    assert rounds[2] == (-3.5, -2.5, -1.5, -0.5, 0.5, 1.5)
    assert useful(response(curve, scales)) == (-2.5, 1.0, -2.5, 1.0)
    assert len(rounds) == 3


def test_widening_ends_at_the_widest_scale() -> None:
    assert next_scales(response(float, (-2.0, 0.0, 2.0)), CalibrationConfig(widest=3.0)) == (-3.0, 3.0)
    assert next_scales(response(float, (-2.0, -1.0, 0.0, 1.0)), CalibrationConfig(widest=2.0, finest=1.0)) == (2.0,)
    assert next_scales(response(float, (-1.0, 0.0, 1.0)), CalibrationConfig(widest=1.0, finest=1.0)) == ()


@pytest.mark.parametrize("values", [{"finest": 0.0}, {"finest": 2.0}, {"widest": 0.5}, {"scales": (1.0, 2.0)}])
def test_a_search_out_of_range_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(InputError, match="Expected"):
        CalibrationConfig(**values)


def test_a_calibration_is_told_as_figures_table_and_picture() -> None:
    facts = {"prompts": ("image of a person",), "sampler": sampler_facts(SamplerConfig(16)), "model": "abc"}
    found = calibration_of(response(lambda scale: 2 * math.tanh(scale)), RULE, facts)
    assert "fold" not in found.sampler
    assert shown_units(found) == [-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5]
    record = record_of(found, "calibration/")
    assert record["calibration/effect/+1"]["mean"] == pytest.approx(2 * math.tanh(1), abs=1e-6)
    assert record["calibration/scale_of/+1"] == found.scale_of(1.0)
    assert record["calibration/useful_scales"] == found.useful_scales
    text = markdown(calibration_table(found))
    assert f"+1 at {found.scale_of(1.0):+.2f}" in text
    assert "above 0: from +2 on" in text
    response_axes, ruler = calibration_figure(found).axes
    assert [line.get_xdata()[0] for line in response_axes.lines if line.get_linestyle() == "--"] == [-2.0, 2.0]
    ticks = [line.get_xdata()[0] for line in ruler.lines[1:]]
    assert ticks == pytest.approx([found.scale_of(units) for units in shown_units(found)])
