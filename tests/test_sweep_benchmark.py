"""The benchmark of a sweep: all three ways at the smallest size, and nothing measured twice."""

import json
import sys
from pathlib import Path

import pytest

from experiments.benchmarks.sweep import Stages, grid_arguments, hydra_arguments, main
from tests.test_benchmarks import SHORT


def test_a_stage_is_known_by_its_settings(tmp_path: Path) -> None:
    path = tmp_path / "stages.json"
    Stages(path).keep("grid", {"steps": 100}, {"seconds": 2.5})
    assert Stages(path).find("grid", {"steps": 100}) == {"seconds": 2.5}
    assert Stages(path).find("grid", {"steps": 50}) is None
    assert Stages(path).find("hydra", {"steps": 100}) is None


def test_the_points_are_named_as_the_commands_want_them() -> None:
    assert hydra_arguments([1, 4], [1.0, 8.0]) == ["-m", "adapter.rank=1,4", "objective.eta=1.0,8.0"]
    assert grid_arguments([1, 4], [1.0, 8.0]) == ["grid.rank=[1,4]", "grid.eta=[1.0,8.0]"]


def test_a_sweep_is_measured_three_ways_and_kept(
    pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = ",".join(f'"{each}"' for each in (*SHORT, "trainer.max_steps=3"))
    arguments = ("ranks=[2]", "etas=[1.0,2.0]", "steps=1", "released.num_inference_steps=4", "released.max_steps=3")
    places = (f"model.path={pipeline_folder}", f"paths.outputs={tmp_path}", f"training=[{training}]")
    monkeypatch.setattr(sys, "argv", ["sweep", *arguments, *places])
    main()
    path = tmp_path / "benchmarks" / "sweep.json"
    report, stages = json.loads(path.read_text()), (tmp_path / "benchmarks" / "sweep" / "stages.json").read_text()
    cache, rows = 3 * 10 - 1, 3 * 16
    assert report["released"]["sample_forwards"] == 2 * 3 * (4 + 8)
    checks = report["hydra"]["sample_forwards"] - cache - 2 * rows
    assert checks > 0
    assert report["grid"]["sample_forwards"] == report["hydra"]["sample_forwards"]
    assert [(row["rank"], row["eta"]) for row in report["weights"]] == [(2, 1.0), (2, 2.0)]
    assert max(row["change"] for row in report["weights"]) < 1e-3
    main()
    assert (tmp_path / "benchmarks" / "sweep" / "stages.json").read_text() == stages
