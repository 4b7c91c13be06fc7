"""Seconds until the board answers: `python -m experiments.benchmarks.board sliders=[RUN,...] [drag.positions=20 ...]`.

A client drags every slider through its range, one position after another, and waits for each answer as a page does:
through the server, until it holds the image's file. Then a board that remembers what no scale changes and one that
computes everything anew make the same pairs of images, measurements interleaved.
"""

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.table import Table

from experiments.benchmarks.reporting import write_report
from slider_lightning.backbone import SamplerConfig
from slider_lightning.board.__main__ import make_desk
from slider_lightning.board.desk import Desk
from slider_lightning.board.rendering import Picture, Renderer
from slider_lightning.board.serving import served
from slider_lightning.config import build
from slider_lightning.entry import entry_point
from slider_lightning.errors import InputError
from slider_lightning.generation import ProgressCallback

Ask = Callable[..., Any]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class DragConfig:
    """What is measured.

    Args:
        positions: of all sliders during the drag, at least 1.
        rests: positions that are shown in full, at least 1.

    Raises:
        InputError: if a number is too small.
    """

    positions: int = 40
    rests: int = 10

    def __post_init__(self) -> None:
        if self.positions < 1 or self.rests < 1:
            raise InputError("Expected drag.positions and drag.rests to be at least 1; raise them.")


def drag_positions(desk: Desk, count: int) -> list[list[float]]:
    """Positions of a drag, (count, sliders): all sliders at once, each position once, none in the middle."""
    ranges = [knob.range(False) for knob in desk.knobs]
    # By a quarter, since a slider in the middle of its range is off as a rule.
    parts = [(index + 0.25) / count for index in range(count)]
    # The second slider goes the other way, and so on: they need not agree.
    ways = [(part, 1 - part) for part in parts]
    return [
        [ends.lowest + way[number % 2] * (ends.highest - ends.lowest) for number, ends in enumerate(ranges)]
        for way in ways
    ]


def timed_answers(ask: Ask, desk: Desk, rows: Sequence[Sequence[float]], api_name: str) -> list[float]:
    """Seconds of each answer of the board at these positions of its sliders."""
    sampler: SamplerConfig = desk.sampler
    others = (sampler.num_inference_steps, sampler.guidance_scale, sampler.start_timestep, False)
    seconds = []
    for row in rows:
        started = time.perf_counter()
        ask(*row, desk.config.prompt, desk.config.seed, *others, api_name=api_name)
        seconds.append(time.perf_counter() - started)
    return seconds


def compare_memory(desk: Desk, pictures: Sequence[Picture], progress: Progress | None = None) -> dict[str, Any]:
    """Seconds and sample-forwards of a picture and its base, with and without what is remembered.

    Args:
        desk: whose model and sliders are used; its own renderer is left as it is.
        pictures: of one prompt and seed; the first one warms up and fills what is remembered.
        progress: called as (done, total) after every pair of images.

    Returns:
        "seconds" and "sample_forwards" of each picture but the first, by side.
    """
    sliders = list(desk.renderer.bank.sliders)
    desk.renderer.bank.detach()
    sides = {
        "remembered": Renderer(desk.renderer.backbone, sliders),  # type: ignore[arg-type]
        "anew": Renderer(desk.renderer.backbone, sliders, predictions=0, images=0),  # type: ignore[arg-type]
    }
    found: dict[str, dict[str, list[float]]] = {"seconds": {}, "sample_forwards": {}}
    for done, picture in enumerate(pictures):
        for name, side in sides.items():
            side.bank.attach()
            before, started = side.backbone.sample_forwards, time.perf_counter()
            side.render(picture.base)
            side.render(picture)
            elapsed = time.perf_counter() - started
            side.bank.detach()
            if done:
                found["seconds"].setdefault(name, []).append(elapsed)
                found["sample_forwards"].setdefault(name, []).append(side.backbone.sample_forwards - before)
        if progress is not None:
            progress(done + 1, len(pictures))
    desk.renderer.bank.attach()
    return found


def measure(desk: Desk, ask: Ask, config: DragConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Seconds of the board's answers, and what remembering saves.

    Args:
        desk: behind the served board.
        ask: calls the served board.
        config: what is measured.
        progress: for the comparison, called as (done, total).

    Returns:
        "answers", seconds by kind: "first" of a prompt and seed with its base, "preview" while dragging, "rest" in
        full; and what `compare_memory` finds as "memory".
    """
    still = [[0.0] * len(desk.knobs)]
    dragged, rests = drag_positions(desk, config.positions), drag_positions(desk, config.rests)
    answers = {
        "first": timed_answers(ask, desk, still, "/render"),
        "preview": timed_answers(ask, desk, dragged, "/preview"),
        "rest": timed_answers(ask, desk, rests, "/render"),
    }
    pictures = [
        desk.picture(row, False, desk.config.prompt, desk.config.seed, desk.sampler)
        for row in drag_positions(desk, config.rests + 1)
    ]
    return {"answers": answers, "memory": compare_memory(desk, pictures, progress)}


def answer_table(result: dict[str, Any], desk: Desk) -> Table:
    """Median and worst seconds of every kind of answer."""
    few, full = desk.config.preview_steps, desk.sampler.num_inference_steps
    titles = {"first": f"first image and base, {full} steps", "preview": f"drag, {few} steps"}
    titles["rest"] = f"rest, {full} steps"
    lines = Table("answer", "n", "median s", "worst s", title=f"{len(desk.knobs)} sliders through the server")
    for kind, seconds in result["answers"].items():
        lines.add_row(titles[kind], str(len(seconds)), f"{statistics.median(seconds):.3f}", f"{max(seconds):.3f}")
    return lines


def memory_table(result: dict[str, Any]) -> Table:
    """What a picture and its base cost, with and without what is remembered."""
    lines = Table("a picture and its base", "median s", "UNet sample-forwards", title="What is not computed again")
    for name, title in (("remembered", "remembered"), ("anew", "everything anew")):
        seconds, forwards = (result["memory"][what][name] for what in ("seconds", "sample_forwards"))
        lines.add_row(title, f"{statistics.median(seconds):.3f}", f"{statistics.median(forwards):g}")
    return lines


@entry_point("benchmark/board")
def main(config: dict[str, Any]) -> None:
    """Serve the board, drag, and report."""
    from gradio_client import Client  # comes with the optional extra "board"

    logging.getLogger("httpx").setLevel(logging.WARNING)
    settings: DragConfig = build(config["drag"], "drag.")
    desk = make_desk(config)
    outputs = Path(config["paths"]["outputs"])
    with served(desk) as blocks, TemporaryDirectory() as folder, ProgressCallback("pairs of images") as progress:
        client = Client(blocks.local_url, verbose=False, analytics_enabled=False, download_files=folder)
        result = measure(desk, client.predict, settings, progress)
    given = {"settings": config["drag"], "sampler": config["sampler"], "preview_steps": config["preview_steps"]}
    write_report("board", outputs, {**given, **result}, [answer_table(result, desk), memory_table(result)])


if __name__ == "__main__":
    main()
