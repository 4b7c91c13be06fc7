"""The board against visitors that mean harm: other sites, uploads, numbers that are none, jobs left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from slider_lightning.board.desk import Desk
from slider_lightning.board.doorway import PATIENCE, Visitors, own_hosts
from slider_lightning.board.rendering import Outdated
from slider_lightning.board.serving import served
from slider_lightning.errors import InputError
from tests.board_sliders import small_desk
from tests.test_board_page import free_port

pytest.importorskip("gradio")
INFINITIES = (float("nan"), float("inf"), float("-inf"))


@pytest.fixture(scope="module")
def desk(pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return small_desk(pipeline_folder, tmp_path_factory.mktemp("board"), f"port={free_port()}")


@pytest.fixture(scope="module")
def board(desk: Desk) -> Iterator[Any]:
    with served(desk) as blocks:
        yield blocks


def test_another_host_or_origin_is_refused(board: Any) -> None:
    url, port = f"{board.local_url}config", board.server_port
    own = [f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"]
    foreign = ["evil.example", f"evil.example:{port}", "localhost", f"localhost:{port + 1}", f"localhost.evil:{port}"]
    assert [httpx.get(url, headers={"Host": host}).status_code for host in own] == [200] * 3
    assert [httpx.get(url, headers={"Host": host}).status_code for host in foreign] == [403] * 5
    origins = ["http://evil.example", "null", f"http://127.0.0.1:{port + 1}", f"http://evil.example:{port}"]
    assert [httpx.get(url, headers={"Origin": origin}).status_code for origin in origins] == [403] * 4
    assert httpx.get(url, headers={"Origin": f"http://127.0.0.1:{port}"}).status_code == 200
    assert own_hosts("::1", 80) >= {"[::1]", "[::1]:80"}


def test_uploads_are_refused(board: Any) -> None:
    before = sorted(Path(board.GRADIO_CACHE).rglob("*"))
    for path in ("gradio_api/upload", "upload", "gradio_api/upload/"):
        assert httpx.post(f"{board.local_url}{path}", files={"files": ("a.html", b"<script>")}).status_code == 403
    assert sorted(Path(board.GRADIO_CACHE).rglob("*")) == before


def test_a_password_is_asked_for(pipeline_folder: Path, tmp_path: Path) -> None:
    desk = small_desk(pipeline_folder, tmp_path, f"port={free_port()}", "auth='me:a:b'")
    with served(desk) as blocks, httpx.Client(base_url=blocks.local_url) as client:
        assert client.get("config").status_code == 401
        wrong = client.post("login", data={"username": "me", "password": "a"})
        assert wrong.status_code == 400
        assert client.post("login", data={"username": "me", "password": "a:b"}).status_code == 200
        assert client.get("config").status_code == 200


@pytest.mark.parametrize("value", INFINITIES)
def test_numbers_that_are_not_finite_are_refused(desk: Desk, value: float) -> None:
    for positions, seed, sampler in (
        ([value, 0.0], 0, desk.sampler),
        ([0.0, 0.0], value, desk.sampler),
        ([0.0, 0.0], 0, None),
    ):
        with pytest.raises(InputError, match="Expected"):
            desk.picture(positions, False, "a", seed, sampler or replace(desk.sampler, guidance_scale=value))


def test_jobs_left_behind_cost_an_honest_visitor_nothing(desk: Desk) -> None:
    backbone, sampler = desk.renderer.backbone, desk.sampler
    left = [desk.picture([1.0, 0.0], False, "a person", seed, sampler) for seed in range(1000, 1300)]
    honest = desk.picture([1.0, 0.5], False, "a person", 999, sampler)
    before = backbone.sample_forwards
    with ThreadPoolExecutor(32) as pool:
        jobs = [pool.submit(desk.show, picture, lambda: True) for picture in left]
        pool.submit(desk.show, honest).result()
        assert {type(job.exception()) for job in jobs} == {Outdated}
    assert honest in desk.renderer
    assert backbone.sample_forwards - before == 2 * sampler.num_inference_steps


def test_a_session_without_a_stream_is_gone_after_a_while() -> None:
    visitors, scope = Visitors(), {"slider_lightning.arrived": time.monotonic()}
    late = {"slider_lightning.arrived": time.monotonic() - PATIENCE - 1}
    assert [visitors.gone("a", each) for each in (scope, late)] == [False, True]
    visitors.opened("a")
    visitors.opened("a")
    visitors.closed("a")
    assert not visitors.gone("a", late)
    visitors.closed("a")
    assert visitors.gone("a", late)


def test_sigterm_leaves_no_folder_behind(desk: Desk, pipeline_folder: Path, tmp_path: Path) -> None:
    port = free_port()
    overrides = [f"sliders=[{desk.config.sliders[0]}]", f"model.path={pipeline_folder}", f"port={port}"]
    command = [sys.executable, "-m", "slider_lightning.board", *overrides, f"paths.outputs={tmp_path}/outputs"]
    (tmp_path / "temporary").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    with subprocess.Popen(command, env=environment) as process:
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/config").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.2)
        assert list((tmp_path / "temporary").glob("slider-board-*"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
    assert not list((tmp_path / "temporary").glob("slider-board-*"))
