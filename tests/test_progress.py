"""What a run shows of its progress on a terminal and elsewhere."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from slider_lightning.generation import ProgressCallback
from slider_lightning.training.checkpoints import last_checkpoint_path
from tests.conftest import quick_training

ROOT = Path(__file__).resolve().parents[1]


def trained_in_a_pipe(pipeline_folder: Path, folder: Path, *overrides: str) -> str:
    """What `python -m slider_lightning.train` writes where there is no terminal."""
    command = [sys.executable, "-m", "slider_lightning.train", *quick_training(pipeline_folder, folder)]
    command += [
        "trainer.progress_bar=true",
        "trainer.accelerator=cpu",
        "optimizer.lr=1e-4",
        f"run={folder}/run",
        *overrides,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return output


def test_a_pipe_gets_lines_with_the_optimizer_step_also_after_a_resume(pipeline_folder: Path, tmp_path: Path) -> None:
    accumulated = "trainer.accumulate_grad_batches=2"
    first = trained_in_a_pipe(pipeline_folder, tmp_path, accumulated)
    assert first.count("Training: step 4 of 4 (100 %), loss ") == 1
    assert "Going on" not in first
    second = trained_in_a_pipe(pipeline_folder, tmp_path, accumulated, "trainer.max_steps=6", "resume=true")
    assert second.count("Training: step 6 of 6 (100 %), loss ") == 1
    assert f"Going on at step 4 of 6 from {last_checkpoint_path(tmp_path / 'run' / 'checkpoints')}." in second
    for output in (first, second):
        assert output.count("Training: ") == 1
        assert "Epoch" not in output
        assert all(character.isprintable() or character == "\n" for character in output), "control characters"


def test_a_callback_logs_one_line_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with ProgressCallback("images") as on_batch:
        for done in range(1, 11):
            on_batch(done, 10)
    assert caplog.messages == ["images: 10 of 10 (100 %), 0:00:00 left."]
