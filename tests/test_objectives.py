"""The text objective against closed forms written out by hand."""

import numpy as np
import pytest
import torch

from slider_lightning.errors import InputError
from slider_lightning.objectives import (
    Projection,
    TextObjective,
    both_poles,
    project_out,
    slider_direction,
    slider_target,
    text_direction,
)


@pytest.fixture
def eps() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """eps(c_t), eps(c+, p), eps(c-, p) of 5 states and 3 preserved concepts."""
    generator = torch.Generator().manual_seed(0)
    shapes = (5, 4, 3, 2), (5, 3, 4, 3, 2), (5, 3, 4, 3, 2)
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)  # type: ignore[return-value]


def target_of(eps, scale: torch.Tensor, eta: float, reduction="sum", mode="enhance") -> torch.Tensor:
    return slider_target(eps[0], slider_direction(*eps, reduction), scale, eta, mode)


@pytest.mark.parametrize(("reduction", "share"), [("sum", 1.0), ("mean", 1 / 3)])
@pytest.mark.parametrize(("mode", "sign"), [("enhance", 1.0), ("erase", -1.0)])
def test_target_is_equation_4_written_as_a_loop(eps, reduction, share, mode, sign) -> None:
    target, positive, negative = (tensor.double().numpy() for tensor in eps)
    scale = np.array([0.5, -2.0, 0.0, 1.0, 1.75])
    expected = target.copy()
    for row in range(5):
        for p in range(3):
            expected[row] += share * sign * scale[row] * 4.0 * (positive[row, p] - negative[row, p])
    computed = target_of(eps, torch.tensor(scale), 4.0, reduction, mode)
    np.testing.assert_allclose(computed.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_at_scale_one_with_one_pair_of_prompts_it_is_equation_3(eps) -> None:
    target, positive, negative = eps[0], eps[1][:, :1], eps[2][:, :1]
    for reduction in ("sum", "mean"):
        computed = target_of((target, positive, negative), torch.ones(5), 3.0, reduction)
        torch.testing.assert_close(computed, target + 3.0 * (positive[:, 0] - negative[:, 0]))


def test_swapping_the_poles_is_erasing(eps) -> None:
    target, positive, negative = eps
    scale = torch.rand(5)
    torch.testing.assert_close(
        target_of((target, negative, positive), scale, 2.0), target_of(eps, scale, 2.0, mode="erase")
    )


def test_both_poles_hold_every_state_at_plus_and_minus_its_scale(eps) -> None:
    latents, timestep, scale = torch.randn(5, 4, 3, 2), torch.tensor([1, 41, 81, 121, 161]), torch.rand(5)
    objective = TextObjective(eta=2.0, reduction="mean")
    direction = text_direction(objective, *eps, *[torch.empty(5, 0, 4, 3, 2)] * 2)
    rows = both_poles(objective, latents, timestep, eps[0], direction, scale)
    torch.testing.assert_close(rows.latents, torch.cat([latents, latents]), rtol=0, atol=0)
    assert rows.timestep.tolist() == timestep.tolist() * 2
    torch.testing.assert_close(rows.scale[:5], scale)
    torch.testing.assert_close(rows.scale[5:], -scale)
    for half, signed in ((slice(0, 5), scale), (slice(5, 10), -scale)):
        torch.testing.assert_close(rows.target[half], target_of(eps, signed, 2.0, "mean"))
    torch.testing.assert_close(rows.target[:5] + rows.target[5:], 2 * eps[0])


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_projection_is_taken_of_the_reduced_direction(eps, reduction) -> None:
    contrasts = torch.randn(2, 5, 2, 4, 3, 2)
    project = Projection((("a man", "a woman"), ("glasses", "no glasses")), "least_squares", 0.5)
    objective = TextObjective(reduction=reduction, project=project)
    direction = text_direction(objective, *eps, *contrasts)
    torch.testing.assert_close(
        direction, project_out(project, slider_direction(*eps, reduction), contrasts[0] - contrasts[1]), rtol=0, atol=0
    )
    assert objective.contrasts == project.contrasts
    assert TextObjective().contrasts == ()


def test_half_precision_scores_are_not_subtracted_in_half_precision() -> None:
    positive = torch.full((1, 2, 4, 1, 1), 1.0, dtype=torch.float16)
    negative = torch.full((1, 2, 4, 1, 1), 1.0 - 2**-11, dtype=torch.float16)
    target = target_of((torch.full_like(positive[:, 0], 512.0), positive, negative), torch.ones(1), 1.0)
    torch.testing.assert_close(target, torch.full((1, 4, 1, 1), 512.0 + 2 * 2**-11), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"eta": -4.0}, "mode=erase"),
        ({"eta": 0.0}, "above 0"),
        ({"eta": float("nan")}, "a finite number"),
        ({"eta": -4.0, "mode": "erase"}, "above 0"),
        ({"reduction": "median"}, "sum, mean"),
        ({"mode": "negate"}, "enhance, erase"),
    ],
)
def test_settings_out_of_range_are_one_sentence(settings, word) -> None:
    with pytest.raises(InputError, match=word):
        TextObjective(**settings)
