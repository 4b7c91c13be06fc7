"""Caches, sweeps and run folders from strangers: what their files name leads nowhere else."""

import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from evaluation.search import swept
from evaluation.sweep_points import read_sweep
from slider_lightning.assets import inside
from slider_lightning.cache import prune, verify
from slider_lightning.data.stored import stored_caches
from slider_lightning.data.teacher.shards import ShardSeries
from slider_lightning.errors import InputError
from slider_lightning.grid import GRID_FILE
from slider_lightning.multirun import CONFIG_FILE, FINISHED, SweepPoint, add_point
from slider_lightning.publish import PublishConfig, write_repository

NAMES = ["../victim.txt", "../../victim.txt", "/etc/passwd", "part/../../victim.txt", "link/victim.txt", 7, ""]


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim.txt"
    path.write_text("a thesis")
    return path


def test_a_name_below_a_folder_is_taken(tmp_path: Path) -> None:
    assert inside(tmp_path, "parts/one.safetensors") == tmp_path / "parts" / "one.safetensors"


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leads_out_is_refused(name: object, tmp_path: Path, victim: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match="leads elsewhere"):
        inside(folder, name)


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "slider.safetensors")
    with pytest.raises(InputError, match="regular file"):
        inside(tmp_path, "slider.safetensors")


@pytest.mark.parametrize("name", ["../../../victim.txt", "absolute"])
def test_pruning_and_repairing_a_cache_touch_nothing_outside(name: str, tmp_path: Path, victim: Path) -> None:
    folder = tmp_path / "caches" / "0123456789abcdef0123" / "rollouts"
    folder.mkdir(parents=True)
    shard = {
        "file": str(victim) if name == "absolute" else name,
        "part": {"first": 0, "count": 1, "source": ""},
        "sha256": "0" * 64,
    }
    index = {"depends_on": {"states": "trajectory", "model": "m", "target": "t"}, "shards": [shard]}
    (folder / "index.json").write_text(json.dumps(index))
    assert ShardSeries(folder, "rollouts", {}).index(warn=False) == {}
    console = Console(quiet=True)
    assert not verify(stored_caches(tmp_path / "caches"), console, repair=True)
    (folder / "index.json").write_text(json.dumps(index))
    prune(stored_caches(tmp_path / "caches"), console, older_than=None, to_size=0, dry_run=False, now=0.0)
    assert victim.read_text() == "a thesis"
    assert not (folder / "index.json").exists()


def test_the_runs_of_a_sweep_lie_in_its_folder_of_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, elsewhere = tmp_path / "outputs", tmp_path / "elsewhere"
    elsewhere.mkdir()
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    sweep, grid = outputs / "sweeps" / "one", outputs / "age" / "grid-1"
    add_point(sweep, SweepPoint({"seed": "0"}, str(elsewhere), FINISHED))
    grid.mkdir(parents=True)
    runs = {"axes": {"seed": [0]}, "runs": [{"overrides": {"seed": 0}, "run": str(elsewhere)}]}
    (grid / GRID_FILE).write_text(json.dumps(runs))
    for folder in (sweep, grid):
        with pytest.raises(InputError, match=f"lists {elsewhere}"):
            read_sweep(folder)
    runs["runs"][0]["run"] = str(outputs / "age" / "0a1b")  # type: ignore[index]
    (grid / GRID_FILE).write_text(json.dumps(runs))
    assert [point.run for point in read_sweep(grid).points] == [str(outputs / "age" / "0a1b")]


def test_the_list_of_a_search_reads_no_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "1,2")
    text = "hydra:\n  overrides:\n    task:\n    - seed=${oc.env:SECRET}\n    - adapter.rank=1,2\n"
    (tmp_path / CONFIG_FILE).write_text(text)
    assert swept(tmp_path) == ["adapter.rank"]


@pytest.mark.parametrize("name", ["strip.png", "summary.json", "config.yaml", "slider.safetensors"])
def test_publishing_follows_no_link_out_of_the_run(name: str, tmp_path: Path, victim: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("{}")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(victim)
    with pytest.raises(InputError, match="leads elsewhere"):
        write_repository(PublishConfig(str(run), folder=str(tmp_path / "out")), tmp_path / "out")
    assert not (tmp_path / "out").exists()
