"""Sweeps as commands: every launcher keeps its points, a failure is alone and named, a preempted job goes on."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hydra import compose, initialize_config_dir
from joblib.externals.loky import get_reusable_executor
from lightning.pytorch.plugins.environments import SLURMEnvironment
from optuna import load_study

from evaluation.search import main as search
from evaluation.sweep import report_sweep
from evaluation.sweep_points import measured_points, read_sweep
from evaluation.sweep_report import pareto_front, quantities
from slider_lightning.adapters import load_slider
from slider_lightning.config import CONF, register_resolvers
from slider_lightning.errors import InputError
from slider_lightning.multirun import FAILED, FINISHED, UNFINISHED, SweepPoint, failure_sentence, read_points
from slider_lightning.train import ONE_PROCESS_LAUNCHERS, check_launcher, ensure_trained
from slider_lightning.train import main as sweep
from slider_lightning.training import RunFolder, TrainerConfig, build_trainer
from tests.conftest import composed


@pytest.fixture
def quick(pipeline_folder: Path, tmp_path: Path) -> list[str]:
    """The overrides of a quick training on the smallest model."""
    return [
        "experiment=age",
        f"model.path={pipeline_folder}",
        f"paths.outputs={tmp_path}/outputs",
        f"paths.cache={tmp_path}/cache",
        "trainer.max_steps=2",
        "trainer.progress_bar=false",
        "data.source.num_rollouts=1",
        "data.source.rollout.num_inference_steps=3",
        "data.batch_size=1",
        "sampler.num_inference_steps=3",
        "strip=none",
        "evaluation.prompts.seeds_per_prompt=2",
        "evaluation.scales=[-1,0,1]",
    ]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """Runs a command in a folder of its own and gives its exit status."""

    def run(main: Callable[[], None], *arguments: str) -> int:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
        # Their number decides the order of sums.
        monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
        monkeypatch.setattr(sys, "argv", ["command", *arguments])
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    return run


def sweeps(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "outputs" / "sweeps").iterdir())


def by_rank(folder: Path) -> dict[str, SweepPoint]:
    return {point.overrides["adapter.rank"]: point for point in read_points(folder)}


def test_a_failure_is_named_and_finished_points_are_taken_as_they_are(command, quick, tmp_path, capfd) -> None:
    assert command(sweep, "-m", *quick, "adapter.rank=1,-1,2") == 2
    told = capfd.readouterr().err
    assert "adapter.rank=-1" in told.splitlines()[-1]
    assert "1 did not" in told.splitlines()[-1]
    (first,) = sweeps(tmp_path)
    points = by_rank(first)
    assert [points[rank].status for rank in ("1", "-1", "2")] == [FINISHED, FAILED, FINISHED]
    assert "rank" in points["-1"].error
    assert points["1"].run == composed("train", *quick, "adapter.rank=1")["run"], "where the command alone puts it"
    before = {path: path.stat().st_mtime_ns for path in Path(points["1"].run).rglob("*")}

    assert command(sweep, "-m", *quick, "adapter.rank=1,2") == 0
    assert len(sweeps(tmp_path)) == 2, "every sweep has a folder of its own"
    assert {path: path.stat().st_mtime_ns for path in Path(points["1"].run).rglob("*")} == before

    report_sweep(composed("sweep", f"folder={first}"))
    table = (first / "table.md").read_text()
    assert "failed" in table
    assert "target shift" in table
    assert (first / "curve.png").exists()


def test_joblib_keeps_the_others(command, quick, tmp_path) -> None:
    launched = ("hydra/launcher=slider_joblib", "hydra.launcher.n_jobs=2")
    assert command(sweep, "-m", *quick, "adapter.rank=-1,1,2", *launched) == 2
    assert sum("LokyProcess" in " ".join(each.cmdline()) for each in psutil.Process().children()) == 2
    get_reusable_executor().shutdown(wait=True)
    points = by_rank(*sweeps(tmp_path))
    assert [points[rank].status for rank in ("-1", "1", "2")] == [FAILED, FINISHED, FINISHED]
    assert all(RunFolder(Path(points[rank].run)).manifest.is_file() for rank in ("1", "2"))


def test_a_grid_in_a_sweep_is_reported_point_by_point(command, quick, tmp_path) -> None:
    assert command(sweep, "-m", *quick, "seed=3", "grid.rank=[1,2]") == 0
    (folder,) = sweeps(tmp_path)
    (listed,) = read_points(folder)
    grid = json.loads((Path(listed.run) / "grid.json").read_text())
    wanted = [composed("train", *quick, "seed=3", f"adapter.rank={rank}")["run"] for rank in (1, 2)]
    assert [each["run"] for each in grid["runs"]] == wanted
    for reported, given in ((folder, ()), (Path(listed.run), ("evaluate=false",))):
        report_sweep(composed("sweep", f"folder={reported}", *given))
        table = (reported / "table.csv").read_text()
        assert table.count("finished") == 2
        assert "adapter.rank" in table
        assert "seed" not in table.splitlines()[0], "both have the same"
        assert (reported / "curve.png").exists()


def preempt(checkpoint: Path, found: list[int]) -> None:
    """Sends the signal that SLURM sends to the job that writes a checkpoint, as soon as it has written one."""
    while not checkpoint.exists():
        time.sleep(0.02)
    for process in psutil.Process().children(recursive=True):
        if "submitit.core._submit" in process.cmdline():
            os.kill(process.pid, signal.SIGUSR2)
            found.append(process.pid)


def test_a_preempted_job_comes_back_and_ends_as_if_nothing_had_been(command, quick, tmp_path) -> None:
    long = [*quick, "trainer.max_steps=40", "trainer.checkpoint_every_n_steps=5", "adapter.rank=2"]
    config: dict[str, Any] = composed("train", *long)
    preempted: list[int] = []
    watcher = threading.Thread(
        target=preempt, args=(Path(config["run"]) / "checkpoints" / "last.ckpt", preempted), daemon=True
    )
    watcher.start()
    assert command(sweep, "-m", *long, "hydra/launcher=slider_submitit_local") == 0
    assert preempted
    (log,) = (sweeps(tmp_path)[0] / ".submitit").rglob("*_log.err")
    assert "preempted" in log.read_text()
    (point,) = read_points(sweeps(tmp_path)[0])
    assert point.status == FINISHED
    weights = load_slider(RunFolder(Path(point.run)).slider)[0].state_dict()
    again = ensure_trained(composed("train", *long, f"paths.outputs={tmp_path}/undisturbed"))
    assert again.path != Path(point.run)
    other = load_slider(again.slider)[0].state_dict()
    assert all(torch.equal(other[name], tensor) for name, tensor in weights.items())


def test_a_search_trades_shift_against_interference_and_goes_on(command, quick, tmp_path) -> None:
    seeded = ("hydra.sweeper.sampler.seed=0", "measure.evaluation.prompts.seeds_per_prompt=2")
    space = (
        "hydra.sweeper.n_trials=2",
        "hydra.sweeper.params={adapter.rank:'choice(1,2)'}",
        "optimizer.warmup_steps=0,1",
    )
    assert command(search, *quick, *seeded, *space) == 0
    folder = tmp_path / "outputs" / "searches" / "age"
    assert (folder / "study.db").exists()
    assert command(search, *quick, *seeded, *space, "hydra.sweeper.n_trials=1") == 0
    study = load_study("target_shift_and_interference", f"sqlite:///{folder}/study.db")
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert len(study.trials) == 3
    assert {point.status for point in read_points(folder)} == {FINISHED}

    points = measured_points(read_sweep(folder), {}, False, lambda done, total: None)
    front = {(q["target shift"].mean, q["interference"].mean) for q in map(quantities, pareto_front(points))}
    assert front == {tuple(trial.values) for trial in study.best_trials}
    report_sweep(composed("sweep", f"folder={folder}", "evaluate=false"))
    assert (folder / "table.csv").read_text().count("yes") == len(front)
    assert (folder / "trade_off.png").exists()
    assert command(search, *quick, *seeded, *space, "seed=1", "hydra.sweeper.n_trials=1") == 2, "another training"


@pytest.mark.parametrize("launcher", sorted(path.stem for path in (CONF / "hydra" / "launcher").glob("*.yaml")))
def test_every_launcher_composes(launcher: str) -> None:
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", ["experiment=age", f"hydra/launcher={launcher}"], return_hydra_config=True)
    assert config.hydra.launcher._target_.startswith("hydra_plugins.")


def test_the_queue_gets_jobs_back_and_lightning_leaves_them_to_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        launcher = compose("train", ["experiment=age", "hydra/launcher=slider_slurm"], return_hydra_config=True)
    launcher = launcher.hydra.launcher
    assert launcher.additional_parameters.requeue
    assert launcher.max_num_timeout > 0
    assert launcher.gpus_per_node == launcher.tasks_per_node == 1

    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    config = TrainerConfig(max_steps=1, accelerator="cpu", progress_bar=False)
    trainer = build_trainer(config, RunFolder(tmp_path), [], [])
    assert isinstance(trainer._accelerator_connector.cluster_environment, SLURMEnvironment)
    before = signal.getsignal(signal.SIGUSR2), signal.getsignal(signal.SIGUSR1)
    trainer._signal_connector.register_signal_handlers()
    assert (signal.getsignal(signal.SIGUSR2), signal.getsignal(signal.SIGUSR1)) == before
    trainer._signal_connector.teardown()


def test_points_of_several_processes_need_a_launcher_that_starts_them() -> None:
    config = {"trainer": {"devices": 2, "num_nodes": 1}}
    check_launcher(config, "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher")
    check_launcher(config, "hydra._internal.core_plugins.basic_launcher.BasicLauncher")
    for name in ONE_PROCESS_LAUNCHERS:
        check_launcher({"trainer": {"devices": 1, "num_nodes": 1}}, f"hydra_plugins.{name}")
        with pytest.raises(InputError, match="one process per point"):
            check_launcher(config, f"hydra_plugins.{name}")


def test_failures_are_told_in_one_sentence() -> None:
    finished = SweepPoint({"seed": "0", "adapter.rank": "1"}, "run", FINISHED)
    bad = SweepPoint({"seed": "0", "adapter.rank": "-1"}, "", FAILED, "Expected a rank.")
    killed = SweepPoint({"seed": "0", "adapter.rank": "2"}, "", UNFINISHED)
    assert failure_sentence([finished], "outputs/sweeps/x") == ""
    told = failure_sentence([finished, bad, killed], "outputs/sweeps/x")
    assert "adapter.rank=-1 (Expected a rank.); adapter.rank=2 (its process was killed)" in told
    assert "seed" not in told


def test_a_damaged_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "points.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(InputError, match=r"points\.jsonl"):
        read_points(tmp_path)
