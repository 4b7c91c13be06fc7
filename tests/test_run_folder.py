"""What a run leaves in its folder, and what reading it refuses."""

import json
import math
import subprocess
from pathlib import Path

import pytest
import torch

from slider_lightning.errors import InputError
from slider_lightning.training import AtomicCheckpointIO, JsonLinesLogger, RunFolder
from slider_lightning.training.run_folder import git_state


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("seed: 0\n")
    return RunFolder.open(tmp_path / "run")


def test_the_files_have_the_names_that_readers_know(run) -> None:
    names = {path.relative_to(run.path).as_posix() for path in (run.config, run.slider, run.checkpoints, run.metrics)}
    assert names == {"config.yaml", "slider.safetensors", "checkpoints", "metrics.jsonl"}
    assert {path.name for path in (run.summary, run.strip, run.manifest)} == {
        "summary.json",
        "strip.png",
        "manifest.json",
    }


@pytest.mark.parametrize(("make", "problem"), [(False, "does not exist"), (True, "holds no config.yaml")])
def test_a_folder_that_is_no_run_is_refused(tmp_path, make, problem) -> None:
    if make:
        (tmp_path / "somewhere").mkdir()
    with pytest.raises(InputError, match=f"somewhere.*{problem}"):
        RunFolder.open(tmp_path / "somewhere")


def test_the_summary_merges_and_a_later_value_wins(run) -> None:
    run.update_summary({"cost/seconds/train": 20.5, "eval/selectivity": {"mean": 3.0, "ci95": 0.2, "n": 64}})
    run.update_summary({"cost/seconds/train": 21.0, "eval/monotone_share": {"mean": 1.0, "ci95": math.nan, "n": 1}})
    assert run.read_summary() == {
        "cost/seconds/train": 21.0,
        "eval/selectivity": {"mean": 3.0, "ci95": 0.2, "n": 64},
        "eval/monotone_share": {"mean": 1.0, "ci95": None, "n": 1},
    }
    assert "NaN" not in run.summary.read_text()
    assert sorted(path.name for path in run.path.iterdir()) == ["config.yaml", "summary.json"]


def test_a_damaged_summary_is_refused_and_not_overwritten(run) -> None:
    run.summary.write_text('{"cost/seconds/train": 2')
    with pytest.raises(InputError, match=r"summary\.json"):
        run.update_summary({"cost/seconds/train": 1.0})
    assert run.summary.read_text() == '{"cost/seconds/train": 2'
    run.summary.write_text("[1]")
    with pytest.raises(InputError, match="JSON object"):
        run.read_summary()


@pytest.mark.parametrize("read", [RunFolder.read_summary, RunFolder.read_manifest, RunFolder.read_metrics])
def test_a_run_that_did_not_get_that_far_is_refused(run, read) -> None:
    with pytest.raises(InputError, match="no such file"):
        read(run)


def test_the_manifest_says_how_the_run_was_made(run) -> None:
    run.write_manifest(seeds={"data": 3}, assets={"assets/tiny_faces": "abc"}, seconds=61.5, device="2 CPU cores")
    manifest = run.read_manifest()
    assert manifest["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"python", "torch", "lightning", "diffusers", "transformers"} <= set(manifest["versions"])
    assert (manifest["seeds"], manifest["assets"]) == ({"data": 3}, {"assets/tiny_faces": "abc"})
    assert (manifest["seconds"], manifest["device"]) == (61.5, "2 CPU cores")
    assert "git" in manifest


def test_the_commit_is_told_with_whether_files_changed(tmp_path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert git_state(tmp_path) is None
    git("init")
    assert git_state(tmp_path) is None
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-m", "first")
    assert git_state(tmp_path) == {"commit": git("rev-parse", "HEAD"), "changed": False}
    (tmp_path / "file").write_text("two")
    assert git_state(tmp_path) == {"commit": git("rev-parse", "HEAD"), "changed": True}


def test_a_step_stands_in_the_metrics_once_however_often_a_run_starts(run) -> None:
    first = JsonLinesLogger(run.metrics)
    for step in range(6):
        first.log_metrics({"train/loss": float(step)}, step)
    with run.metrics.open("a") as file:
        file.write('{"step": 6, "tra')
    resumed = JsonLinesLogger(run.metrics)
    for step in (4, 5, 6):
        resumed.log_metrics({"train/loss": 10.0 * step}, step)
    assert [(row["step"], row["train/loss"]) for row in run.read_metrics()] == [
        (0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0), (5, 50.0), (6, 60.0),
    ]  # fmt: skip
    JsonLinesLogger(run.metrics).log_metrics({"train/loss": math.inf}, 0)
    assert [(row["step"], row["train/loss"]) for row in run.read_metrics()] == [(0, None)]


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(run) -> None:
    checkpoint = run.checkpoints / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, checkpoint)

    class Unwritable:
        def __reduce__(self) -> str:
            raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="No space left on device"):
        AtomicCheckpointIO().save_checkpoint({"step": 2, "rest": Unwritable()}, checkpoint)
    assert torch.load(checkpoint, weights_only=True) == {"step": 1}
    assert list(run.checkpoints.iterdir()) == [checkpoint]


def test_json_on_disk_is_plain_json(run) -> None:
    run.update_summary({"cost/seconds/train": 1.0})
    assert json.loads(run.summary.read_text()) == {"cost/seconds/train": 1.0}
