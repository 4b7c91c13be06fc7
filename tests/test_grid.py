"""Many sliders in one training: each must be what the same command alone trains, in the same folder."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import initialize_config_dir

from slider_lightning.adapters import AdapterConfig, Slider, SliderBank, load_slider
from slider_lightning.backbone import Backbone
from slider_lightning.config import CONF, register_resolvers
from slider_lightning.data import ConceptEmbeds, ScaleRange
from slider_lightning.data.batches import CachedStates, StateLoader
from slider_lightning.data.states import rollout_noise, rollout_states
from slider_lightning.data.steps import JointLoader, Share
from slider_lightning.errors import InputError
from slider_lightning.grid import GridPoint, axes_of, grid_folder, grid_points, override_text, train_grid
from slider_lightning.objectives import TextObjective
from slider_lightning.train import train
from slider_lightning.training import OptimizerConfig, RunFolder, SliderModule, TextTask
from tests.conftest import composed, quick_training
from tests.short_training import CONCEPT, ROLLOUT

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture
def overrides(pipeline_folder: Path, tmp_path: Path) -> list[str]:
    """Those of a quick training on the smallest model."""
    return quick_training(pipeline_folder, tmp_path)


def points_of(axes: dict[str, list[Any]], overrides: Sequence[str]) -> tuple[GridPoint, ...]:
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return grid_points(axes, overrides)


def written(run: RunFolder) -> dict[Path, int]:
    """When every file of a run was written, but its lock."""
    return {path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.is_file() and path.name != ".lock"}


def assert_same_training(run: RunFolder, alone: RunFolder, tolerance: float = 1e-3) -> None:
    """Weights apart by at most `tolerance` of how far training moved them, and the same losses."""
    (slider, metadata), (expected, told) = load_slider(run.slider), load_slider(alone.slider)
    assert metadata == told
    start = Slider.from_weights(
        {p: (expected.adapter(p).lora_down, 0 * expected.adapter(p).lora_up) for p in expected.layer_paths},
        expected.config,
    ).state_dict()
    apart = sum((slider.state_dict()[name] - tensor).square().sum() for name, tensor in expected.state_dict().items())
    moved = sum((tensor - start[name]).square().sum() for name, tensor in expected.state_dict().items())
    assert float(moved) > 0
    assert float(apart / moved) < tolerance**2
    rows, wanted = run.read_metrics(), alone.read_metrics()
    assert [row.keys() for row in rows] == [row.keys() for row in wanted]
    assert [row["step"] for row in rows] == [row["step"] for row in wanted]
    assert [row["train/loss"] for row in rows] == pytest.approx([row["train/loss"] for row in wanted], rel=1e-4)


def test_every_point_of_a_grid_is_the_run_trained_alone(overrides, tmp_path) -> None:
    axes = {"adapter.rank": [1, 3], "objective.eta": [1, 3.5], "seed": [0, 5]}
    runs = train_grid(points_of(axes, overrides), tmp_path / "outputs")
    assert len(runs) == len({run.path for run in runs}) == 8
    for number in (0, 3, 6):
        point = points_of(axes, overrides)[number]
        given = [f"{key}={value}" for key, value in point.overrides.items()]
        elsewhere = [f"paths.outputs={tmp_path}/alone", f"run={tmp_path}/alone/{number}"]
        alone = train(composed("train", *overrides, *given, *elsewhere))
        # Its folder is the one that the command without a grid finds.
        assert str(runs[number].path) == composed("train", *overrides, *given)["run"]
        assert_same_training(runs[number], alone)
        files = {path.name for path in runs[number].path.iterdir()} - {".lock"}
        assert {path.name for path in alone.path.iterdir()} == files | {"checkpoints", "csv"}  # those of the whole grid
        assert not {"checkpoints", "csv"} & files
        summary, expected = runs[number].read_summary(), alone.read_summary()
        assert summary.pop("trained_together") == 8
        assert summary.keys() == expected.keys()
        key = "cost/sample_forwards/train"
        assert summary[key] == expected[key] == 4 * 2 * 2
        assert summary["train/last_loss"] == pytest.approx(expected["train/last_loss"], rel=1e-3)
    home = grid_folder(points_of(axes, overrides), tmp_path / "outputs")
    assert {"checkpoints", "csv", "grid.json", "metrics.jsonl"} <= {path.name for path in home.path.iterdir()}
    whole = home.read_summary()
    assert whole["cost/sample_forwards/train"] == 8 * 4 * 2 * 2
    assert whole["cost/sample_forwards/cache"] == 3 * (2 + 2 * 4) - 1  # once for all
    assert sum(run.read_summary()["cost/sample_forwards/cache"] for run in runs) == pytest.approx(29)


def test_concepts_of_their_own_prompts_and_shapes_are_trained_together(overrides, tmp_path) -> None:
    points = points_of({"experiment": ["smile", "age_unpreserved"]}, overrides)
    runs = train_grid(points, tmp_path / "outputs")
    for point, run in zip(points, runs, strict=True):
        alone = train({**point.config, "run": str(tmp_path / "alone" / point.config["name"])})
        assert_same_training(run, alone)
    assert load_slider(runs[0].slider)[1].concept["name"] == "smile"
    assert runs[0].path.parent.name == "smile"


def test_a_grown_grid_trains_what_is_new(overrides, tmp_path) -> None:
    (first,) = train_grid(points_of({"adapter.rank": [1]}, overrides), tmp_path / "outputs")
    before = written(first)
    runs = train_grid(points_of({"adapter.rank": [1, 2]}, overrides), tmp_path / "outputs")
    assert runs[0] == first
    assert written(first) == before
    assert "trained_together" not in runs[1].read_summary()
    assert load_slider(runs[1].slider)[1].rank == 2
    # Each was alone in its training, and tells of it as the run without a grid does.
    for run, point in zip(runs, points_of({"adapter.rank": [1, 2]}, overrides), strict=True):
        assert_same_training(run, train({**point.config, "run": str(tmp_path / "alone" / run.path.name)}))


def test_what_a_checkpoint_holds_goes_on_together_and_finished_runs_stay(overrides, tmp_path) -> None:
    (first,) = train_grid(points_of({"adapter.rank": [1]}, overrides), tmp_path / "outputs")
    points = points_of({"adapter.rank": [1, 2, 3]}, overrides)
    runs = train_grid(points, tmp_path / "outputs")
    assert runs[2].read_summary()["trained_together"] == 2
    weights = load_slider(runs[2].slider)[0].state_dict()
    runs[2].manifest.unlink()  # killed before the last manifest
    before = written(first), written(runs[1])
    train_grid(points, tmp_path / "outputs")
    assert (written(first), written(runs[1])) == before
    assert runs[2].manifest.exists()
    assert all(torch.equal(load_slider(runs[2].slider)[0].state_dict()[name], each) for name, each in weights.items())
    # It went on from the checkpoint: nothing was trained again.
    home = grid_folder(points, tmp_path / "outputs")
    assert home.read_summary()["cost/sample_forwards/train"] == 2 * 4 * 2 * 2


def test_what_was_killed_between_two_manifests_is_finished_together(overrides, tmp_path) -> None:
    points = points_of({"adapter.rank": [1, 2]}, overrides)
    runs = train_grid(points, tmp_path / "outputs")
    before = [load_slider(run.slider)[0].state_dict() for run in runs]
    runs[1].manifest.unlink()
    train_grid(points, tmp_path / "outputs")
    assert all(run.manifest.exists() for run in runs)
    assert len(list((tmp_path / "outputs" / "age").glob("grid-*"))) == 1
    for run, weights in zip(runs, before, strict=True):
        assert all(torch.equal(load_slider(run.slider)[0].state_dict()[name], each) for name, each in weights.items())


def test_a_slider_that_diverges_does_not_take_the_others_along(overrides, tmp_path) -> None:
    points = points_of({"optimizer.lr": [2e-3, 1e18]}, overrides)
    with pytest.raises(InputError, match=r"Expected 2 good sliders, but 1 were refused: .*lower optimizer.lr"):
        train_grid(points, tmp_path / "outputs")
    good, bad = (RunFolder(Path(point.config["run"])) for point in points)
    assert good.manifest.exists()
    assert not bad.slider.exists()
    assert not bad.manifest.exists()
    alone = train({**points[0].config, "run": str(tmp_path / "alone")})
    assert_same_training(good, alone)
    before = written(good)
    with pytest.raises(InputError, match="1 were refused"):
        train_grid(points, tmp_path / "outputs")
    assert written(good) == before


def test_scaled_gradients_would_tie_sliders_together(overrides, tmp_path) -> None:
    points = points_of({"adapter.rank": [1, 2]}, [*overrides, "trainer.precision=16-mixed"])
    with pytest.raises(InputError, match="bf16-mixed"):
        train_grid(points, tmp_path / "outputs")


def test_a_killed_grid_goes_on_to_the_very_weights(overrides, tmp_path) -> None:
    longer = [
        *overrides,
        "trainer.max_steps=40",
        "trainer.checkpoint_every_n_steps=5",
        "strip=none",
        "objective.eta=20",
    ]
    given = [each for each in longer if not each.startswith("strip.")]
    axes = {"adapter.rank": [1, 2]}
    runs = [RunFolder(Path(point.config["run"])) for point in points_of(axes, given)]
    home = grid_folder(points_of(axes, given), tmp_path / "outputs")
    command = [sys.executable, "-m", "slider_lightning.train", *given, "grid.rank=[1,2]"]
    threads = str(torch.get_num_threads())  # their number decides the order of sums
    process = subprocess.Popen(command, cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": threads})
    # A step is logged after its checkpoint: a kill just between them would lose that line alone.
    while not (home.checkpoints / "last.ckpt").exists() or len(runs[0].read_metrics()) < 5:
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not any(run.manifest.exists() for run in runs)
    train_grid(points_of(axes, given), tmp_path / "outputs")
    killed = [load_slider(run.slider)[0].state_dict() for run in runs]
    assert [row["step"] for row in runs[0].read_metrics()] == list(range(40))
    elsewhere = [each.replace("/outputs", "/again") for each in given]
    train_grid(points_of(axes, elsewhere), tmp_path / "again")
    for point, weights in zip(points_of(axes, elsewhere), killed, strict=True):
        straight = load_slider(RunFolder(Path(point.config["run"])).slider)[0].state_dict()
        assert all(torch.equal(straight[name], tensor) for name, tensor in weights.items())


def test_two_processes_train_the_grid_of_one(overrides, tmp_path) -> None:
    halved = [each.replace("data.batch_size=2", "data.batch_size=1") for each in overrides]
    elsewhere = [each.replace("/outputs", "/pair") for each in halved]
    command = [sys.executable, "-m", "slider_lightning.train", *elsewhere, "trainer=ddp", "grid.rank=[1,2]"]
    process = subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr
    alone = train_grid(points_of({"adapter.rank": [1, 2]}, overrides), tmp_path / "outputs")
    axes = {"adapter.rank": [1, 2]}
    for point, run in zip(points_of(axes, [*elsewhere, "trainer=ddp"]), alone, strict=True):
        assert_same_training(RunFolder(Path(point.config["run"])), run, tolerance=1e-2)


# The module


def joint(backbone: Backbone, etas: Sequence[float]) -> tuple[SliderModule, JointLoader]:
    embeds = ConceptEmbeds.encode(backbone, CONCEPT)
    states = rollout_states(backbone, embeds, rollout_noise(backbone, 1, [0, 1]), ROLLOUT)
    sliders = [Slider(backbone.unet, AdapterConfig(rank=2, alpha=2.0), seed=number) for number in range(len(etas))]
    tasks = [TextTask(backbone, embeds.target, TextObjective(eta=eta), OptimizerConfig()) for eta in etas]
    draws: dict[str, Any] = {"num_steps": 10, "share": Share(2), "scale_range": ScaleRange()}
    loaders = [StateLoader(CachedStates(states), seed=number, **draws) for number in range(len(etas))]
    return SliderModule(backbone, SliderBank(backbone.unet, sliders), tasks), JointLoader(loaders)


def test_one_forward_holds_all_sliders_and_no_gradient_crosses(backbone) -> None:
    module, loader = joint(backbone, [1.0, 30.0, 2.0])
    before = backbone.sample_forwards
    losses = module.losses(loader.batch(0))
    assert backbone.sample_forwards - before == 3 * 2 * 2
    losses[1].backward()
    moved = [sum(float(p.grad.abs().sum()) for p in s.parameters() if p.grad is not None) for s in module.bank.sliders]
    assert moved[1] > 0
    assert moved[0] == moved[2] == 0


def test_gradients_are_clipped_slider_by_slider(backbone) -> None:
    module, loader = joint(backbone, [1e-3, 300.0])
    module.losses(loader.batch(0)).sum().backward()
    optimizer = torch.optim.AdamW([{"params": list(slider.parameters())} for slider in module.bank.sliders])

    def norms() -> list[float]:
        grads = [torch.cat([p.grad.flatten() for p in slider.parameters()]) for slider in module.bank.sliders]
        return [float(grad.norm()) for grad in grads]

    small, large = norms()
    assert small < 0.5 * large
    module.configure_gradient_clipping(optimizer, (small + large) / 2)
    assert norms() == pytest.approx([small, (small + large) / 2], rel=1e-4)


def test_there_is_one_task_per_slider(backbone) -> None:
    module, _ = joint(backbone, [1.0, 2.0])
    with pytest.raises(ValueError, match="one task per slider"):
        SliderModule(backbone, module.bank, module.tasks[:1])


# The points


def test_a_point_is_what_its_overrides_compose(overrides) -> None:
    axes = axes_of(composed("train", *overrides, "grid.rank=[1,4]", "grid.concept=[age,smile]"))
    assert axes == {"adapter.rank": [1, 4], "concept": ["age", "smile"]}
    points = points_of(axes, [*overrides, "grid.rank=[1,4]", "adapter.rank=7"])
    assert [point.overrides for point in points] == [
        {"adapter.rank": rank, "concept": concept} for rank in (1, 4) for concept in ("age", "smile")
    ]
    assert points[3].config == composed("train", *overrides, "adapter.rank=4", "concept=smile")


@pytest.mark.parametrize("value", [1, 2.5, 1e-4, "age", True, None, "two words", "it's = [odd]", ["a b", 2]])
def test_values_pass_through_the_command_line(value, overrides) -> None:
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        from hydra import compose

        assert compose("train", ["experiment=age", f"+beside={override_text(value)}"]).beside == value


@pytest.mark.parametrize(
    ("axis", "match"),
    [
        ("+grid.eto=[1]", "Unknown axis grid.eto"),
        ("grid.eta=3", "grid.eta"),
        ("grid.eta=[]", "different values"),
        ("grid.eta=[1,1]", "different values"),
        ("grid.eta=[{a:1}]", "plain values"),
    ],
)
def test_a_wrong_axis_is_one_sentence(axis, match) -> None:
    with pytest.raises(InputError, match=match):
        axes_of(composed("train", "experiment=age", axis))


def test_what_cannot_be_trained_together_is_refused(overrides, tmp_path) -> None:
    with pytest.raises(InputError, match="the same"):
        train_grid(points_of({"objective.eta": [1, 1.0]}, overrides), tmp_path)
    with pytest.raises(InputError, match="share their trainer"):
        train_grid(points_of({"trainer.max_steps": [1, 2]}, overrides), tmp_path)
    with pytest.raises(InputError, match="data=teacher"):
        train_grid(points_of({"objective.eta": [1, 2]}, [*overrides[:-7], "data=rollout"]), tmp_path)
