"""The teacher cache, on-policy states and the draws of batches."""

import dataclasses
import json
import logging
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from slider_lightning.adapters import AdapterConfig, Slider, SliderBank
from slider_lightning.backbone import Backbone, ddim_scheduler, initial_noise, load_backbone
from slider_lightning.concepts import Concept
from slider_lightning.data import ConceptEmbeds, OnPolicyConfig, RolloutConfig, ScaleRange, TeacherCache, TeacherConfig, TeacherStates
from slider_lightning.data.batches import CachedStates, StepLoader
from slider_lightning.data.draws import draw_rows
from slider_lightning.data.rollout import OnPolicyStates, rollout_scales
from slider_lightning.data.states import SliderPolicy, rollout_noise, rollout_states
from slider_lightning.errors import InputError

CONCEPT = Concept("age", "a person", "an old person", "a young person", ("man", "woman"))
STEPS, PRESERVED = 5, 2
ROLLOUT = RolloutConfig(num_inference_steps=STEPS, guidance_scale=3.0, batch_size=7, seed=3)
# Every state costs c_t, the unconditional half and both poles of every preserved phrase; nothing follows the last state.
FORWARDS = STEPS * (2 + 2 * PRESERVED) - 1


@pytest.fixture
def embeds(backbone: Backbone) -> ConceptEmbeds:
    return ConceptEmbeds.encode(backbone, CONCEPT)


@pytest.fixture
def bank(backbone: Backbone) -> SliderBank:
    """A slider that changes something."""
    slider = Slider(backbone.unet, AdapterConfig(rank=2, alpha=2.0), seed=0)
    for name, parameter in slider.named_parameters():
        if "lora_up" in name:
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
    return SliderBank(backbone.unet, [slider])


def cache_of(root: Path, backbone: Backbone, num_rollouts: int = 3, **settings: object) -> TeacherCache:
    config = TeacherConfig(num_rollouts, **{"rollout": ROLLOUT, "rollouts_per_shard": 2, **settings})  # type: ignore[arg-type]
    return TeacherCache(root, backbone, ConceptEmbeds.encode(backbone, CONCEPT), config)


def shard_files(cache: TeacherCache) -> list[Path]:
    return sorted(cache.folder.glob("*.safetensors"))


def assert_equal(states: TeacherStates, expected: TeacherStates) -> None:
    for name, tensor in expected.tensors().items():
        assert torch.equal(getattr(states, name), tensor), name


def predict(backbone: Backbone, latents: torch.Tensor, timestep: int, prompt: str) -> torch.Tensor:
    with torch.no_grad():
        return backbone.predict_noise(latents[None], timestep, backbone.encode_prompts([prompt]))[0]


def test_scores_are_the_frozen_models_at_the_states_own_timestep(backbone, embeds) -> None:
    states = rollout_states(backbone, embeds, rollout_noise(backbone, 3, [0, 1]), ROLLOUT)
    assert len(states) == 2 * STEPS
    for row in (0, 3, STEPS + 1, 2 * STEPS - 1):
        latents, timestep = states.latents[row], int(states.timestep[row])
        torch.testing.assert_close(states.eps_target[row], predict(backbone, latents, timestep, "a person"), atol=1e-5, rtol=1e-4)
        for p, phrase in enumerate(CONCEPT.preserve):
            for field, prompt in (("eps_positive", "an old person"), ("eps_negative", "a young person")):
                expected = predict(backbone, latents, timestep, f"{prompt}, {phrase}")
                torch.testing.assert_close(getattr(states, field)[row, p], expected, atol=1e-5, rtol=1e-4)


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
        torch.testing.assert_close(getattr(whole, name), tensor, atol=1e-5, rtol=1e-4)


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
        TeacherCache(tmp_path, backbone, embeds, TeacherConfig(n, dataclasses.replace(ROLLOUT, batch_size=b), rollouts_per_shard=n))
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
    with pytest.raises(InputError, match="rollouts-00000.*free some room"):
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


def test_a_policy_moves_the_states_and_leaves_the_scores_frozen(backbone, embeds, bank) -> None:
    noise = rollout_noise(backbone, 3, [0])
    frozen = rollout_states(backbone, embeds, noise, ROLLOUT)
    off = rollout_states(backbone, embeds, noise, ROLLOUT, SliderPolicy(bank, torch.zeros(1)))
    torch.testing.assert_close(off.latents, frozen.latents, atol=1e-5, rtol=1e-4)
    before = backbone.sample_forwards
    states = rollout_states(backbone, embeds, noise, ROLLOUT, SliderPolicy(bank, torch.tensor([2.0])))
    assert backbone.sample_forwards - before == STEPS * (3 + 2 * PRESERVED) - 2
    assert torch.equal(states.latents[0], frozen.latents[0])
    assert (states.latents[-1] - frozen.latents[-1]).abs().mean() > 0.01
    last = predict(backbone, states.latents[-1], int(states.timestep[-1]), "a person")
    torch.testing.assert_close(states.eps_target[-1], last, atol=1e-5, rtol=1e-4)


def test_a_rollout_under_the_slider_follows_the_folded_model(backbone, embeds, bank) -> None:
    noise = rollout_noise(backbone, 3, [0])
    states = rollout_states(backbone, embeds, noise, ROLLOUT, SliderPolicy(bank, torch.tensor([-1.5])))
    with bank.folded(torch.tensor([-1.5])):
        folded = rollout_states(backbone, embeds, noise, ROLLOUT)
    torch.testing.assert_close(states.latents, folded.latents, atol=1e-3, rtol=1e-3)


def test_on_policy_buffers_hold_new_rollouts_drawn_by_seed_and_number(backbone, embeds, bank) -> None:
    source = OnPolicyStates(backbone, embeds, bank, OnPolicyConfig(2, ROLLOUT), ScaleRange(1.0, 2.0))
    every = torch.arange(source.num_states)
    first, second = source.rows(0, every), source.rows(1, every)
    forwards = backbone.sample_forwards
    assert not torch.equal(first.latents, second.latents)
    assert torch.equal(second.latents[[0, STEPS]], rollout_noise(backbone, 3, [2, 3]))
    assert_equal(source.rows(1, every[3:6]), second[3:6])
    assert backbone.sample_forwards == forwards
    assert_equal(source.rows(0, every), first)


def test_rollout_scales_take_both_signs_within_the_range() -> None:
    scales = rollout_scales(0, range(0, 200), ScaleRange(0.5, 2.0))
    assert (scales[0::2] > 0).all()
    assert (scales[1::2] < 0).all()
    assert scales.abs().min() >= 0.5
    assert scales.abs().max() <= 2.0
    assert scales.abs().std() > 0.3
    assert torch.equal(rollout_scales(0, range(50, 60), ScaleRange(0.5, 2.0)), scales[50:60])


def test_rows_of_all_processes_are_the_rows_of_one() -> None:
    settings = {"seed": 5, "num_states": 30, "scale_range": ScaleRange(0.0, 2.0)}
    for step in (0, 2, 7):
        whole = draw_rows(step, batch_size=12, **settings)
        parts = [draw_rows(step, batch_size=4, rank=rank, world_size=3, **settings) for rank in range(3)]
        for field in ("epoch", "index", "scale"):
            np.testing.assert_array_equal(np.concatenate([getattr(part, field) for part in parts]), getattr(whole, field))


def test_every_state_is_used_once_before_any_is_used_again() -> None:
    draws = [draw_rows(step, seed=5, num_states=30, batch_size=8, scale_range=ScaleRange()) for step in range(15)]
    order = np.concatenate([draw.index for draw in draws])
    for epoch in range(4):
        assert sorted(order[epoch * 30 : (epoch + 1) * 30]) == list(range(30))
    assert list(order[:30]) != list(order[30:60])


def test_scales_fill_their_range_and_differ_between_steps_and_seeds() -> None:
    def scales(seed: int) -> np.ndarray:
        settings = {"seed": seed, "num_states": 30, "batch_size": 8, "scale_range": ScaleRange(0.5, 2.0)}
        return np.concatenate([draw_rows(step, **settings).scale for step in range(100)])

    drawn = scales(0)
    assert 0.5 <= drawn.min() < 0.52
    assert 1.98 < drawn.max() <= 2.0
    assert drawn.mean() == pytest.approx(1.25, abs=0.05)
    assert len(np.unique(drawn)) == 800
    assert not np.array_equal(drawn, scales(1))


def test_a_loader_goes_on_where_its_state_was_taken() -> None:
    states = TeacherStates(*(torch.randn(10, *shape) for shape in ((4, 2, 2), (), (4, 2, 2), (1, 4, 2, 2), (1, 4, 2, 2))))

    def loader() -> StepLoader:
        return StepLoader(CachedStates(states), num_steps=9, batch_size=4, scale_range=ScaleRange(), seed=0)

    whole = list(loader())
    stopped, resumed = loader(), loader()
    iterator = iter(stopped)
    for _ in range(4):
        next(iterator)
    resumed.load_state_dict(stopped.state_dict())
    rest = list(resumed)
    assert (len(whole), len(rest), len(resumed)) == (9, 5, 9)
    for batch, expected in zip(rest, whole[4:], strict=True):
        for field in dataclasses.fields(expected):
            assert torch.equal(getattr(batch, field.name), getattr(expected, field.name))


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
