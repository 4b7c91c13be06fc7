"""The benchmarks of training: costs counted exactly, quality compared at equal quality, each run for real once."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from rich.table import Table

from experiments.benchmarks.measuring import OurCost, ReleasedCost
from experiments.benchmarks.quality_curve import Rates, Reached, comparison_table, curve, equal_quality
from experiments.benchmarks.quality_figure import quality_figure
from experiments.benchmarks.released_step import ReleasedConfig
from experiments.benchmarks.reporting import machine, write_report
from experiments.benchmarks.text_step import our_figures, released_figures, text_step
from experiments.benchmarks.time_to_quality import checkpoint_steps, time_to_quality
from slider_lightning.config import CONF
from slider_lightning.data import Cost
from tests.conftest import composed

# A cache of 100 forwards in 10 s, then 0.5 s a step of 16 rows, and 8 s of 64 forwards of checks.
OURS = OurCost(Cost(10.0, 100), Cost(5.0, 160), Cost(8.0, 64), steps=10, states_per_step=8)
# 2 s for a step of mean length; the ten timed steps were half as long.
RELEASED = ReleasedCost(10, 10.0, 290, ReleasedConfig())
RATES = Rates(RELEASED, replace(RELEASED, config=ReleasedConfig(batch_size=16)), OURS)
SHORT = (
    "data.source.num_rollouts=1",
    "data.source.rollout.num_inference_steps=3",
    "sampler.num_inference_steps=2",
    "strip.seeds=[0]",
    "strip.scales=[0,1]",
    "trainer.progress_bar=false",
    "optimizer.lr=1e-4",  # three larger steps on random weights may raise the loss, which training refuses
)


def benchmark(name: str, pipeline: Path, outputs: Path, *overrides: str) -> dict[str, Any]:
    """The config of a benchmark at the smallest size, on a pipeline with random weights."""
    training = ",".join(f'"{each}"' for each in (*SHORT, "trainer.max_steps=3"))
    return composed(
        f"benchmark/{name}",
        f"model.path={pipeline}",
        f"paths.outputs={outputs}",
        f"paths.cache={outputs / 'cache'}",
        f"training=[{training}]",
        "released.max_steps=3",
        "released.num_inference_steps=4",
        *overrides,
    )


def slider(
    variant: str, budget: str, steps: int, shift: float, *, seed: int = 0, cache: int = 0, flips: float = 0.1
) -> Reached:
    figures = {"shift": shift, "upward": 3 - shift, "interference": flips}
    return Reached(
        variant, budget, seed, steps, 16 * steps, cache, 58 * steps if variant == "released" else steps, figures
    )


def test_a_report_holds_figures_machine_and_commit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_report("name", tmp_path, {"seconds": float("inf"), "steps": 3}, [Table("a heading")])
    report = json.loads(path.read_text())
    assert path == tmp_path / "benchmarks" / "name.json"
    assert (report["seconds"], report["steps"]) == (None, 3)
    assert report["machine"] == json.loads(json.dumps(machine()))
    assert "git" in report
    assert "a heading" in capsys.readouterr().out


def test_released_steps_are_scaled_to_their_mean_length() -> None:
    figures = released_figures(RELEASED)
    assert figures["seconds_per_step"] == 2.0
    assert figures["measured_seconds_per_step"] == 1.0
    assert figures["sample_forwards_per_sample"] == figures["sample_forwards_per_sample_in_a_sweep"] == 58


def test_the_cache_counts_once_in_a_run_and_once_in_a_sweep() -> None:
    figures = our_figures(OURS, steps=100, points=12)
    assert figures["samples_per_step"] == 16
    assert figures["sample_forwards_per_sample"] == (100 + 100 * 16 + 64) / 1600
    assert figures["sample_forwards_per_sample_in_a_sweep"] == (100 + 12 * (100 * 16 + 64)) / (12 * 1600)
    assert figures["sample_forwards_per_state"] == (100 + 100 * 16 + 64) / 800
    assert figures["seconds_per_sample"] == (10 + 100 * 0.5 + 8) / 1600


def test_text_step_measures_both_sides(pipeline_folder: Path, tmp_path: Path) -> None:
    config = benchmark("text_step", pipeline_folder, tmp_path, "steps=2", "our_steps=3")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        report = json.loads(text_step(config).read_text())
    preserved, rollouts, steps = len(config["concept"]["preserve"]), 1, 3
    assert report["ours"]["cache_sample_forwards"] == rollouts * (steps * (2 + 2 * preserved) - 1)
    assert report["ours"]["sample_forwards_per_step"] == report["ours"]["samples_per_step"]
    assert report["released"]["sample_forwards_per_step"] == 4 + 8
    assert report["settings"]["steps_of_a_run"] == 3
    assert min(report[side]["peak_memory"] for side in ("released", "ours")) > 2**26


def test_equal_quality_takes_the_cheapest_budget_that_reaches_it() -> None:
    sliders = [
        slider("released", "500 steps", 500, 1.0),
        slider("released", "1000 steps", 1000, 2.0),
        slider("ours", "8 steps", 8, 1.9, cache=50),
        slider("ours", "40 steps", 40, 3.0, cache=100),
        slider("ours", "24 steps", 24, 2.1, cache=100),
        slider("ours", "16 steps", 16, 2.2, cache=100, flips=0.2),  # moves enough, but more than it should
    ]
    found = equal_quality(sliders, RATES, "ours")
    assert found["reached"]["budget"] == "24 steps"
    assert found["seconds_ratio"] == (1000 * 2.0) / (10 + 24 * 0.5 + 8)
    assert found["sample_forwards_ratio"] == 58_000 / 24
    assert found["reached"]["figures"]["interference"] == 0.1
    upward = equal_quality(sliders, RATES, "ours", "upward")  # 3 less the shift, 1.0 of the released slider
    assert upward["reached"]["budget"] == "8 steps"
    assert equal_quality(sliders, RATES, "batched")["reached"] is None
    rows = [{"seed": None, **found}, {"seed": 0, **equal_quality(sliders, RATES, "batched")}]
    assert comparison_table(rows).row_count == 2


def test_a_curve_is_the_mean_over_seeds_from_cheap_to_dear() -> None:
    sliders = [
        slider("released", "1000 steps", 1000, 2.0),
        slider("ours", "9 steps", 9, 1.0, cache=100),
        slider("ours", "9 steps", 9, 3.0, seed=1, cache=300),
        slider("ours", "8 steps", 8, 0.5, cache=100),
    ]
    points = curve(sliders, RATES)
    assert [(point.variant, point.budget, point.sliders) for point in points] == [
        ("released", "1000 steps", 1),
        ("ours", "8 steps", 1),
        ("ours", "9 steps", 2),
    ]
    assert points[-1].figures["shift"] == 2.0
    assert points[-1].spread["shift"] == (1.0, 3.0)
    assert points[-1].seconds == pytest.approx(20 + 4.5 + 8)
    left, right = quality_figure(sliders, RATES).axes
    assert (left.get_xscale(), right.get_xscale()) == ("log", "log")


def test_checkpoints_are_shares_of_the_training() -> None:
    assert checkpoint_steps([0.125, 0.25, 0.5, 0.75, 1.0], 1000) == (125, 250, 500, 750, 1000)
    assert checkpoint_steps([0.01, 0.02, 1.0], 3) == (1, 3)


def test_time_to_quality_runs_and_finds_again_what_it_made(pipeline_folder: Path, tmp_path: Path) -> None:
    overrides = (
        "seeds=[1]",
        "released_checkpoints=[1.0]",
        "batched_checkpoints=[1.0]",
        'ours=[["trainer.max_steps=2"],[]]',
        "timed_steps.released=1",
        "timed_steps.batched=1",
        "evaluation.seeds_per_prompt=2",
    )
    config = benchmark("time_to_quality", pipeline_folder, tmp_path, *overrides)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        report = json.loads(time_to_quality(config).read_text())
        made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
        again = json.loads(time_to_quality(config).read_text())
    assert [(point["variant"], point["budget"]) for point in report["curve"]] == [
        ("released", "3 steps"),
        ("batched", "3 steps"),
        ("ours", "2 steps, 1 rollouts"),
        ("ours", "3 steps, 1 rollouts"),
    ]
    assert {"shift", "interference", "interference/gender", "selectivity"} <= set(report["curve"][0]["figures"])
    sliders = {slider["budget"]: slider for slider in report["sliders"] if slider["variant"] == "ours"}
    assert sliders["3 steps, 1 rollouts"]["cache_sample_forwards"] == 3 * 10 - 1
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert any(path.stem.startswith("step-") for path in made)
    for key in ("sample_forwards", "figures"):
        assert [point[key] for point in again["curve"]] == [point[key] for point in report["curve"]]
    assert (tmp_path / "benchmarks" / "time_to_quality.png").is_file()
