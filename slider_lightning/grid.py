"""A grid of settings trained as one: `python -m slider_lightning.train experiment=age grid.eta=[1,2,4]`."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import re
import shutil
from collections.abc import Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose

from slider_lightning.config import check, plain_config, typed
from slider_lightning.errors import InputError
from slider_lightning.runs import finished, identity, is_first_process, only_here, same_config, train_sliders
from slider_lightning.training import RunFolder
from slider_lightning.training.checkpoints import last_checkpoint_path
from slider_lightning.training.run_folder import write_json

logger = logging.getLogger(__name__)

GRID_FILE = "grid.json"
# Which runs are trained together now; beside the checkpoints, which hold just these.
BEGUN_FILE = "begun.json"
# Name of an axis to the override that it stands for.
AXES = {
    "rank": "adapter.rank",
    "alpha": "adapter.alpha",
    "layers": "adapter.layers",
    "eta": "objective.eta",
    "reduction": "objective.reduction",
    "lr": "optimizer.lr",
    "seed": "seed",
    "concept": "concept",
    "experiment": "experiment",
}
# What all sliders of a training have in common.
SHARED = ("model", "trainer", "paths")
_PLAIN_WORD = re.compile(r"[\w./+-]+")


@dataclass(frozen=True)
class GridPoint:
    """One point of a grid.

    Args:
        overrides: key to its value there.
        config: the plain, checked config that the same overrides alone compose.
    """

    overrides: dict[str, Any]
    config: dict[str, Any]


def axes_of(config: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The axes that a config's `grid` names, key of the config to its values; none where no list is given.

    Raises:
        InputError: for an axis that is unknown, no list, empty, or names a value twice.
    """
    axes = {}
    for name, values in config["grid"].items():
        if name not in AXES:
            raise InputError(f"Unknown axis grid.{name}; known are {', '.join(AXES)}.")
        if values is None:
            continue
        listed = typed(values, list[Any], f"grid.{name}")
        if any(isinstance(value, Mapping) for value in listed):
            raise InputError(f"Expected grid.{name} to list plain values, but got {listed}; change it.")
        if not listed or len({repr(value) for value in listed}) < len(listed):
            raise InputError(f"Expected grid.{name} to list different values, but got {listed}; change it.")
        axes[AXES[name]] = listed
    return axes


def grid_points(axes: Mapping[str, Sequence[Any]], overrides: Sequence[str]) -> tuple[GridPoint, ...]:
    """All combinations of the axes' values, the last axis fastest; Hydra must be initialized.

    Args:
        axes: key of the config to its values.
        overrides: what the command line says beside the grid; a value given there for an axis is replaced.

    Raises:
        InputError: if a point's config is wrong.
    """
    kept = [each for each in overrides if not each.startswith("grid.") and each.partition("=")[0] not in axes]
    points = []
    for values in itertools.product(*axes.values()):
        own = dict(zip(axes, values, strict=True))
        config = plain_config(compose("train", [*kept, *(f"{key}={override_text(own[key])}" for key in own)]))
        check(config)
        points.append(GridPoint(own, config))
    return tuple(points)


def override_text(value: Any) -> str:
    """A value in the grammar of Hydra's command line."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(override_text(item) for item in value)}]"
    if isinstance(value, int | float) or _PLAIN_WORD.fullmatch(value):
        return str(value)
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def train_grid(points: Sequence[GridPoint], outputs: Path) -> list[RunFolder]:
    """The finished runs of all points: those that lie in their folders, and the others trained together now.

    A grid that was killed goes on from its last checkpoint.

    Args:
        points: of one model and trainer.
        outputs: folder of all runs; the grid's own is `<name>/grid-<hash>` in it.

    Raises:
        InputError: as `runs.train_sliders`, or if two points are the same run, or differ in what all share.
    """
    check_points(points)
    home = grid_folder(points, outputs)
    runs = [RunFolder(Path(point.config["run"])) for point in points]
    write_json(
        home.path / GRID_FILE,
        {
            "axes": {key: list(dict.fromkeys(point.overrides[key] for point in points)) for key in points[0].overrides},
            "runs": [{"overrides": point.overrides, "run": point.config["run"]} for point in points],
        },
    )
    with only_here(home.path, "grid"), ExitStack() as locks:
        for run in sorted(runs, key=lambda run: run.path):
            locks.enter_context(only_here(run.path, "run"))
        # Under the locks: another grid may just have trained some of them.
        open_runs = {point.config["run"] for point in points if not _found(point)}
        if open_runs:
            _train_open(points, open_runs, home)
    logger.info("Grid of %d runs: %s", len(points), home.path)
    return runs


def _train_open(points: Sequence[GridPoint], open_runs: Set[str], home: RunFolder) -> None:
    """Train the points that are not finished in one batch.

    What a checkpoint holds goes on together, the finished ones of it too: they are trained along, and stay as they are.
    """
    listed = _begun(home)
    if listed is not None and open_runs <= listed:
        together = [point.config for point in points if point.config["run"] in listed]
        if all(same_config(RunFolder(Path(config["run"])), config) for config in together if _has_config(config)):
            train_sliders(together, home, resume=True, settled=listed - open_runs)
            return
    if is_first_process():
        shutil.rmtree(home.checkpoints, ignore_errors=True)
        write_json(home.path / BEGUN_FILE, {"runs": sorted(open_runs)})
    train_sliders([point.config for point in points if point.config["run"] in open_runs], home, resume=False)


def _begun(home: RunFolder) -> set[str] | None:
    """The runs that a checkpoint of the grid holds; None where there is none."""
    path = home.path / BEGUN_FILE
    if not (last_checkpoint_path(home.checkpoints).is_file() and path.is_file()):
        return None
    return set(json.loads(path.read_text())["runs"])


def _has_config(config: Mapping[str, Any]) -> bool:
    return RunFolder(Path(config["run"])).config.is_file()


def check_points(points: Sequence[GridPoint]) -> None:
    """Refuse points that cannot be trained together.

    Raises:
        InputError: if two points are the same run, or they differ in model, trainer or paths.
    """
    runs = [point.config["run"] for point in points]
    if len(set(runs)) < len(runs):
        raise InputError("Expected a grid of different runs, but two points are the same; change the axes.")
    for name in SHARED:
        if any(point.config[name] != points[0].config[name] for point in points):
            raise InputError(
                f"Expected all points of a grid to share their {name}, but they differ in it; sweep with -m instead."
            )


def grid_folder(points: Sequence[GridPoint], outputs: Path) -> RunFolder:
    """The folder of a grid, named by all that decides its runs."""
    names = "-".join(dict.fromkeys(point.config["name"] for point in points))
    content = "\n".join(identity(point.config) for point in points)
    return RunFolder(outputs / names / f"grid-{hashlib.sha256(content.encode()).hexdigest()[:8]}")


def _found(point: GridPoint) -> bool:
    run = RunFolder(Path(point.config["run"]))
    found = finished(run) and same_config(run, point.config)
    if found:
        logger.info("Run folder: %s (finished before)", run.path)
    return found
