"""What the points of a sweep are and what was measured there, read from the sweep's folder and its run folders."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from evaluation.evaluate import MEASURED_WITH, evaluate, laid_over, measured_with, run_config
from evaluation.statistics import Measure, from_record
from evaluation.stored import check_measure, check_runs
from slider_lightning.errors import InputError
from slider_lightning.grid import GRID_FILE
from slider_lightning.multirun import CONFIG_FILE, FAILED, FINISHED, POINTS_FILE, SweepPoint, read_points, varying
from slider_lightning.runs import finished
from slider_lightning.training import RunFolder
from slider_lightning.training.run_folder import json_ready

NOT_MEASURED = "not measured"
Value = float | str


@dataclass(frozen=True)
class Point:
    """A point of a sweep with what was measured there.

    Args:
        values: axis to its value.
        run: its run folder.
        status: "finished", "failed", "unfinished" or "not measured".
        error: why it failed.
        figures: the run's figures by their keys in summary.json; empty where there are none.
        costs: the run's costs by their keys in summary.json.
        target: what the slider should move.
        settings: how it was measured.
    """

    values: Mapping[str, Value]
    run: str
    status: str
    error: str = ""
    figures: Mapping[str, Measure] | None = None
    costs: Mapping[str, float] | None = None
    target: str = ""
    settings: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class SweepRuns:
    """The points that a folder lists, before anything is read of their runs.

    Args:
        points: in the order of the list.
        axes: the keys in which they differ.
        measure: how the sweep itself says that its runs are measured.
    """

    points: tuple[SweepPoint, ...]
    axes: tuple[str, ...]
    measure: Mapping[str, Any]


def read_sweep(folder: Path) -> SweepRuns:
    """The points of a sweep's, a search's or a grid run's folder.

    Raises:
        InputError: if it is none of these, or damaged.
    """
    if (folder / GRID_FILE).is_file():
        return _own_runs(folder, read_grid(folder / GRID_FILE))
    if not (folder / POINTS_FILE).is_file():
        raise InputError(
            f"Expected {folder} to be the folder of a sweep, but it holds neither {POINTS_FILE} nor {GRID_FILE}; give "
            "the folder that the sweep printed, e.g. one in outputs/sweeps."
        )
    listed = read_points(folder)
    check_runs(folder, [point.run for point in listed])
    points = tuple(each for point in listed for each in expanded(point))
    if not points:
        raise InputError(f"Expected {folder / POINTS_FILE} to list points, but it is empty; start the sweep again.")
    config = folder / CONFIG_FILE
    shared = yaml.safe_load(config.read_text()) if config.is_file() else {}
    axes = tuple(key for key in varying([point.overrides for point in points]) if not key.startswith("hydra."))
    measure = (shared or {}).get("measure") or {}
    check_measure(config, measure)
    return _own_runs(folder, SweepRuns(points, axes, measure))


def _own_runs(folder: Path, sweep: SweepRuns) -> SweepRuns:
    """The same sweep, its runs checked to lie in the folder of results that holds it."""
    check_runs(folder, [point.run for point in sweep.points])
    return sweep


def expanded(point: SweepPoint) -> tuple[SweepPoint, ...]:
    """The point itself, or the points of the grid that it trained; of a grid that failed some may be finished.

    Raises:
        InputError: if the grid's file is damaged.
    """
    path = Path(point.run) / GRID_FILE
    if not point.run or not path.is_file():
        return (point,)
    shared = {key: value for key, value in point.overrides.items() if not key.startswith("grid.")}
    return tuple(
        SweepPoint(shared | inner.overrides, inner.run, FINISHED)
        if finished(RunFolder(Path(inner.run)))
        else SweepPoint(shared | inner.overrides, inner.run, point.status, point.error)
        for inner in read_grid(path).points
    )


def read_grid(path: Path) -> SweepRuns:
    """The points of a grid run: {"axes": {key: [values]}, "runs": [{"overrides": {key: value}, "run": folder}]}.

    Raises:
        InputError: if the file is damaged.
    """
    try:
        grid = json.loads(path.read_text())
        points = tuple(
            SweepPoint({key: str(value) for key, value in run["overrides"].items()}, run["run"], FINISHED)
            for run in grid["runs"]
        )
        return SweepRuns(points, tuple(grid["axes"]), {})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"Expected {path} to list the runs of a grid, but it is damaged; train it again.") from error


def measured_points(
    sweep: SweepRuns, changes: Mapping[str, Any], measure: bool, progress: Callable[[int, int], None]
) -> tuple[Point, ...]:
    """The points in the order of their values, with their figures.

    Args:
        sweep: what the folder lists.
        changes: nested values laid over the sections of every run's config that say how it is measured.
        measure: evaluate runs that were not measured so.
        progress: called as (points done, all points).
    """
    wanted, points = laid_over(sweep.measure, changes), []
    for number, listed in enumerate(sweep.points, 1):
        values = {axis: value_of(listed.overrides.get(axis, "")) for axis in sweep.axes}
        points.append(measured_point(listed, values, wanted, measure))
        progress(number, len(sweep.points))
    return tuple(sorted(points, key=lambda point: [sort_key(value) for value in point.values.values()]))


def measured_point(listed: SweepPoint, values: Mapping[str, Value], changes: Mapping[str, Any], measure: bool) -> Point:
    """One point; where its run cannot be measured, it says why."""
    if listed.status != FINISHED:
        return Point(values, listed.run, listed.status, listed.error)
    try:
        run = RunFolder.open(listed.run)
        asked = run_config(run, changes)
        if measure and not is_measured(run, asked):
            evaluate(run, changes)
        summary = run.read_summary()
        costs = {key: value for key, value in summary.items() if key.startswith("cost/")}
        target = asked["evaluation"]["target"] or ""
        if not is_measured(run, asked):
            return Point(values, listed.run, NOT_MEASURED, costs=costs, target=target)
        figures = from_record({key: value for key, value in summary.items() if is_figure(key)})
    except InputError as error:
        return Point(values, listed.run, FAILED, str(error))
    return Point(values, listed.run, FINISHED, "", figures, costs, target, asked["evaluation"])


def is_figure(key: str) -> bool:
    """Whether a key of summary.json belongs to a measured figure."""
    return key.startswith("eval/") and not key.startswith("eval/settings/")


def is_measured(run: RunFolder, asked: Mapping[str, Any]) -> bool:
    """Whether a run's figures are of the settings that are asked for."""
    summary = run.read_summary()
    return summary.get(MEASURED_WITH) == measured_with(asked) and all(
        summary.get(f"eval/settings/{section}") == json.loads(json.dumps(json_ready(asked[section])))
        for section in ("evaluation", "sampler")
    )


def value_of(text: str) -> Value:
    """The value of an override: a number where it is one."""
    try:
        return float(text)
    except ValueError:
        return text


def sort_key(value: Value) -> tuple[float, str]:
    """A key that orders any two values of an axis."""
    return (value, "") if isinstance(value, float) else (0.0, value)


def value_label(value: Value) -> str:
    """How a value of an axis is written."""
    return f"{value:.4g}" if isinstance(value, float) else value or "default"
