"""The weights of preserved concepts against a general solver, and what they do to the direction."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from slider_lightning.objectives import posterior_weights, slider_direction


def mixtures(preserved: int, noise: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights (6, preserved), scores of each concept, and the score of their mixture with noise."""
    generator = torch.Generator().manual_seed(preserved)
    scores = torch.randn(6, 1, 4, 6, 6, generator=generator) + 0.3 * torch.randn(
        6, preserved, 4, 6, 6, generator=generator
    )
    weights = torch.rand(6, preserved, generator=generator) ** 4
    weights = weights / weights.sum(1, keepdim=True)
    mixed = (scores * weights[..., None, None, None]).sum(1) + noise * torch.randn(6, 4, 6, 6, generator=generator)
    return weights, scores, mixed


@pytest.mark.parametrize("preserved", [1, 2, 4, 9])
def test_the_weights_of_a_mixture_are_found(preserved: int) -> None:
    weights, scores, mixed = mixtures(preserved, noise=0.0)
    torch.testing.assert_close(posterior_weights(mixed, scores), weights, atol=1e-3, rtol=0)


@pytest.mark.parametrize("preserved", [2, 4, 9])
def test_off_the_simplex_they_are_those_of_a_general_solver(preserved: int) -> None:
    _, scores, mixed = mixtures(preserved, noise=0.3)
    found = posterior_weights(mixed, scores)
    torch.testing.assert_close(found.sum(1), torch.ones(6))
    assert bool((found >= 0).all())
    for row in range(6):
        columns, target = scores[row].flatten(1).double().numpy(), mixed[row].flatten().double().numpy()
        solved = minimize(
            lambda w, a=columns, b=target: ((w @ a - b) ** 2).sum(),
            np.full(preserved, 1 / preserved),
            bounds=[(0, 1)] * preserved,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            method="SLSQP",
            options={"ftol": 1e-12, "maxiter": 500},
        )
        np.testing.assert_allclose(found[row].numpy(), solved.x, atol=2e-3)


def test_equal_scores_are_weighted_alike() -> None:
    scores = torch.randn(2, 1, 4, 3, 3).expand(2, 3, 4, 3, 3)
    torch.testing.assert_close(posterior_weights(torch.randn(2, 4, 3, 3), scores), torch.full((2, 3), 1 / 3))
    torch.testing.assert_close(posterior_weights(scores[:, 0], scores), torch.full((2, 3), 1 / 3))


def test_a_state_that_shows_one_concept_is_led_along_that_one_alone() -> None:
    generator = torch.Generator().manual_seed(1)
    middle, half = torch.randn(2, 3, 4, 5, 5, generator=generator), torch.randn(2, 3, 4, 5, 5, generator=generator)
    direction = slider_direction(middle[:, 1], middle + half / 2, middle - half / 2, "posterior")
    torch.testing.assert_close(direction, half[:, 1], atol=1e-3, rtol=1e-3)


def test_between_equal_shares_it_is_the_mean() -> None:
    generator = torch.Generator().manual_seed(2)
    middle, half = torch.randn(2, 3, 4, 5, 5, generator=generator), torch.randn(2, 3, 4, 5, 5, generator=generator)
    poles = middle + half / 2, middle - half / 2
    by_posterior = slider_direction(middle.mean(1), *poles, "posterior")
    torch.testing.assert_close(by_posterior, slider_direction(middle.mean(1), *poles, "mean"), atol=1e-3, rtol=1e-3)


def test_with_one_pair_of_prompts_it_is_equation_3() -> None:
    target, positive, negative = torch.randn(2, 4, 5, 5), torch.randn(2, 1, 4, 5, 5), torch.randn(2, 1, 4, 5, 5)
    torch.testing.assert_close(slider_direction(target, positive, negative, "posterior"), (positive - negative)[:, 0])
