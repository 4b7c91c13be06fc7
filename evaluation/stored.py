"""What the stored config of a run may name: a run folder may come from a stranger."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from slider_lightning.config import CONF, TARGET
from slider_lightning.errors import InputError
from slider_lightning.training import RunFolder

# The groups of conf/ whose values an evaluation takes from a run's config.
_GROUPS = ("model", "concept", "sampler", "evaluation", "prompts", "judges")
# Keys whose values are read from a place: a file, a folder or a hub.
_PLACES = ("path", "source", "pretrained", "weights", "folder")


def check_stored(run: RunFolder, stored: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    """Refuse a stored config that names code, a hub id or a folder of results that nobody chose.

    Code is what the shipped conf/ names for these sections. A hub id is a shipped one or stands in `changes`; whatever
    else names a place must lie on this machine. Image grids lie below the folder of results that holds the run, or
    below the working directory.

    Args:
        run: the run.
        stored: the sections of its config that are about to be built.
        changes: what the user gave, by section.

    Raises:
        InputError: naming the first value that is refused.
    """
    for key, value in _leaves(stored):
        name = key[-1]
        if name == TARGET and value not in _shipped(TARGET):
            raise InputError(
                f"Expected {run.config} to name settings that slider_lightning ships, but {'.'.join(key)} names "
                f"{value!r}; nothing of it was run. Train the run again, or do not use it."
            )
        if name in _PLACES and isinstance(value, str) and not _given(changes, key) and not _is_known_place(value):
            raise InputError(
                f"Expected {run.config} to name places on this machine, but {'.'.join(key)} is {value!r}; nothing was "
                f"fetched. If you trust it, name it on the command line: +{'.'.join(key)}={value}."
            )
    _check_grids(run, stored, changes)


def check_measure(file: Path, measure: Mapping[str, Any]) -> None:
    """Refuse what the file of a sweep lays over its runs, where it is more than settings of sampler and evaluation.

    Args:
        file: the sweep's config.
        measure: nested values, by section.

    Raises:
        InputError: naming the first value that is refused.
    """
    for key, _ in _leaves(measure):
        if key[0] not in ("sampler", "evaluation") or key[-1] in ("grids", *_PLACES):
            raise InputError(
                f"Expected {file} to say with sampler and evaluation alone how runs are measured, but it has "
                f"measure.{'.'.join(key)}; give it on the command line instead."
            )


def _check_grids(run: RunFolder, stored: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    section = stored.get("evaluation")
    grids = section.get("grids") if isinstance(section, Mapping) else None
    if not isinstance(grids, str) or _given(changes, ("evaluation", "grids")):
        return
    if not _in_results(Path(grids), run.path):
        raise InputError(
            f"Expected the images of {run.path} below its folder of results or the working directory, but its config "
            f"names {grids}; name another on the command line: +evaluation.grids=DIR."
        )


def check_runs(folder: Path, runs: Iterable[str]) -> None:
    """Refuse runs that the list of a sweep or grid names outside the folder of results that holds it.

    Args:
        folder: of the sweep or grid.
        runs: run folders; an empty text names none.

    Raises:
        InputError: naming the first that is refused.
    """
    for run in runs:
        if run and not _in_results(Path(run), folder):
            raise InputError(
                f"Expected the runs of {folder} in the same folder of results or below the working directory, but it "
                f"lists {run}; move it there, or measure it alone."
            )


def _in_results(place: Path, owner: Path) -> bool:
    """Whether a place lies below the folder of results that holds a run or sweep, or below the working directory."""
    allowed = (Path.cwd().resolve(), *owner.resolve().parents[1:2])
    return any(place.resolve().is_relative_to(folder) for folder in allowed)


def _is_known_place(value: str) -> bool:
    return any(value in _shipped(key) for key in _PLACES) or Path(value).expanduser().exists()


def _given(changes: Mapping[str, Any], key: tuple[str, ...]) -> bool:
    node: Any = changes
    for part in key:
        if not isinstance(node, Mapping) or part not in node:
            return False
        node = node[part]
    return True


@cache
def _shipped(key: str) -> frozenset[str]:
    """The texts that conf/ gives a key in the groups that an evaluation reads."""
    files = [path for group in _GROUPS for path in sorted((CONF / group).rglob("*.yaml"))]
    nodes = [yaml.safe_load(path.read_text()) or {} for path in files]
    return frozenset(
        value for node in nodes for path, value in _leaves(node) if path[-1] == key and isinstance(value, str)
    )


def _leaves(node: Any, key: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _leaves(value, (*key, str(name)))
    elif isinstance(node, list):
        for value in node:
            yield from _leaves(value, (*key, "*"))
    else:
        yield key or ("",), node
