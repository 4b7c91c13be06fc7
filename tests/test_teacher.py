"""The teacher cache, on-policy states and the draws of batches."""

import dataclasses
import json
import logging
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from slider_lightning.backbone import Backbone, ddim_scheduler, initial_noise, load_backbone
from slider_lightning.concepts import Concept
from slider_lightning.data import (
    ConceptEmbeds,
    OnPolicyConfig,
    RolloutConfig,
    ScaleRange,
    TeacherCache,
    TeacherConfig,
)
from slider_lightning.data.states import rollout_noise, rollout_states
from slider_lightning.errors import InputError
from tests.teacher_states import assert_equal, predict

CONCEPT = Concept("age", "a person", "an old person", "a young person", ("man", "woman"))
STEPS, PRESERVED = 5, 2
CONTRASTS = (("a man", "a woman"), ("a face", "no face"), ("glasses", "no glasses"))
ROLLOUT = RolloutConfig(num_inference_steps=STEPS, guidance_scale=3.0, batch_size=7, seed=3)
# A state costs c_t, the unconditional half and both poles of every preserved phrase; nothing follows the last one.
FORWARDS = STEPS * (2 + 2 * PRESERVED) - 1


@pytest.fixture
def embeds(backbone: Backbone) -> ConceptEmbeds:
    return ConceptEmbeds.encode(backbone, CONCEPT)


def cache_of(root: Path, backbone: Backbone, num_rollouts: int = 3, **settings: object) -> TeacherCache:
    config = TeacherConfig(num_rollouts, **{"rollout": ROLLOUT, "rollouts_per_shard": 2, **settings})  # type: ignore[arg-type]
    return TeacherCache(root, backbone, ConceptEmbeds.encode(backbone, CONCEPT), config)


def contrast_cache(root: Path, backbone: Backbone, num_rollouts: int = 3, **settings: object) -> TeacherCache:
    """The same with contrasts."""
    config = cache_of(root, backbone, num_rollouts, **settings).config
    return TeacherCache(root, backbone, ConceptEmbeds.encode(backbone, CONCEPT, CONTRASTS), config)


def shard_files(cache: TeacherCache) -> list[Path]:
    return sorted(cache.folder.glob("*.safetensors"))


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
    whole = rollout_states(backbone, embeds, noise, dataclasses.replace(ROLLOUT, batch_size=100))
    for name, tensor in states.tensors().items():
        torch.testing.assert_close(getattr(whole, name), tensor, atol=1e-4, rtol=1e-3)


def test_without_guidance_the_rollout_costs_no_unconditional_half(backbone, embeds) -> None:
    before = backbone.sample_forwards
    config = dataclasses.replace(ROLLOUT, guidance_scale=1.0)
    rollout_states(backbone, embeds, rollout_noise(backbone, 3, [0]), config)
    assert backbone.sample_forwards - before == STEPS * (1 + 2 * PRESERVED)


def test_a_second_use_computes_nothing_and_reads_the_same_bits(backbone, tmp_path) -> None:
    built = cache_of(tmp_path, backbone).states()
    assert backbone.sample_forwards == 3 * FORWARDS
    assert_equal(cache_of(tmp_path, backbone).states(), built)
    assert backbone.sample_forwards == 3 * FORWARDS


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_contrasts_are_cached_extended_and_repaired_like_the_rest(backbone, tmp_path, dtype) -> None:
    cost = FORWARDS + STEPS * 2 * len(CONTRASTS)
    three = contrast_cache(tmp_path, backbone, 3, dtype=dtype).states()
    six = contrast_cache(tmp_path, backbone, 6, dtype=dtype).states()
    assert backbone.sample_forwards == 6 * cost
    assert six.eps_contrast_negative.shape == (6 * STEPS, len(CONTRASTS), 4, 16, 16)
    assert_equal(six[: 3 * STEPS], three)
    shard_files(contrast_cache(tmp_path, backbone, dtype=dtype))[0].unlink()
    assert_equal(contrast_cache(tmp_path, backbone, 6, dtype=dtype).states(), six)
    assert backbone.sample_forwards == 8 * cost
    plain = cache_of(tmp_path, backbone, dtype=dtype).states()
    assert backbone.sample_forwards == 8 * cost + 3 * FORWARDS, "without contrasts it is another cache"
    assert plain.eps_contrast_positive.shape == (3 * STEPS, 0, 4, 16, 16)


def test_the_key_changes_with_the_contrasts_and_their_order(backbone, tmp_path) -> None:
    config = TeacherConfig(rollout=ROLLOUT)
    sets = ((), CONTRASTS[:1], CONTRASTS, CONTRASTS[::-1], tuple(pair[::-1] for pair in CONTRASTS))
    embeds = [ConceptEmbeds.encode(backbone, CONCEPT, contrasts) for contrasts in sets]
    assert len({TeacherCache(tmp_path, backbone, each, config).folder for each in embeds}) == len(sets)


def test_more_rollouts_extend_and_fewer_use_a_part(backbone, tmp_path) -> None:
    three = cache_of(tmp_path, backbone, 3).states()
    six = cache_of(tmp_path, backbone, 6).states()
    assert backbone.sample_forwards == 6 * FORWARDS
    assert len(six) == 6 * STEPS
    assert_equal(six[: 3 * STEPS], three)
    assert_equal(cache_of(tmp_path, backbone, 1).states(), six[:STEPS])
    assert backbone.sample_forwards == 6 * FORWARDS


@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_damaged_shard_is_named_and_rebuilt_alone(backbone, tmp_path, caplog, harm) -> None:
    cache = cache_of(tmp_path, backbone, 4)
    built = cache.states()
    victim = shard_files(cache)[0]
    content = bytearray(victim.read_bytes())
    content[-100] ^= 1
    victim.unlink()
    if harm != "remove":
        victim.write_bytes(content if harm == "flip" else content[:-100])
    before = backbone.sample_forwards
    with caplog.at_level(logging.WARNING):
        assert_equal(cache.states(), built)
    assert backbone.sample_forwards - before == 2 * FORWARDS
    assert victim.name in caplog.text
    assert_equal(cache.states(), built)
    assert backbone.sample_forwards - before == 2 * FORWARDS


def test_a_damaged_index_is_not_trusted(backbone, tmp_path, caplog) -> None:
    cache = cache_of(tmp_path, backbone)
    built = cache.states()
    (cache.folder / "index.json").write_text('{"shards": [')
    with caplog.at_level(logging.WARNING):
        assert_equal(cache.states(), built)
    assert "index.json" in caplog.text
    assert backbone.sample_forwards == 6 * FORWARDS


def test_a_build_that_was_stopped_goes_on_where_it_stopped(backbone, tmp_path) -> None:
    def stop(done: int, total: int) -> None:
        assert total == 2 * STEPS
        if done == STEPS + 2:
            raise KeyboardInterrupt

    cache = cache_of(tmp_path, backbone, 4)
    with pytest.raises(KeyboardInterrupt):
        cache.states(stop)
    assert len(shard_files(cache)) == 1
    (cache.folder / ".rollouts-00002-half.safetensors").write_bytes(b"left by a kill")
    reported: list[tuple[int, int]] = []
    states = cache.states(lambda done, total: reported.append((done, total)))
    assert reported == [(step + 1, STEPS) for step in range(STEPS)]
    assert_equal(states, cache_of(tmp_path / "other", backbone, 4).states())
    assert sorted(path.name for path in cache.folder.iterdir()) == [
        ".lock",
        "index.json",
        "rollouts-00000-002.safetensors",
        "rollouts-00002-002.safetensors",
    ]


def test_concurrent_jobs_build_once(pipeline_folder, tmp_path) -> None:
    backbones = [load_backbone(str(pipeline_folder), dtype="float32") for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda backbone: cache_of(tmp_path, backbone).states(), backbones)
    assert_equal(first, second)
    assert sum(backbone.sample_forwards for backbone in backbones) == 3 * FORWARDS


@pytest.mark.parametrize(
    "change",
    [
        {"target": "a face"},
        {"positive": "a very old person"},
        {"negative": "a baby"},
        {"preserve": ("man",)},
        {"num_inference_steps": 6},
        {"guidance_scale": 4.0},
        {"seed": 4},
        {"dtype": "float16"},
        {"fingerprint": "another model"},
    ],
)
def test_the_key_changes_with_what_the_scores_depend_on(backbone, embeds, tmp_path, change) -> None:
    key = TeacherCache(tmp_path, backbone, embeds, TeacherConfig(rollout=ROLLOUT)).folder
    ((field, value),) = change.items()
    config, concept = TeacherConfig(rollout=ROLLOUT), CONCEPT
    if field == "fingerprint":
        backbone.fingerprint = value
    elif field == "dtype":
        config = dataclasses.replace(config, dtype=value)
    elif hasattr(concept, field):
        concept = dataclasses.replace(concept, **change)
    else:
        config = dataclasses.replace(config, rollout=dataclasses.replace(ROLLOUT, **change))
    assert TeacherCache(tmp_path, backbone, ConceptEmbeds.encode(backbone, concept), config).folder != key


def test_the_key_does_not_change_with_what_they_do_not_depend_on(backbone, embeds, tmp_path) -> None:
    one, other = (
        TeacherCache(
            tmp_path,
            backbone,
            embeds,
            TeacherConfig(n, dataclasses.replace(ROLLOUT, batch_size=b), rollouts_per_shard=n),
        )
        for n, b in ((1, 7), (9, 50))
    )
    assert one.folder == other.folder


def test_half_precision_takes_half_the_room_and_reads_as_it_was_built(backbone, tmp_path) -> None:
    full, half = cache_of(tmp_path, backbone), cache_of(tmp_path, backbone, dtype="float16")
    exact, built = full.states(), half.states()
    assert_equal(half.states(), built)
    assert built.latents.dtype == torch.float32
    torch.testing.assert_close(built.eps_positive, exact.eps_positive, rtol=1e-3, atol=1e-3)
    sizes = [shard_files(cache)[0].stat().st_size for cache in (full, half)]
    assert 1.9 < sizes[0] / sizes[1] < 2.1


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Files of at most 20 kB: the system refuses a write as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_refuses_is_one_sentence_and_leaves_nothing(backbone, tmp_path, small_disk) -> None:
    cache = cache_of(tmp_path, backbone)
    with pytest.raises(InputError, match=r"rollouts-00000.*free some room"):
        cache.states()
    assert [path.name for path in cache.folder.iterdir()] == [".lock"]


def test_a_cache_folder_that_cannot_be_made_is_one_sentence(backbone, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="teacher cache"):
        cache_of(tmp_path / "file", backbone).states()


def test_the_index_says_what_the_scores_depend_on(backbone, tmp_path) -> None:
    cache = cache_of(tmp_path, backbone)
    cache.states()
    index = json.loads((cache.folder / "index.json").read_text())
    assert index["depends_on"]["model"] == backbone.fingerprint
    assert index["depends_on"]["positive"] == ["an old person, man", "an old person, woman"]
    assert [(shard["first"], shard["count"]) for shard in index["shards"]] == [(0, 2), (2, 1)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: TeacherConfig(num_rollouts=0),
        lambda: TeacherConfig(dtype="bfloat16"),
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
