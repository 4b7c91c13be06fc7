"""What a gallery shows of every run below a folder: some images, its figures, its config, the sweeps it belongs to."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from evaluation.pages.images import encoded, grids_of, spread, sprite, webp
from evaluation.pages.run_view import PAGE_FILE, figures_of
from evaluation.statistics import Measure
from evaluation.sweep_points import read_sweep
from slider_lightning.errors import InputError
from slider_lightning.grid import GRID_FILE
from slider_lightning.multirun import POINTS_FILE
from slider_lightning.training import RunFolder

SIDE = 64
MOST_SCALES = 9
STRIP_WIDTH = 320
# Where files lie, and what follows from the concept: neither tells runs apart.
LEFT_OUT = ("run", "logger", "judges", "paths", "grid", "resume", "name", "evaluation.grids", "model.path")
TARGET_SHIFT, DISTANCE = "target shift", "distance at the highest scale"


@dataclass(frozen=True)
class Sheet:
    """Some images of a run in one picture: a line per seed, a column per scale.

    Args:
        uri: the picture.
        seeds: of the lines; empty where the picture is the run's own strip, which is shown as it is.
        scales: of the columns.
        ratio: width over height.
    """

    uri: str
    seeds: tuple[int, ...]
    scales: tuple[float, ...]
    ratio: float


@dataclass(frozen=True)
class Card:
    """One run.

    Args:
        place: its folder, from the gallery on.
        name: of the concept.
        page: link to its page; empty where it has none.
        config: dotted key to value as text.
        figures: the run's figures by their names; empty where it was not evaluated.
        sheet: its images; None where there are none.
        sweeps: names of the sweeps that list it.
    """

    place: str
    name: str
    page: str
    config: Mapping[str, str]
    figures: Mapping[str, Measure]
    sheet: Sheet | None
    sweeps: tuple[str, ...]


def run_folders(folder: Path) -> list[RunFolder]:
    """The runs below a folder, sorted: where a config and a trained slider lie.

    Raises:
        InputError: if there is none.
    """
    runs = [RunFolder(path.parent) for path in sorted(folder.rglob("slider.safetensors"))]
    found = [run for run in runs if run.config.is_file()]
    if not found:
        raise InputError(f"Expected runs below {folder}, but there are none; give the folder that trainings write to.")
    return found


def read_gallery(
    folder: Path, home: Path, seeds: int, progress: Callable[[int, int], None] = lambda done, of: None
) -> tuple[Card, ...]:
    """The cards of all runs below a folder.

    Args:
        folder: of outputs.
        home: where the gallery will lie, for links.
        seeds: whose images a card shows, at most.
        progress: called as (runs read, all runs).

    Raises:
        InputError: if there is no run, or a file of one is damaged.
    """
    runs, sweeps, cards = run_folders(folder), sweeps_of(folder), []
    for number, run in enumerate(runs, 1):
        cards.append(read_card(run, home, seeds, sweeps.get(run.path.resolve(), ())))
        progress(number, len(runs))
    return tuple(cards)


def read_card(run: RunFolder, home: Path, seeds: int, sweeps: tuple[str, ...]) -> Card:
    """The card of one run; arguments as of `read_gallery`."""
    summary = run.read_summary() if run.summary.is_file() else {}
    config = yaml.safe_load(run.config.read_text())
    place = Path(os.path.relpath(run.path, home)).as_posix()
    return Card(
        place=place,
        name=str(config["concept"]["name"]),
        page=f"{place}/{PAGE_FILE}" if (run.path / PAGE_FILE).is_file() else "",
        config=flat(config),
        figures=named_figures(figures_of(summary), summary.get("eval/settings/evaluation") or {}),
        sheet=sheet_of(run, summary, seeds),
        sweeps=sweeps,
    )


def flat(config: Mapping[str, Any], where: str = "") -> dict[str, str]:
    """A config as dotted keys and texts, without what does not tell runs apart."""
    found: dict[str, str] = {}
    for key, value in config.items():
        name = f"{where}{key}"
        if name in LEFT_OUT:
            continue
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{name}.")
        else:
            found[name] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return found


def named_figures(figures: Mapping[str, Measure], settings: Mapping[str, Any]) -> dict[str, Measure]:
    """The figures by their names, first those that all runs share whatever their target and their scales are."""
    target, scales = str(settings.get("target") or "").partition("=")[0], settings.get("scales") or [0]
    shared = {
        TARGET_SHIFT: f"eval/attribute_range/{target}",
        "interference": "eval/interference",
        "selectivity": "eval/selectivity",
        "monotone share": "eval/monotone_share",
        DISTANCE: f"eval/distance/{max(scales):+g}",
    }
    known = {name: figures[key] for name, key in shared.items() if key in figures}
    return known | {key.removeprefix("eval/").replace("/", " "): measure for key, measure in figures.items()}


def sheet_of(run: RunFolder, summary: Mapping[str, Any], seeds: int) -> Sheet | None:
    """Images of a run: of its grid, else of its strip; None where it has neither."""
    grids = grids_of(run.path, summary)
    if grids is not None:
        columns = shown_columns(grids.scales)
        numbers = spread(len(grids.base.rows), seeds)
        lines = [[grids.row(number)[column] for column in columns] for number in numbers]
        scales = tuple(grids.scales[column] for column in columns)
        shown = tuple(grids.base.rows[number].seed for number in numbers)
        return Sheet(sprite(lines, SIDE), shown, scales, len(columns) / len(numbers))
    if not run.strip.is_file():
        return None
    image = Image.open(run.strip).convert("RGB")
    image.thumbnail((STRIP_WIDTH, STRIP_WIDTH), Image.Resampling.LANCZOS)
    return Sheet(encoded(webp(image), "webp"), (), (), image.width / image.height)


def shown_columns(scales: tuple[float, ...]) -> list[int]:
    """Positions of at most nine scales: all of them, or evenly spaced ones with both ends and 0."""
    if len(scales) <= MOST_SCALES:
        return list(range(len(scales)))
    steps = MOST_SCALES - 2
    return sorted({scales.index(0.0), *(round(n * (len(scales) - 1) / steps) for n in range(steps + 1))})


def sweeps_of(folder: Path) -> dict[Path, tuple[str, ...]]:
    """Run folder to the names of the sweeps, searches and grids below `folder` that list it."""
    found: dict[Path, tuple[str, ...]] = {}
    lists = [*folder.rglob(POINTS_FILE), *folder.rglob(f"grid-*/{GRID_FILE}")]
    for place in sorted({path.parent for path in lists}):
        for point in read_sweep(place).points:
            run = Path(point.run).resolve()
            # A grid's runs lie beside the grid, also where all outputs were moved.
            run = run if run.is_dir() else (place.parent / Path(point.run).name).resolve()
            found[run] = (*found.get(run, ()), place.relative_to(folder).as_posix())
    return found
