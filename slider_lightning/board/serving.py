"""Serving the board: on this machine alone unless another address is asked for, and without any outside request."""

from __future__ import annotations

import importlib
import ipaddress
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from slider_lightning.board.desk import BoardConfig, Desk
from slider_lightning.board.doorway import Doorway, Visitors, own_hosts
from slider_lightning.board.style import FONT, FONT_MONO, style_sheet
from slider_lightning.errors import InputError

if TYPE_CHECKING:
    from gradio import Blocks

# Read by Gradio: when it is imported, and when pages are made.
_ANALYTICS, _FILES = "GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR"


@contextmanager
def served(desk: Desk) -> Iterator[Blocks]:
    """Serve a desk until the block ends; its `local_url` is where.

    Raises:
        InputError: if Gradio is not installed, the port is taken, or other machines could enter without a password.
    """
    refuse_if_open(desk.config)
    # A folder of its own, which goes with the board, instead of one that all users of the machine share.
    with _ended_by_sigterm(), tempfile.TemporaryDirectory(prefix="slider-board-") as name:
        folder = Path(name)
        with _environment({_ANALYTICS: "False", _FILES: str(folder / "gradio")}), _running(desk, folder) as blocks:
            yield blocks


def refuse_if_open(config: BoardConfig) -> None:
    """Refuse an address that other machines reach without a password.

    Raises:
        InputError: if the host is no loopback address and auth is missing.
    """
    if config.auth is None and not is_loopback(config.host):
        raise InputError(
            f"Expected auth=USER:PASSWORD for host={config.host}, which other machines reach, but got none; set it, or "
            "host=127.0.0.1 for this machine alone."
        )


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM leave the block as any exception does, so that its files go; other threads get no signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one would cut the cleaning short
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def is_loopback(host: str) -> bool:
    """Whether an address is reached from its own machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def _running(desk: Desk, folder: Path) -> Iterator[Blocks]:
    visitors = Visitors()
    blocks = _gradio_page(desk, folder / "images", visitors)
    try:
        _launch(blocks, desk, visitors)
        yield blocks
    finally:
        blocks.close(verbose=False)


def _gradio_page(desk: Desk, folder: Path, visitors: Visitors) -> Blocks:
    try:
        page = importlib.import_module("slider_lightning.board.page")
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise InputError(
            "Expected Gradio for the board, but it is not installed; run pip install slider_lightning[board]."
        ) from error
    blocks: Blocks = page.Page(desk, folder, visitors).blocks
    return blocks


def _launch(blocks: Blocks, desk: Desk, visitors: Visitors) -> None:
    from gradio.themes import Base
    from starlette.middleware import Middleware

    config = desk.config
    # Under which names other machines reach this one is not known; there the password keeps strangers out.
    hosts = own_hosts(config.host, config.port) if is_loopback(config.host) else None
    try:
        blocks.launch(
            server_name=desk.config.host,
            server_port=desk.config.port,
            share=False,
            auth=config.credentials,
            app_kwargs={"middleware": [Middleware(Doorway, hosts=hosts, visitors=visitors)]},
            prevent_thread_lock=True,
            quiet=True,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            enable_monitoring=False,
            run_history=False,
            footer_links=[],
            # Fonts by name are the system's; Gradio's own theme would ask for files. Its notes are too pale on white.
            theme=Base(font=FONT, font_mono=FONT_MONO).set(body_text_color_subdued="*neutral_600"),
            css=style_sheet(desk.renderer.backbone.resolution),
        )
    except OSError as error:
        raise InputError(
            f"Expected port {desk.config.port} of {desk.config.host} to be free, but got: {error}; choose another port."
        ) from error


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Environment variables for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
