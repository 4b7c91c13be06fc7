"""Where the service of W&B is away, refuses or stops, a run goes on, and all that was logged is kept to be uploaded."""

import logging
import shlex
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import wandb

from slider_lightning.train import train
from slider_lightning.training import RunCard, RunFolder, WandbConfig, open_runs
from slider_lightning.training.wandb_results import Origin, use_origin
from tests.conftest import composed
from tests.wandb_file import LoggedRun, logged_runs
from tests.wandb_service import HANG, serving

KEY = "0123456789abcdef" * 2 + "12345678"
CLOSED = -1
CARD = RunCard("age-0123", "age", None, ("age",), {"seed": 0})


@pytest.fixture(autouse=True)
def _fresh_wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """W&B reads its environment once per session."""
    wandb.teardown()
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    yield
    wandb.teardown()


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def service_url(status: int, stack: ExitStack) -> str:
    if status == CLOSED:
        return f"http://127.0.0.1:{closed_port()}"
    return stack.enter_context(serving(status)).url


def command_in(text: str) -> list[str]:
    """The upload command that a sentence ends with."""
    return shlex.split(text[text.rindex("wandb sync") :])


def ours(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What this project says; W&B's own loggers say more."""
    return [record for record in caplog.records if record.name.startswith("slider_lightning")]


@pytest.mark.parametrize("status", [CLOSED, 500, 401, HANG])
def test_runs_go_on_offline_where_the_service_is_away(
    status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cards = [(RunFolder(tmp_path / str(n)), RunCard(f"age-{n}", "age", None, (), {})) for n in range(2)]
    with ExitStack() as stack, caplog.at_level(logging.INFO):
        monkeypatch.setenv("WANDB_BASE_URL", service_url(status, stack))
        with open_runs(WandbConfig(init_timeout=1.0), cards, resume=False) as runs:
            for number, run in enumerate(runs):
                run.log({"train/loss": 0.5 + number}, step=3)
    warnings = [record.getMessage() for record in ours(caplog) if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "W&B could not be reached" in warnings[0]
    logged = sorted(logged_runs(tmp_path), key=lambda each: each.run["run_id"])
    assert [each.run["run_id"] for each in logged] == ["age-0", "age-1"]  # the failed beginning has left nothing
    assert [each.history[0]["train/loss"] for each in logged] == [0.5, 1.5]
    assert command_in(warnings[0]) == ["wandb", "sync", str(logged[0].path.parent)]
    told = [record.getMessage() for record in caplog.records if "kept offline; upload" in record.getMessage()]
    assert str(logged[1].path.parent) in told[-1] + told[-2]


def test_a_training_is_whole_without_the_service_and_no_key_is_written(
    pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{closed_port()}")
    overrides = ("trainer.max_steps=4", "trainer.progress_bar=false", "trainer.log_every_n_steps=1", "strip=none")
    data = ("data.source.num_rollouts=1", "data.source.rollout.num_inference_steps=3", "data.batch_size=2")
    places = (f"model.path={pipeline_folder}", f"run={tmp_path}/run", f"paths.cache={tmp_path}/cache")
    logger = ("logger=wandb", "logger.init_timeout=1")
    run = train(composed("train", "experiment=age", *overrides, *data, *places, *logger))
    for path in (run.config, run.slider, run.metrics, run.summary, run.manifest):
        assert path.is_file(), path.name
    (logged,) = logged_runs(run.path)
    assert logged.path.parent.name.startswith("offline-run-")
    assert {"slider", "base-model", "teacher-cache"} == set(logged.artifacts)
    for path in run.path.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("status", [500, HANG])
def test_what_is_logged_while_the_service_goes_away_is_kept(
    status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunFolder(tmp_path)
    with serving(200) as service:
        monkeypatch.setenv("WANDB_BASE_URL", service.url)
        config = WandbConfig(init_timeout=10.0, finish_timeout=1.0)
        with open_runs(config, [(run, CARD)], resume=True) as (logged,):
            assert not logged.inner.offline
            service.status = status
            logged.log({"train/loss": 0.25}, step=7)
            began = time.monotonic()
            use_origin(logged, Origin("base-model", "tiny", "00ff", {"name": "tiny"}))
            # Well below the 10 s that one question to the service would wait.
            assert time.monotonic() - began < 5
    (record,) = [record for record in ours(caplog) if record.levelno == logging.WARNING]
    assert "could not be reached to the end" in record.getMessage()
    *command, folder = command_in(record.getMessage())
    assert command == ["wandb", "sync", "--include-online"]
    (path,) = Path(folder).glob("run-*.wandb")
    kept = LoggedRun(path)
    assert kept.history[0]["train/loss"] == 0.25
    assert kept.artifacts["base-model"]["use_after_commit"] is True
    assert "RunResumeStatus" in " ".join(service.asked)  # asked for the run that it goes on in


def test_without_a_key_a_run_goes_on_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{closed_port()}")
    with open_runs(WandbConfig(), [(RunFolder(tmp_path), CARD)], resume=False) as (run,):
        assert run.inner.offline
    assert "wandb login" in caplog.text


def test_a_run_that_the_environment_disables_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with open_runs(WandbConfig(), [(RunFolder(tmp_path), CARD)], resume=False) as (run,):
        run.log({"train/loss": 1.0}, step=0)
        use_origin(run, Origin("base-model", "tiny", "00ff", {"name": "tiny"}))
    assert not logged_runs(tmp_path)
    assert not ours(caplog)


def test_the_mode_of_the_environment_is_heeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    with open_runs(WandbConfig(), [(RunFolder(tmp_path), CARD)], resume=False) as (run,):
        run.log({"train/loss": 1.0}, step=0)
        assert not run.lost
    assert logged_runs(tmp_path)[0].history[0]["train/loss"] == 1.0
