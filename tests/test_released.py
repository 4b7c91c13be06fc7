"""The released algorithm: its arithmetic, its exact cost, and a training that a kill does not harm."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.benchmarks.released import ensure_released, released_run, train_released
from experiments.benchmarks.released_step import (
    PairPrompts,
    ReleasedConfig,
    ReleasedTraining,
    draw_step,
    released_scheduler,
)
from slider_lightning.adapters import AdapterConfig, load_slider
from slider_lightning.backbone import Backbone, PromptEmbeds, initial_noise, load_backbone
from slider_lightning.config import ROOT, build
from slider_lightning.data import measured_cost
from slider_lightning.errors import InputError
from slider_lightning.training import OptimizerConfig
from tests.conftest import composed
from tests.short_training import CONCEPT

SHORT = ReleasedConfig(AdapterConfig(rank=2, alpha=2.0), num_inference_steps=5, max_steps=6, seed=1)
STEPS = (2, 6)


def trained(backbone: Backbone, config: ReleasedConfig, steps: int) -> ReleasedTraining:
    training = ReleasedTraining(backbone, CONCEPT, config)
    for _ in range(steps):
        training.step()
    return training


def weights(training: ReleasedTraining) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in training.bank.state_dict().items()}


def test_the_defaults_are_the_published_settings_and_those_of_the_command() -> None:
    config = composed("benchmark/released")
    assert build(config["released"]) == ReleasedConfig()
    published = composed("train", "experiment=age", "+published=lora", "run=outputs/test")
    for key in ("rank", "alpha", "layers"):
        assert config["released"]["adapter"][key] == published["adapter"][key]
    assert config["released"]["eta"] == published["objective"]["eta"]
    assert config["released"]["optimizer"]["lr"] == published["optimizer"]["lr"]
    assert config["released"]["batch_size"] == published["data"]["batch_size"]
    assert config["released"]["max_steps"] == published["trainer"]["max_steps"]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_step_costs_2kb_and_8b_sample_forwards(backbone: Backbone, batch_size: int) -> None:
    config = replace(SHORT, batch_size=batch_size)
    training = ReleasedTraining(backbone, CONCEPT, config)
    for step in range(4):
        with measured_cost(backbone) as cost:
            training.step()
        k = draw_step(step, len(CONCEPT.preserve), config).rollout_steps
        assert cost.sample_forwards == 2 * k * batch_size + 8 * batch_size


def test_the_mean_cost_is_58_a_sample() -> None:
    costs = [2 * k + 8 for k in range(1, 50)]
    assert ReleasedConfig().mean_sample_forwards == sum(costs) / len(costs) == 58
    assert ReleasedConfig(batch_size=16).mean_sample_forwards == 58 * 16
    assert (min(costs), max(costs)) == (10, 106)


def test_draws_reach_every_pair_and_every_length_and_depend_on_seed_and_step_alone() -> None:
    config = ReleasedConfig(batch_size=2)
    draws = [draw_step(step, 4, config) for step in range(600)]
    assert {draw.pair for draw in draws} == set(range(4))
    assert {draw.rollout_steps for draw in draws} == set(range(1, 50))
    assert len({seed for draw in draws for seed in draw.noise_seeds}) == 1200
    assert draw_step(17, 4, config) == draws[17]
    assert draw_step(17, 4, replace(config, seed=1)) != draws[17]


@pytest.mark.parametrize("rollout_negative", ["unconditional", "opposite"])
def test_the_loss_is_that_of_a_rollout_written_out(backbone: Backbone, rollout_negative: str) -> None:
    """DDIM as its paper writes it, one prompt a forward, and the told timestep 199 above the latents' for 5 steps."""
    config = replace(SHORT, batch_size=2, rollout_negative=rollout_negative)
    training = trained(backbone, config, 2)
    draw = replace(draw_step(2, 2, config), pair=1, rollout_steps=3)
    frozen = load_backbone(backbone.name, dtype="float32")
    rows = {
        name: frozen.encode_prompts([text]).repeat_interleave(2)
        for name, text in (("c", "a person, woman"), ("+", "an old person, woman"), ("-", "a young person, woman"))
    }
    away = rows["-"] if rollout_negative == "opposite" else frozen.encode_negative_prompt().repeat_interleave(2)

    def predict(x: torch.Tensor, timestep: int, embeds: PromptEmbeds, *, on: bool) -> torch.Tensor:
        if not on:
            return frozen.predict_noise(x, timestep, embeds)
        with training.bank.scales(torch.ones(2, 1)):
            return backbone.predict_noise(x, timestep, embeds)

    abar = released_scheduler(backbone).alphas_cumprod
    with torch.no_grad():
        x = initial_noise(backbone.latent_shape, draw.noise_seeds)
        for t in (800, 600, 400):
            uncond, cond = predict(x, t, away, on=True), predict(x, t, rows["c"], on=True)
            eps = uncond + 3.0 * (cond - uncond)
            x0 = (x - (1 - abar[t]).sqrt() * eps) / abar[t].sqrt()
            x = abar[t - 200].sqrt() * x0 + (1 - abar[t - 200]).sqrt() * eps
        told = 999 - 3 * 200
        neutral, up, down = (predict(x, told, rows[name], on=False) for name in ("c", "+", "-"))
        expected = (predict(x, told, rows["c"], on=True) - (neutral + 4.0 * (up - down))).square().mean()
    torch.testing.assert_close(training.loss(draw).detach(), expected, rtol=1e-4, atol=1e-6)


def test_only_the_trained_prediction_reaches_the_adapter_and_every_layer_learns(backbone: Backbone) -> None:
    training = trained(backbone, SHORT, 3)
    assert all(bool(tensor.any()) for name, tensor in weights(training).items() if name.endswith("lora_up"))
    assert not any(parameter.grad is not None for parameter in backbone.unet.parameters())


def test_the_learning_rate_and_the_clip_can_be_ours(backbone: Backbone) -> None:
    optimizer = OptimizerConfig(lr=2e-3, warmup_steps=2, decay="cosine")
    training = trained(backbone, replace(SHORT, optimizer=optimizer, gradient_clip_val=1.0), 3)
    assert training.optimizer.param_groups[0]["lr"] == pytest.approx(2e-3 * optimizer.lr_factor(2, 6))
    norm = torch.nn.utils.get_total_norm([p.grad for p in training.bank.parameters() if p.grad is not None])
    assert norm <= 1.0 + 1e-4


def test_on_a_half_precision_backbone_weights_moments_and_loss_are_half_precision(pipeline_folder: Path) -> None:
    backbone = load_backbone(str(pipeline_folder), dtype="bfloat16")
    training = trained(backbone, SHORT, 1)
    assert {p.dtype for p in training.bank.parameters()} == {torch.bfloat16}
    moments = [state["exp_avg"].dtype for state in training.optimizer.state.values()]
    assert set(moments) == {torch.bfloat16}
    assert training.loss(draw_step(1, 2, SHORT)).dtype == torch.bfloat16


def test_a_loaded_training_goes_on_bit_for_bit(backbone: Backbone, pipeline_folder: Path, tmp_path: Path) -> None:
    whole = trained(backbone, SHORT, 2)
    whole.save(tmp_path / "last.ckpt", seconds=1.5)
    resumed = ReleasedTraining(load_backbone(str(pipeline_folder), dtype="float32"), CONCEPT, SHORT)
    assert resumed.load(tmp_path / "last.ckpt")["seconds"] == 1.5
    assert [whole.step() for _ in range(2)] == [resumed.step() for _ in range(2)]
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(resumed)[name])


KILLED = """
import os, signal, sys
from pathlib import Path
from slider_lightning.backbone import load_backbone
from experiments.benchmarks.released import train_released
from tests.short_training import CONCEPT
from tests.test_released import SHORT, STEPS

def kill(done, total):
    if done == 5:
        os.kill(os.getpid(), signal.SIGKILL)

backbone = load_backbone(sys.argv[1], dtype="float32")
train_released(backbone, CONCEPT, SHORT, Path(sys.argv[2]), STEPS, kill, save_every=3)
"""


def test_a_killed_training_ends_as_one_that_was_not(backbone: Backbone, pipeline_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, str(pipeline_folder), str(folder)]
    threads = str(torch.get_num_threads())  # their number decides the order of sums
    environment = {**os.environ, "OMP_NUM_THREADS": threads}
    assert subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == -9
    again = load_backbone(str(pipeline_folder), dtype="float32")
    resumed = train_released(again, CONCEPT, SHORT, folder, STEPS)
    with measured_cost(backbone) as cost:
        whole = train_released(backbone, CONCEPT, SHORT, tmp_path / "whole", STEPS)
    for step in STEPS:
        (ours, _), (theirs, _) = load_slider(resumed.slider(step)), load_slider(whole.slider(step))
        for name, tensor in ours.state_dict().items():
            assert torch.equal(tensor, theirs.state_dict()[name])
    rows = resumed.read_log()
    assert [row["step"] for row in rows] == list(range(1, 7))
    assert [row["loss"] for row in rows] == [row["loss"] for row in whole.read_log()]
    assert rows[-1]["sample_forwards"] == cost.sample_forwards == backbone.sample_forwards
    assert again.sample_forwards < cost.sample_forwards


def test_a_finished_training_is_found_in_the_folder_of_its_settings(backbone: Backbone, tmp_path: Path) -> None:
    run = ensure_released(backbone, CONCEPT, SHORT, tmp_path, (1,))
    before = backbone.sample_forwards
    assert ensure_released(backbone, CONCEPT, SHORT, tmp_path, (1,)) == run
    assert backbone.sample_forwards == before
    assert load_slider(run.slider(1), backbone.unet)[1].concept["preserve"] == ["man", "woman"]
    assert released_run(backbone, CONCEPT, replace(SHORT, seed=2), tmp_path).path != run.path
    run.slider(1).unlink()
    with pytest.raises(InputError, match=r"step-00001.*delete"):
        ensure_released(backbone, CONCEPT, SHORT, tmp_path, (1,))


def test_without_preserved_phrases_the_prompts_are_bare(backbone: Backbone) -> None:
    prompts = PairPrompts.encode(backbone, replace(CONCEPT, preserve=()))
    assert torch.equal(prompts.target.prompt_embeds, backbone.encode_prompts(["a person"]).prompt_embeds)
    assert len(prompts.positive) == len(prompts.negative) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_steps", 0),
        ("num_inference_steps", 30),
        ("num_inference_steps", 1),
        ("eta", 0.0),
        ("rollout_negative", "none"),
    ],
)
def test_settings_out_of_range_are_named(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=name):
        ReleasedConfig(**{name: value})


def test_checkpoints_beyond_the_training_are_named(backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="within the 6 steps"):
        train_released(backbone, CONCEPT, SHORT, tmp_path, (7,))
