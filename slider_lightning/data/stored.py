"""What lies in the folder of all caches: read from its files alone, without a model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open

from slider_lightning.assets import LOCK_FILE, inside, sha256_file
from slider_lightning.data.pairs.latents import read_latents
from slider_lightning.data.teacher import INDEX_FILE, LAST_USE_FILE, SHARD_SUFFIX
from slider_lightning.errors import InputError

PAIRS_FOLDER = "pairs"
PAIRS, UNREADABLE = "pairs", "unreadable"
_KEY = re.compile("[0-9a-f]{20}")


@dataclass(frozen=True)
class StoredFile:
    """A file of a cache.

    Args:
        path: where it lies.
        sha256: what its bytes should hash to; None where the file itself says what its tensors hash to.
        size: bytes on disk; 0 if it is missing.
    """

    path: Path
    sha256: str | None
    size: int

    def is_intact(self) -> bool:
        """Whether it holds what was written; all of it is read."""
        if not self.path.is_file():
            return False
        if self.sha256 is None:
            return read_latents(self.path) is not None
        return sha256_file(self.path) == self.sha256


@dataclass(frozen=True)
class StoredCache:
    """One folder of the teacher cache, or the latents that one model has of image pairs.

    Args:
        path: its folder.
        states: kind of states: "trajectory", "noised", "clean" (what noised states are made from) or "pairs".
        model: fingerprint.
        target: c_t; empty for pairs.
        prompts: that were ever scored.
        num_rollouts: that were drawn.
        num_states: of all rollouts, or twins.
        files: with a hash, those that are missing included.
        broken: indexes that cannot be read.
        loose: other files that belong to it and go with it; nothing needs them whole.
        last_use: seconds since the epoch; latents of pairs remember it by their files' time of change.
    """

    path: Path
    states: str
    model: str
    target: str
    prompts: int
    num_rollouts: int
    num_states: int
    files: tuple[StoredFile, ...]
    broken: tuple[Path, ...]
    loose: tuple[Path, ...]
    last_use: float

    @property
    def name(self) -> str:
        """What its folder is called."""
        return self.path.name

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.size for file in self.files) + sum(_size(path) for path in self.loose + self.broken)

    @contextmanager
    def held(self) -> Iterator[StoredCache | None]:
        """Holds all its locks, so that no job builds, and tells what it holds now; None while a job builds.

        Raises:
            InputError: if the folder cannot be written.
        """
        with ExitStack() as stack:
            # A series of which no shard is whole yet has its lock alone.
            locks = {path.parent for path in self.path.rglob(LOCK_FILE)}
            paths = (*(file.path for file in self.files), *self.broken, *self.loose)
            free = all(_locked_now(folder, stack) for folder in sorted(locks | {path.parent for path in paths}))
            if not free:
                stack.close()
            yield self._read_again() if free else None

    def _read_again(self) -> StoredCache:
        """The same cache as it is now; empty if it is gone."""
        caches = _pair_caches(self.path) if self.states == PAIRS else [_teacher_cache(self.path)]
        now = (cache for cache in caches if cache is not None and (cache.states != PAIRS or cache.model == self.model))
        return next(now, replace(self, files=(), broken=(), loose=()))

    def remove(self) -> None:
        """Deletes all it holds, under `held`. Empty folders and their locks stay: a job may be waiting for one."""
        for path in (*self.broken, *self.loose, *(file.path for file in self.files)):
            path.unlink(missing_ok=True)


def stored_caches(root: Path) -> list[StoredCache]:
    """All teacher caches and latents of pairs below the folder of all caches, the last used first.

    Raises:
        InputError: if the folder does not exist.
    """
    if not root.is_dir():
        raise InputError(f"Expected the folder of caches {root}, but there is none; name it with --cache.")
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and _KEY.fullmatch(path.name)]
    caches = [cache for folder in folders if (cache := _teacher_cache(folder)) is not None]
    return sorted([*caches, *_pair_caches(root / PAIRS_FOLDER)], key=lambda cache: -cache.last_use)


def _teacher_cache(folder: Path) -> StoredCache | None:
    """A folder's content by its indexes; None if it holds nothing."""
    indexes = sorted(folder.rglob(INDEX_FILE))
    shards = sorted(folder.rglob(f"*{SHARD_SUFFIX}"))
    if not indexes and not shards:
        return None
    read = {path: _read_index(path) for path in indexes}
    series = {path: content for path, content in read.items() if content is not None}
    files = [
        _file(path.parent / shard["file"], shard["sha256"]) for path, (_, found) in series.items() for shard in found
    ]
    loose = [*series, *sorted(set(shards) - {file.path for file in files})]
    drawn: tuple[Mapping[str, Any], list[Any]] = next(
        (each for each in series.values() if "target" in each[0]), ({}, [])
    )
    depends_on, num_rollouts = drawn[0], sum(_count(shard) for shard in drawn[1])
    kind = depends_on.get("states", UNREADABLE)
    per_rollout = {"clean": 1, "noised": depends_on.get("per_rollout", 0)}
    last_use = folder / LAST_USE_FILE
    return StoredCache(
        path=folder,
        states=kind,
        model=depends_on.get("model", "?"),
        target=depends_on.get("target", "?"),
        prompts=len({content["prompt"] for content, _ in series.values() if "prompt" in content}),
        num_rollouts=num_rollouts,
        num_states=num_rollouts * per_rollout.get(kind, depends_on.get("num_inference_steps", 0)),
        files=tuple(files),
        broken=tuple(path for path, content in read.items() if content is None),
        loose=tuple(loose),
        last_use=(last_use if last_use.is_file() else (indexes or shards)[0]).stat().st_mtime,
    )


def _read_index(path: Path) -> tuple[dict[str, Any], list[Any]] | None:
    """What a series depends on, and its shards; None if it cannot be read."""
    try:
        content = json.loads(path.read_text())
        depends_on, shards = dict(content["depends_on"]), list(content["shards"])
        [(inside(path.parent, shard["file"]), shard["sha256"], _count(shard)) for shard in shards]
    except (OSError, ValueError, KeyError, TypeError, InputError):
        return None
    return depends_on, shards


def _count(shard: Mapping[str, Any]) -> int:
    """Rollouts in a shard; folders of an earlier layout, which can only be pruned, do not tell them apart."""
    return int(shard.get("part", shard)["count"])


def _pair_caches(folder: Path) -> list[StoredCache]:
    """The latents of pairs, by the model that they were encoded with."""
    by_model: dict[str, list[Path]] = {}
    for path in sorted(folder.glob(f"[!.]*{SHARD_SUFFIX}")):
        by_model.setdefault(_model_of_latents(path), []).append(path)
    return [
        StoredCache(
            path=folder,
            states=PAIRS,
            model=model,
            target="",
            prompts=0,
            num_rollouts=0,
            num_states=len(paths),
            files=tuple(_file(path, None) for path in paths),
            broken=(),
            loose=(),
            last_use=max(path.stat().st_mtime for path in paths),
        )
        for model, paths in by_model.items()
    ]


def _model_of_latents(path: Path) -> str:
    try:
        with safe_open(path, "pt") as file:
            return str(json.loads(file.metadata()["depends_on"])["model"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return "?"


def _file(path: Path, sha256: str | None) -> StoredFile:
    return StoredFile(path, sha256, _size(path))


def _locked_now(folder: Path, locks: ExitStack) -> bool:
    """Whether the lock of a folder was free; it is then held until `locks` close."""
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    except OSError as error:
        raise InputError(
            f"Expected to lock {folder}, but got: {error.strerror or error}; check its permissions."
        ) from error
    locks.callback(lock.release)
    return True


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
