"""A run that was killed outright goes on bit for bit."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from slider_lightning.adapters import DenseConfig, load_slider
from slider_lightning.errors import InputError
from slider_lightning.objectives import Projection
from slider_lightning.training import RunFolder
from tests.short_training import train

REPOSITORY = Path(__file__).parent.parent
MAX_STEPS = 10


def run_process(pipeline: Path, run: RunFolder, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "tests.short_training",
        str(pipeline),
        str(run.path),
        "--max-steps",
        str(MAX_STEPS),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *arguments], cwd=REPOSITORY, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def killed(pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that SIGKILL ended after step 8; its last checkpoint is of step 6."""
    run = RunFolder(tmp_path_factory.mktemp("killed") / "run")
    process = run_process(pipeline_folder, run, "--kill-at", "8")
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert not run.slider.exists()
    return run


def test_a_killed_run_ends_in_the_weights_of_an_uninterrupted_one(killed, pipeline_folder, tmp_path) -> None:
    checkpoint = torch.load(killed.resume_checkpoint(), weights_only=True)
    assert checkpoint["global_step"] == 6
    resumed = train(pipeline_folder, killed, resume=True, max_steps=MAX_STEPS)
    whole_run = RunFolder(tmp_path / "run")
    whole = train(pipeline_folder, whole_run, max_steps=MAX_STEPS)
    for name, tensor in whole.weights().items():
        assert torch.equal(resumed.weights()[name], tensor), name
        assert not torch.equal(checkpoint["state_dict"][f"bank.{name}"], tensor), name
    files = [load_slider(run.slider)[0].state_dict() for run in (killed, whole_run)]
    assert all(torch.equal(files[0][name], tensor) for name, tensor in files[1].items())
    assert resumed.data.cost.sample_forwards == 0
    assert resumed.cost.cost.sample_forwards == whole.cost.cost.sample_forwards == MAX_STEPS * 2 * 2
    losses = [[(row["step"], row["train/loss"]) for row in run.read_metrics()] for run in (killed, whole_run)]
    assert losses[0] == losses[1]
    assert [step for step, _ in losses[0]] == list(range(MAX_STEPS))


def test_resuming_a_finished_run_trains_no_more(pipeline_folder, tmp_path) -> None:
    run = RunFolder(tmp_path / "run")
    finished = train(pipeline_folder, run, max_steps=5)
    run.slider.unlink()  # as if it was killed between the last checkpoint and the slider file
    again = train(pipeline_folder, run, max_steps=5, resume=True)
    assert again.cost.cost.sample_forwards == finished.cost.cost.sample_forwards
    slider = load_slider(run.slider)[0].state_dict()
    trained = finished.module.bank.sliders[0].state_dict()
    assert all(torch.equal(slider[name], tensor) for name, tensor in trained.items())
    assert [row["step"] for row in run.read_metrics()] == list(range(5))


def test_on_policy_training_goes_on_too(pipeline_folder, tmp_path) -> None:
    """Steps 0..3 use up one buffer of eight states, so a run stopped there is resumed exactly."""
    whole = train(pipeline_folder, RunFolder(tmp_path / "whole"), data="rollout", max_steps=8)
    run = RunFolder(tmp_path / "run")
    train(pipeline_folder, run, data="rollout", max_steps=8, stop_at=4)
    resumed = train(pipeline_folder, run, data="rollout", max_steps=8, resume=True)
    for name, tensor in whole.weights().items():
        assert torch.equal(resumed.weights()[name], tensor), name


def test_a_dense_slider_with_a_projection_goes_on_bit_for_bit(pipeline_folder, tmp_path) -> None:
    settings = {
        "adapter": DenseConfig("xattn"),
        "project": Projection((("a man", "a woman"), ("a face", "glasses"))),
        "max_steps": 6,
    }
    whole = train(pipeline_folder, RunFolder(tmp_path / "whole"), **settings)
    run = RunFolder(tmp_path / "run")
    train(pipeline_folder, run, stop_at=4, **settings)
    resumed = train(pipeline_folder, run, resume=True, **settings)
    assert resumed.data.cost.sample_forwards == 0, "the contrasts' scores are in the cache"
    assert all(torch.equal(resumed.weights()[name], tensor) for name, tensor in whole.weights().items())


@pytest.mark.parametrize("harm", ["flip", "cut", "foreign"])
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path, harm) -> None:
    run = RunFolder(tmp_path / "run")
    run.checkpoints.mkdir(parents=True)
    checkpoint = run.checkpoints / "last.ckpt"
    torch.save({"state_dict": {"weight": torch.randn(1000)}}, checkpoint)
    assert run.resume_checkpoint() == checkpoint
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes({"flip": content, "cut": content[: len(content) // 2], "foreign": b"not a checkpoint"}[harm])
    with pytest.raises(InputError, match=r"last\.ckpt.*resume=false"):
        run.resume_checkpoint()


def test_a_run_without_a_checkpoint_starts_from_the_beginning(tmp_path) -> None:
    assert RunFolder(tmp_path).resume_checkpoint() is None
