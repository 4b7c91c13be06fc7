"""Noised states: closed forms, what is shared, what it costs."""

import dataclasses

import pytest
import torch

from slider_lightning.backbone import ddim_scheduler
from slider_lightning.data.states import draw_rollouts, rollout_noise
from slider_lightning.data.teacher.noised import noised_latents, noised_timesteps
from tests.teacher_states import CONCEPT, PRESERVED, ROLLOUT, STEPS, assert_equal, cache_of, predict

PER_ROLLOUT = 4
NOISED = {"states": "noised", "first_timestep": 100, "last_timestep": 750}


def noised_cache(root, backbone, num_rollouts=3, **settings):
    settings = {**NOISED, "noised_states": num_rollouts * PER_ROLLOUT, **settings}
    return cache_of(root, backbone, num_rollouts, **settings)


def test_timesteps_lie_one_in_every_part_of_the_range_and_follow_from_seed_and_number() -> None:
    timestep = noised_timesteps(5, range(0, 200), 10, 100, 749)
    assert timestep.shape == (200, 10)
    for part in range(10):
        assert 100 + 65 * part <= timestep[:, part].min() < 100 + 65 * part + 3
        assert 100 + 65 * part + 62 <= timestep[:, part].max() < 100 + 65 * (part + 1)
    assert torch.equal(noised_timesteps(5, range(50, 60), 10, 100, 749), timestep[50:60])
    assert not torch.equal(noised_timesteps(6, range(0, 200), 10, 100, 749), timestep)
    assert noised_timesteps(5, range(3), 7, 20, 20).unique().tolist() == [20]
    assert noised_timesteps(0, range(0, 5000), 1, 0, 999).unique().min() == 0


def test_noising_is_the_forward_process(backbone) -> None:
    """Two clean latents at the same draws differ by sqrt(abar_t) of their difference; from 0 it is the noise alone."""
    timestep = noised_timesteps(0, range(4, 6), 3, 0, 999)
    clean = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    abar = ddim_scheduler(backbone.scheduler).alphas_cumprod[timestep][..., None, None, None]
    noised = noised_latents(backbone, clean, 0, range(4, 6), timestep)
    noise = noised_latents(backbone, torch.zeros_like(clean), 0, range(4, 6), timestep) / (1 - abar).sqrt()
    torch.testing.assert_close(noised, abar.sqrt() * clean[:, None] + (1 - abar).sqrt() * noise, atol=1e-5, rtol=1e-5)
    assert noise.std() == pytest.approx(1.0, abs=0.05)
    assert noise.mean() == pytest.approx(0.0, abs=0.05)
    correlation = torch.corrcoef(noise.flatten(0, 1).flatten(1))
    assert (correlation - torch.eye(6)).abs().max() < 0.15
    torch.testing.assert_close(noised_latents(backbone, clean[1:], 0, range(5, 6), timestep[1:]), noised[1:])


def test_clean_latents_are_one_ddim_step_behind_the_last_state(backbone, tmp_path) -> None:
    noise = rollout_noise(backbone, 3, [0, 1])
    embeds = cache_of(tmp_path, backbone).embeds
    rollouts = draw_rollouts(backbone, embeds, noise, ROLLOUT, to_clean=True)
    t = int(rollouts.timestep[-1])
    scheduler = ddim_scheduler(backbone.scheduler)
    abar, abar_0 = scheduler.alphas_cumprod[t], scheduler.alphas_cumprod[0]
    with torch.no_grad():
        uncond = backbone.predict_noise(
            rollouts.latents[:, -1], t, backbone.encode_negative_prompt().repeat_interleave(2)
        )
    eps = uncond + 3.0 * (rollouts.eps_target[:, -1] - uncond)
    x_0 = (rollouts.latents[:, -1] - (1 - abar).sqrt() * eps) / abar.sqrt()
    torch.testing.assert_close(rollouts.clean, abar_0.sqrt() * x_0 + (1 - abar_0).sqrt() * eps, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_scores_are_the_frozen_models_at_the_noised_latents(backbone, tmp_path, dtype) -> None:
    states = noised_cache(tmp_path, backbone, dtype=dtype).states()[:]
    assert len(states) == 3 * PER_ROLLOUT
    assert torch.equal(
        states.timestep.unflatten(0, (3, PER_ROLLOUT)), noised_timesteps(3, range(3), PER_ROLLOUT, 100, 750)
    )
    tolerance = {"float32": 1e-4, "float16": 2e-3}[dtype]
    for row in (0, 5, 11):
        latents, timestep = states.latents[row], int(states.timestep[row])
        for score, prompt in (
            (states.eps_target[row], "a person"),
            (states.eps_positive[row, 1], "an old person, woman"),
            (states.eps_negative[row, 0], "a young person, man"),
        ):
            expected = predict(backbone, latents, timestep, prompt)
            torch.testing.assert_close(score, expected, atol=tolerance, rtol=tolerance)


def test_noised_states_cost_full_rollouts_and_one_forward_per_prompt(backbone, tmp_path) -> None:
    reported: list[tuple[int, int]] = []
    built = noised_cache(tmp_path, backbone).states(lambda done, total: reported.append((done, total)))[:]
    cost = 3 * (2 * STEPS + PER_ROLLOUT * (1 + 2 * PRESERVED))
    assert backbone.sample_forwards == cost
    assert reported[-1] == (cost, cost)
    assert_equal(noised_cache(tmp_path, backbone).states()[:], built)
    assert backbone.sample_forwards == cost


def test_rollouts_are_shared_between_ranges_and_numbers_of_noised_states(backbone, tmp_path) -> None:
    noised_cache(tmp_path, backbone).states()
    for settings, states in (({"last_timestep": 1000}, PER_ROLLOUT), ({"noised_states": 6}, 2)):
        before = backbone.sample_forwards
        noised_cache(tmp_path, backbone, **settings).states()
        assert backbone.sample_forwards - before == 3 * states * (1 + 2 * PRESERVED)
    before = backbone.sample_forwards
    concept = dataclasses.replace(CONCEPT, preserve=("man", "child"))
    noised_cache(tmp_path, backbone, concept=concept).states()
    assert backbone.sample_forwards - before == 3 * PER_ROLLOUT * 2


def test_more_rollouts_extend_noised_states(backbone, tmp_path) -> None:
    three = noised_cache(tmp_path, backbone, 3).states()[:]
    before = backbone.sample_forwards
    five = noised_cache(tmp_path, backbone, 5).states()[:]
    assert backbone.sample_forwards - before == 2 * (2 * STEPS + PER_ROLLOUT * (1 + 2 * PRESERVED))
    assert_equal(five[: 3 * PER_ROLLOUT], three)
