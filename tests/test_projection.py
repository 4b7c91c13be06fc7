"""Both projections against closed forms: exact orthogonality, and the model of two directions confounded both ways."""

import numpy as np
import pytest
import torch
from torch import Tensor

from slider_lightning.errors import InputError
from slider_lightning.objectives import Projection, least_squares_projection, project_out, symmetric_projection

PAIRS = (("a man", "a woman"), ("a person, with glasses", "a person, without glasses"))
METHODS = (least_squares_projection, symmetric_projection)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def orthonormal(count: int, seed: int = 0) -> Tensor:
    """Vectors of a latent's shape, of length 1 and orthogonal to each other."""
    rows = torch.linalg.qr(draw(96, count, seed=seed)).Q.T
    return rows.reshape(count, 4, 6, 4)


def cosines(direction: Tensor, contrasts: Tensor) -> Tensor:
    return torch.cosine_similarity(direction.flatten(1).unsqueeze(1), contrasts.flatten(2), dim=-1)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_least_squares_at_strength_one_is_orthogonal_to_every_contrast(count: int) -> None:
    direction, contrasts = draw(3, 4, 6, 4), draw(3, count, 4, 6, 4, seed=1)
    contrasts[:, -1] += 3 * contrasts[:, 0]  # they lean on each other: one after the other would not do
    contrasts[:, 0] *= 1e-4
    assert cosines(direction, contrasts).abs().max() > 0.05
    assert cosines(least_squares_projection(direction, contrasts), contrasts).abs().max() < 1e-5


def test_least_squares_is_the_residual_of_a_regression() -> None:
    direction, contrasts = draw(3, 4, 6, 4), draw(3, 4, 4, 6, 4, seed=1)
    for strength in (0.0, 0.5, 1.0, 2.0):
        projected = least_squares_projection(direction, contrasts, strength)
        for row in range(3):
            design, d = contrasts[row].flatten(1).T.double().numpy(), direction[row].flatten().double().numpy()
            fitted = design @ np.linalg.lstsq(design, d, rcond=None)[0]
            np.testing.assert_allclose(projected[row].flatten().numpy(), d - strength * fitted, atol=1e-5)


@pytest.mark.parametrize("rho", [-0.6, -0.1, 0.0, 0.3, 0.8])
def test_two_directions_confounded_both_ways_are_told_apart_by_the_symmetric_method(rho: float) -> None:
    a, g = orthonormal(2)
    direction, contrast = (a + rho * g)[None], (g + rho * a)[None, None]
    # Equally long, they are parted whatever the contrast's length and sign.
    for length in (1.0, -0.01, 50.0):
        symmetric = symmetric_projection(direction / direction.norm(), length * contrast)
        torch.testing.assert_close(symmetric, a[None], rtol=0, atol=1e-5)
    # All of g taken out of a leaves A - rho G: as far off on the other side.
    residual = least_squares_projection(direction, contrast)
    expected = (1 - rho**2) / (1 + rho**2) * (a - rho * g)
    torch.testing.assert_close(residual, expected[None], rtol=0, atol=1e-5)


def test_three_equally_confounded_directions_are_told_apart_too() -> None:
    basis = orthonormal(3)
    confounded = basis + 0.2 * (basis.sum(0) - basis)
    projected = symmetric_projection(confounded[:1], confounded[None, 1:])
    torch.testing.assert_close(projected, confounded[0].norm() * basis[:1], rtol=0, atol=1e-5)


def test_the_symmetric_method_is_the_polar_factor_and_keeps_the_length() -> None:
    direction, contrasts = draw(3, 4, 6, 4), draw(3, 4, 4, 6, 4, seed=1) + draw(3, 1, 4, 6, 4, seed=2)
    projected = symmetric_projection(direction, contrasts)
    torch.testing.assert_close(projected.flatten(1).norm(dim=1), direction.flatten(1).norm(dim=1))
    for row in range(3):
        columns = torch.cat([direction[row, None], contrasts[row]]).flatten(1).T.double().numpy()
        left, _, right = np.linalg.svd(columns / np.linalg.norm(columns, axis=0), full_matrices=False)
        expected = np.linalg.norm(columns[:, 0]) * (left @ right)[:, 0]
        np.testing.assert_allclose(projected[row].flatten().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("project", METHODS)
def test_contrasts_orthogonal_to_the_direction_change_nothing(project) -> None:
    basis = orthonormal(4)
    direction, contrasts = 3 * basis[:1], torch.stack([basis[1] + basis[2], basis[2] - 2 * basis[3]])[None]
    torch.testing.assert_close(project(direction, contrasts), direction, rtol=0, atol=1e-5)


@pytest.mark.parametrize("project", METHODS)
def test_order_sign_and_length_of_contrasts_do_not_matter(project) -> None:
    direction, contrasts = draw(3, 4, 6, 4), draw(3, 3, 4, 6, 4, seed=1)
    changed = contrasts.flip(1) * torch.tensor([-1.0, 7.0, -0.01])[:, None, None, None]
    torch.testing.assert_close(project(direction, changed), project(direction, contrasts), rtol=0, atol=1e-5)


@pytest.mark.parametrize("project", METHODS)
def test_states_are_projected_by_themselves(project) -> None:
    direction, contrasts = draw(3, 4, 6, 4), draw(3, 2, 4, 6, 4, seed=1)
    together = project(direction, contrasts)
    for row in range(3):
        alone = project(direction[[row]], contrasts[[row]])
        torch.testing.assert_close(together[[row]], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("project", METHODS)
def test_degenerate_contrasts_leave_finite_numbers(project) -> None:
    direction, contrasts = draw(1, 4, 6, 4), draw(1, 2, 4, 6, 4, seed=1)
    zero, none = torch.zeros(1, 1, 4, 6, 4), contrasts[:, :0]
    expected = project(direction, contrasts)
    torch.testing.assert_close(project(direction, torch.cat([contrasts, zero], dim=1)), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(project(direction, zero), direction)
    torch.testing.assert_close(project(direction, none), direction)
    assert torch.equal(project(torch.zeros_like(direction), contrasts), torch.zeros_like(direction))
    for dependent in (direction[:, None], -2 * direction[:, None], contrasts.repeat(1, 2, 1, 1, 1)):
        assert project(direction, dependent).isfinite().all()
    repeated = least_squares_projection(direction, contrasts.repeat(1, 2, 1, 1, 1))
    torch.testing.assert_close(repeated, least_squares_projection(direction, contrasts), rtol=0, atol=1e-5)
    assert least_squares_projection(direction, direction[:, None]).abs().max() < 1e-5


@pytest.mark.parametrize("method", ["symmetric", "least_squares"])
def test_mixed_precision_and_half_precision_scores_are_projected_in_fp32(method) -> None:
    direction, contrasts = draw(3, 4, 6, 4).bfloat16(), draw(3, 2, 4, 6, 4, seed=1).bfloat16()
    projection = Projection(PAIRS, method)
    expected = project_out(projection, direction.float(), contrasts.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        projected = project_out(projection, direction, contrasts)
    assert projected.dtype == torch.float32
    assert torch.equal(projected, expected)


def test_the_settings_choose_method_and_strength() -> None:
    direction, contrasts = draw(3, 4, 6, 4), draw(3, 2, 4, 6, 4, seed=1)
    half = project_out(Projection(PAIRS, "least_squares", 0.5), direction, contrasts)
    assert torch.equal(half, least_squares_projection(direction, contrasts, 0.5))
    assert torch.equal(project_out(Projection(PAIRS), direction, contrasts), symmetric_projection(direction, contrasts))
    with pytest.raises(ValueError, match="2 contrasts, but got 1"):
        project_out(Projection(PAIRS), direction, contrasts[:, :1])


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"contrasts": ()}, "project=null"),
        ({"contrasts": (("a man", " "),)}, "two different prompts"),
        ({"contrasts": (("a man", "a man"),)}, "two different prompts"),
        ({"method": "gram_schmidt"}, "symmetric, least_squares"),
        ({"strength": 0.5}, "method=least_squares"),
        ({"method": "least_squares", "strength": -0.5}, "0 or more"),
        ({"method": "least_squares", "strength": float("nan")}, "a finite number"),
    ],
)
def test_settings_out_of_range_are_one_sentence(settings, word) -> None:
    with pytest.raises(InputError, match=word):
        Projection(**{"contrasts": PAIRS, **settings})
