"""The board's page, served for real: dragged in a browser, and asked through its API."""

import json
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from selenium import webdriver

from experiments.benchmarks import board as benchmark
from slider_lightning.board.serving import served
from slider_lightning.errors import InputError
from tests.board_sliders import STEPS, small_desk
from tests.pages_browser import chromium, dress, low_contrast

gradio_client = pytest.importorskip("gradio_client")
PATIENCE = 20.0


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def board(pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A served board of two sliders."""
    folder = tmp_path_factory.mktemp("board")
    desk = small_desk(pipeline_folder, folder, f"port={free_port()}", "preview_steps=2")
    with served(desk) as blocks:
        yield blocks
    assert not Path(blocks.GRADIO_CACHE).exists(), "its files go with it"


@pytest.fixture(scope="module")
def client(board: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return gradio_client.Client(
        board.local_url, verbose=False, analytics_enabled=False, download_files=tmp_path_factory.mktemp("downloads")
    )


def ask(client: Any, *scales: float, prompt: str = "a person", seed: int = 1, api_name: str = "/render") -> tuple:
    return client.predict(*scales, prompt, seed, STEPS, 3.0, 600, False, api_name=api_name)


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), np.int16)


def test_a_drag_through_the_api_answers_with_other_images(client: Any) -> None:
    previews = [ask(client, scale, 0.0, api_name="/preview") for scale in (0.5, 1.0, 1.5)]
    first, *others = [pixels(image) for image, _, _ in previews]
    assert all(np.abs(other - first).max() > 1 for other in others)
    assert all(note.startswith("2 steps") for _, _, note in previews)
    assert [("[[1,0]]" in command) for _, command, _ in previews] == [False, True, False]


def test_scale_zero_is_the_base_image_exactly(client: Any) -> None:
    image, base, _, file, note = ask(client, 0.0, 0.0)
    moved, same, *_ = ask(client, 0.0, -1.5)
    assert note.startswith(f"{STEPS} steps")
    assert (pixels(image) == pixels(base)).all()
    assert (pixels(same) == pixels(base)).all()
    assert np.abs(pixels(moved) - pixels(base)).max() > 5
    with Image.open(file) as saved:
        assert json.loads(saved.text["slider_lightning"])["seed"] == 1


def test_an_error_is_told_and_the_board_stays_alive(client: Any) -> None:
    for api_name in ("/render", "/preview"):
        with pytest.raises(gradio_client.exceptions.AppError, match="Expected a prompt of at most 77 tokens"):
            ask(client, 0.0, 0.0, prompt="person " * 90, api_name=api_name)
    assert ask(client, 1.0, 1.0)[0]


def test_the_board_serves_this_machine_and_its_own_files_alone(board: Any) -> None:
    assert (board.server_name, board.share_url, board.analytics_enabled) == ("127.0.0.1", None, False)
    inside = httpx.get(f"{board.local_url}config")
    assert inside.status_code == 200
    for path in (Path(__file__).resolve(), Path("/etc/passwd"), Path(board.GRADIO_CACHE).parent):
        assert httpx.get(f"{board.local_url}gradio_api/file={path}").status_code in (403, 404)
    foreign = httpx.get(f"{board.local_url}config", headers={"Origin": "http://example.org"})
    assert "access-control-allow-origin" not in foreign.headers


def test_a_port_that_is_taken_is_told(board: Any, pipeline_folder: Path, tmp_path: Path) -> None:
    desk = small_desk(pipeline_folder, tmp_path, f"port={board.server_port}")
    with pytest.raises(InputError, match="another port"), served(desk):
        pass


def test_the_benchmark_drags_and_counts_what_is_not_computed_again(
    pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = small_desk(pipeline_folder, tmp_path)
    overrides = [
        f"model.path={pipeline_folder}",
        f"sliders=[{desk.config.sliders[0]}]",
        f"paths.outputs={tmp_path}",
        f"port={free_port()}",
        "sampler.num_inference_steps=4",
        "preview_steps=2",
        "drag.positions=3",
        "drag.rests=2",
    ]
    monkeypatch.setattr(sys, "argv", ["board", *overrides])
    benchmark.main()
    found = json.loads((tmp_path / "benchmarks" / "board.json").read_text())
    assert {kind: len(seconds) for kind, seconds in found["answers"].items()} == {"first": 1, "preview": 3, "rest": 2}
    # One of four steps lies above 750.
    assert found["memory"]["sample_forwards"] == {"remembered": [6, 6], "anew": [16, 16]}
    assert "median s" in capsys.readouterr().out


@pytest.fixture(scope="module")
def browser(board: Any) -> Iterator[Any]:
    """A browser on the board's page, its first image shown."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        chromium(Path(profile), "performance") as driver,
    ):
        driver.get(board.local_url)
        until(lambda: shown(driver, "edited"))
        yield driver


def until(condition: Callable[[], Any]) -> Any:
    """What a condition gives once it holds."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    pytest.fail("the page did not change in time")


def shown(browser: Any, name: str) -> str | None:
    """The address of an image on the page; files are named by their content."""
    return browser.execute_script(f"return document.querySelector('#{name} img')?.src")


def knob(browser: Any, number: int) -> Any:
    return browser.find_element("css selector", f"#knob-{number} input[type=range]")


def rested(browser: Any) -> str | None:
    """The command, once it is that of an image in full."""
    command = browser.find_element("css selector", "#command textarea").get_attribute("value")
    return command if f"num_inference_steps={STEPS} " in command else None


def scales_of(command: str) -> list[float]:
    return json.loads(command.split("scales=[")[1].split("]'")[0])


def test_dragging_a_knob_changes_the_picture_beside_the_base(browser: Any) -> None:
    before, base = shown(browser, "edited"), shown(browser, "base")
    drag = webdriver.ActionChains(browser, duration=20).move_to_element(knob(browser, 0)).click_and_hold()
    for _ in range(8):
        drag.move_by_offset(12, 0).pause(0.05)
    drag.perform()
    until(lambda: shown(browser, "edited") != before)
    webdriver.ActionChains(browser).release().perform()
    at = float(knob(browser, 0).get_property("value"))
    assert at > 0.5
    until(lambda: (command := rested(browser)) and scales_of(command) == [at, 0.0])
    assert shown(browser, "base") == base


def test_keys_turn_a_knob_and_two_sliders_compose(browser: Any) -> None:
    before, at = shown(browser, "edited"), float(knob(browser, 0).get_property("value"))
    knob(browser, 1).send_keys(*[webdriver.Keys.ARROW_LEFT] * 10)
    until(lambda: (command := rested(browser)) and scales_of(command) == [at, -0.5])
    until(lambda: shown(browser, "edited") != before)


def test_units_keep_the_scales_and_end_where_effects_were_measured(browser: Any) -> None:
    browser.find_element("css selector", "#calibrated input").click()
    until(lambda: knob(browser, 1).get_property("max") == "1")
    assert float(knob(browser, 1).get_property("value")) == -0.25
    until(lambda: (command := rested(browser)) and scales_of(command)[1] == -0.5)
    browser.find_element("css selector", "#calibrated input").click()
    until(lambda: knob(browser, 1).get_property("max") == "3")
    assert float(knob(browser, 1).get_property("value")) == -0.5


def test_another_seed_is_another_base(browser: Any) -> None:
    base = shown(browser, "base")
    browser.find_element("id", "next").click()
    until(lambda: shown(browser, "base") != base)
    browser.find_element("id", "previous").click()
    until(lambda: shown(browser, "base") == base)


def test_the_page_asks_nothing_outside_and_logs_no_error(browser: Any, board: Any) -> None:
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [
        message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"
    ]
    asked = [url for url in requests if url.startswith(("http:", "https:", "ws:", "wss:"))]
    assert len(asked) > 10
    assert [url for url in asked if not url.startswith(board.local_url)] == []
    assert browser.get_log("browser") == []
    prompt = browser.find_element("css selector", "#prompt textarea")
    prompt.send_keys(" person" * 90, webdriver.Keys.ENTER)
    message = ".toast-body, [data-testid=toast-body]"
    until(lambda: any("at most 77 tokens" in toast.text for toast in browser.find_elements("css selector", message)))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_its_texts_can_be_read(browser: Any, board: Any, scheme: str) -> None:
    dress(browser, scheme)
    browser.get(board.local_url)
    until(lambda: shown(browser, "edited"))
    assert low_contrast(browser) == []
