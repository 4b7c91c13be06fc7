"""Rollouts and frozen scores, and what the teacher cache shares between concepts."""

import dataclasses

import pytest
import torch

from slider_lightning.backbone import Backbone, ddim_scheduler, initial_noise
from slider_lightning.data import (
    CachedStates,
    ConceptEmbeds,
    OnPolicyConfig,
    RolloutConfig,
    ScaleRange,
    TeacherConfig,
)
from slider_lightning.data.states import rollout_noise, rollout_states
from slider_lightning.errors import InputError
from tests.teacher_states import (
    CONCEPT,
    CONTRASTS,
    FORWARDS,
    PRESERVED,
    ROLLOUT,
    STEPS,
    assert_equal,
    cache_of,
    predict,
    shard_files,
)


@pytest.fixture
def embeds(backbone: Backbone) -> ConceptEmbeds:
    return ConceptEmbeds.encode(backbone, CONCEPT)


def test_scores_are_the_frozen_models_at_the_states_own_timestep(backbone, embeds) -> None:
    states = rollout_states(backbone, embeds, rollout_noise(backbone, 3, [0, 1]), ROLLOUT)
    assert len(states) == 2 * STEPS
    for row in (0, 3, STEPS + 1, 2 * STEPS - 1):
        latents, timestep = states.latents[row], int(states.timestep[row])
        torch.testing.assert_close(
            states.eps_target[row], predict(backbone, latents, timestep, "a person"), atol=1e-4, rtol=1e-3
        )
        for p, phrase in enumerate(CONCEPT.preserve):
            for field, prompt in (("eps_positive", "an old person"), ("eps_negative", "a young person")):
                expected = predict(backbone, latents, timestep, f"{prompt}, {phrase}")
                torch.testing.assert_close(getattr(states, field)[row, p], expected, atol=1e-4, rtol=1e-3)


def test_contrasts_are_scored_at_the_same_states_and_change_nothing_else(backbone, embeds) -> None:
    noise = rollout_noise(backbone, 3, [0, 1])
    plain = rollout_states(backbone, embeds, noise, ROLLOUT)
    before = backbone.sample_forwards
    states = rollout_states(backbone, ConceptEmbeds.encode(backbone, CONCEPT, CONTRASTS), noise, ROLLOUT)
    assert backbone.sample_forwards - before == 2 * (FORWARDS + STEPS * 2 * len(CONTRASTS))
    assert plain.eps_contrast_positive.shape == plain.eps_contrast_negative.shape == (2 * STEPS, 0, 4, 16, 16)
    for name, tensor in plain.tensors().items():
        if "contrast" not in name:
            torch.testing.assert_close(getattr(states, name), tensor, atol=1e-4, rtol=1e-3)
    for row in (0, STEPS + 1, 2 * STEPS - 1):
        latents, timestep = states.latents[row], int(states.timestep[row])
        for j, pair in enumerate(CONTRASTS):
            for field, prompt in zip(("eps_contrast_positive", "eps_contrast_negative"), pair, strict=True):
                expected = predict(backbone, latents, timestep, prompt)
                torch.testing.assert_close(getattr(states, field)[row, j], expected, atol=1e-4, rtol=1e-3)


def test_a_rollout_is_guided_ddim_written_out(backbone, embeds) -> None:
    """x_t' = sqrt(abar_t') x_0 + sqrt(1 - abar_t') eps, with eps guided, for every pair of neighbouring states."""
    states = rollout_states(backbone, embeds, rollout_noise(backbone, 3, [0, 1]), ROLLOUT)
    abar = ddim_scheduler(backbone.scheduler).alphas_cumprod
    unconditional = backbone.encode_negative_prompt(None)
    for row in range(STEPS - 1):
        t, t_next = int(states.timestep[row]), int(states.timestep[row + 1])
        assert t > t_next
        with torch.no_grad():
            uncond = backbone.predict_noise(states.latents[[row]], t, unconditional)[0]
        eps = uncond + 3.0 * (states.eps_target[row] - uncond)
        x_0 = (states.latents[row] - (1 - abar[t]).sqrt() * eps) / abar[t].sqrt()
        expected = abar[t_next].sqrt() * x_0 + (1 - abar[t_next]).sqrt() * eps
        torch.testing.assert_close(states.latents[row + 1], expected, atol=1e-4, rtol=1e-4)


def test_noise_depends_on_seed_and_rollout_alone(backbone) -> None:
    noise = rollout_noise(backbone, 3, [0, 1, 2])
    assert torch.equal(rollout_noise(backbone, 3, [2]), noise[2:])
    assert not torch.equal(rollout_noise(backbone, 4, [2]), noise[2:])
    assert not torch.equal(initial_noise(backbone.latent_shape, [0]), noise[:1])


def test_forwards_are_counted_and_batches_do_not_change_states(backbone, embeds) -> None:
    noise = rollout_noise(backbone, 3, [0, 1])
    before = backbone.sample_forwards
    states = rollout_states(backbone, embeds, noise, ROLLOUT)
    assert backbone.sample_forwards - before == 2 * FORWARDS
    whole = rollout_states(backbone, embeds, noise, dataclasses.replace(ROLLOUT, rows_per_forward=100))
    for name, tensor in states.tensors().items():
        torch.testing.assert_close(getattr(whole, name), tensor, atol=1e-4, rtol=1e-3)


def test_without_guidance_the_rollout_costs_no_unconditional_half(backbone, embeds) -> None:
    before = backbone.sample_forwards
    config = dataclasses.replace(ROLLOUT, guidance_scale=1.0)
    rollout_states(backbone, embeds, rollout_noise(backbone, 3, [0]), config)
    assert backbone.sample_forwards - before == STEPS * (1 + 2 * PRESERVED)


def test_a_cached_concept_costs_its_rollouts_and_its_prompts(backbone, tmp_path) -> None:
    states = cache_of(tmp_path, backbone, contrasts=CONTRASTS).states()
    assert backbone.sample_forwards == 3 * (FORWARDS + STEPS * 2 * len(CONTRASTS))
    assert len(states) == 3 * STEPS
    assert states[:].eps_contrast_negative.shape == (3 * STEPS, len(CONTRASTS), 4, 16, 16)


def test_the_cache_holds_what_rollouts_and_scores_say(backbone, embeds, tmp_path) -> None:
    states = cache_of(tmp_path, backbone).states()[:]
    expected = rollout_states(backbone, embeds, rollout_noise(backbone, 3, [0, 1, 2]), ROLLOUT)
    for name, tensor in expected.tensors().items():
        torch.testing.assert_close(getattr(states, name), tensor, atol=1e-4, rtol=1e-3)


def test_concepts_share_rollouts_and_the_prompts_they_have_in_common(backbone, tmp_path) -> None:
    cache_of(tmp_path, backbone).states()
    before = backbone.sample_forwards
    concepts = (
        (dataclasses.replace(CONCEPT, preserve=("woman", "child")), (), 2),
        (dataclasses.replace(CONCEPT, preserve=()), (), 2),
        (CONCEPT, CONTRASTS[:1], 2),
        (dataclasses.replace(CONCEPT, name="youth", positive="a young person", negative="an old person"), (), 0),
        (dataclasses.replace(CONCEPT, positive="a happy person"), CONTRASTS[:2], 4),
    )
    for concept, contrasts, new_prompts in concepts:
        cache_of(tmp_path, backbone, concept=concept, contrasts=contrasts).states()
        assert backbone.sample_forwards - before == 3 * STEPS * new_prompts
        before = backbone.sample_forwards
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_prompts_scores_are_the_same_bits_whatever_else_is_scored(backbone, tmp_path, dtype) -> None:
    alone = cache_of(tmp_path / "alone", backbone, contrasts=CONTRASTS[1:2], dtype=dtype).states()[:]
    cache_of(tmp_path / "later", backbone, dtype=dtype).states()
    later = cache_of(tmp_path / "later", backbone, contrasts=CONTRASTS, dtype=dtype).states()[:]
    for name in ("latents", "eps_target", "eps_positive", "eps_negative"):
        assert torch.equal(getattr(later, name), getattr(alone, name)), name
    for name in ("eps_contrast_positive", "eps_contrast_negative"):
        assert torch.equal(getattr(later, name)[:, 1], getattr(alone, name)[:, 0]), name


def test_half_precision_scores_are_those_of_the_stored_latents_to_half_a_unit(backbone, tmp_path) -> None:
    """Rounding to float16 moves a number by 2^-11 of itself at most, below 2^-14 by 2^-25."""
    states = cache_of(tmp_path, backbone, dtype="float16").states()[:]
    assert torch.equal(states.latents, states.latents.half().float())
    for row in range(0, len(states), 4):
        latents, timestep = states.latents[row], int(states.timestep[row])
        scores = {"a person": states.eps_target[row], "an old person, woman": states.eps_positive[row, 1]}
        for prompt, score in scores.items():
            exact = predict(backbone, latents, timestep, prompt)
            # The last term is what float32 forwards of other batches differ by.
            assert ((score - exact).abs() <= exact.abs() * 2**-11 + 2**-25 + 1e-5).all()


def test_half_precision_moves_rollouts_and_directions_little(backbone, tmp_path) -> None:
    """Latents are rounded before every step, so what a step adds is of the order of 2^-11, and steps add up."""
    exact, half = (cache_of(tmp_path, backbone, dtype=dtype).states()[:] for dtype in ("float32", "float16"))
    for name in ("latents", "eps_target", "eps_positive", "eps_negative"):
        one, other = getattr(exact, name), getattr(half, name)
        assert 0 < (one - other).norm() / one.norm() < STEPS * 2**-11, name


def test_half_precision_takes_half_the_room(backbone, tmp_path) -> None:
    full, half = cache_of(tmp_path, backbone), cache_of(tmp_path, backbone, dtype="float16")
    built = half.states()[:]
    assert_equal(half.states()[:], built)
    assert built.latents.dtype == torch.float32
    full.states()
    sizes = [sum(path.stat().st_size for path in shard_files(cache)) for cache in (full, half)]
    assert 1.9 < sizes[0] / sizes[1] < 2.1


def test_a_range_of_timesteps_is_scored_alone_and_shares_the_rollouts(backbone, tmp_path) -> None:
    whole = cache_of(tmp_path, backbone).states()[:]
    timesteps = whole.timestep[:STEPS].tolist()
    first, last = timesteps[3], timesteps[1]
    before = backbone.sample_forwards
    narrow = cache_of(tmp_path, backbone, first_timestep=first, last_timestep=last).states()
    assert backbone.sample_forwards - before == 3 * 3 * 2 * PRESERVED
    rows = torch.arange(3 * STEPS).unflatten(0, (3, STEPS))[:, 1:4].flatten()
    part = narrow[:]
    assert part.timestep.tolist() == timesteps[1:4] * 3
    for name, tensor in whole[rows].tensors().items():
        torch.testing.assert_close(getattr(part, name), tensor, atol=1e-5, rtol=1e-4)
    fresh = cache_of(tmp_path / "fresh", backbone, first_timestep=first, last_timestep=last)
    before = backbone.sample_forwards
    assert_equal(fresh.states()[:], part)
    assert backbone.sample_forwards - before == 3 * (2 * STEPS - 1 + 3 * 2 * PRESERVED)


def test_a_range_without_steps_is_refused(backbone, tmp_path) -> None:
    with pytest.raises(InputError, match="widen the range"):
        cache_of(tmp_path, backbone, first_timestep=2, last_timestep=3)


@pytest.mark.parametrize(
    "change",
    [
        {"target": "a face"},
        {"num_inference_steps": 6},
        {"guidance_scale": 4.0},
        {"seed": 4},
        {"dtype": "float16"},
        {"states": "noised"},
        {"fingerprint": "another model"},
        {"resolution": 32},
    ],
)
def test_the_folder_changes_with_what_the_states_depend_on(backbone, tmp_path, change) -> None:
    key = cache_of(tmp_path, backbone).folder
    ((field, value),) = change.items()
    concept, settings = CONCEPT, {}
    if field in ("fingerprint", "resolution"):
        setattr(backbone, field, value)
    elif field == "target":
        concept = dataclasses.replace(concept, **change)
    elif field in ("dtype", "states"):
        settings = {**change, "noised_states": 6}
    else:
        settings = {"rollout": dataclasses.replace(ROLLOUT, **change)}
    assert cache_of(tmp_path, backbone, concept=concept, **settings).folder != key


def test_the_folder_does_not_change_with_what_they_do_not_depend_on(backbone, tmp_path) -> None:
    key = cache_of(tmp_path, backbone).folder
    wide = dataclasses.replace(ROLLOUT, rows_per_forward=50)
    others = (
        cache_of(tmp_path, backbone, 9, rollout=wide, rollouts_per_shard=9),
        cache_of(tmp_path, backbone, concept=dataclasses.replace(CONCEPT, positive="old", negative="new", preserve=())),
        cache_of(tmp_path, backbone, contrasts=CONTRASTS, last_timestep=750, noised_states=1),
    )
    assert {other.folder for other in others} == {key}


def test_rows_come_in_any_order_from_any_shard(backbone, tmp_path) -> None:
    states = cache_of(tmp_path, backbone, 4, contrasts=CONTRASTS).states()
    whole = states[:]
    index = torch.tensor([19, 0, 7, 7, 12, 3])
    assert_equal(states[index], whole[index])
    assert_equal(CachedStates(states).rows(5, index), whole[index])
    assert CachedStates(states).num_states == 4 * STEPS


@pytest.mark.parametrize(
    "make",
    [
        lambda: TeacherConfig(num_rollouts=0),
        lambda: TeacherConfig(dtype="bfloat16"),
        lambda: TeacherConfig(states="all"),
        lambda: TeacherConfig(first_timestep=500, last_timestep=400),
        lambda: TeacherConfig(last_timestep=1001),
        lambda: TeacherConfig(states="noised", num_rollouts=3, noised_states=400),
        lambda: TeacherConfig(states="noised", noised_states=0),
        lambda: RolloutConfig(num_inference_steps=0),
        lambda: RolloutConfig(seed=-1),
        lambda: OnPolicyConfig(num_rollouts=0),
        lambda: ScaleRange(-1.0, 1.0),
        lambda: ScaleRange(2.0, 1.0),
        lambda: ScaleRange(0.0, 0.0),
    ],
)
def test_settings_out_of_range_are_refused(make) -> None:
    with pytest.raises(InputError, match="Expected"):
        make()
