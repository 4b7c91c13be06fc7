"""A series of shards: files of tensors with an index that says what they depend on and what their bytes hash to."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from slider_lightning.assets import atomic_path, inside, locked, sha256_file
from slider_lightning.errors import InputError

logger = logging.getLogger(__name__)

INDEX_FILE = "index.json"
LAST_USE_FILE = ".last_use"
SHARD_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Part:
    """What one shard holds.

    Args:
        first: number of its first rollout.
        count: how many follow each other.
        source: SHA-256 of the shard that it is made from; empty if it is made from none.
    """

    first: int
    count: int
    source: str = ""


@dataclass(frozen=True)
class Shard:
    """One file of a series.

    Args:
        file: its name.
        part: what it holds.
        sha256: of its bytes.
    """

    file: str
    part: Part
    sha256: str


@dataclass(frozen=True)
class OpenShard:
    """A shard whose tensors are mapped: reading them reads the file, and memory holds no more than the system wishes.

    A file that is replaced or deleted meanwhile stays what it was for whoever has opened it.
    """

    part: Part
    sha256: str
    tensors: dict[str, Tensor]


Index = Mapping[int, Shard]


class ShardSeries:
    """Shards of one kind in a folder of their own.

    Every shard is indexed with its SHA-256 as soon as it is whole: a series whose building was killed goes on where it
    stopped, a damaged or missing shard is rebuilt alone. A lock lets concurrent jobs and the processes of one job build
    once.

    Args:
        folder: of this series alone.
        name: what the names of its files begin with.
        depends_on: what the content depends on, for those who read the index.
    """

    def __init__(self, folder: Path, name: str, depends_on: Mapping[str, Any]) -> None:
        self.folder = folder
        self.name = name
        self.depends_on = depends_on

    def open(
        self, plan: Callable[[Index], Sequence[Part]], build: Callable[[Part], dict[str, Tensor]]
    ) -> list[OpenShard]:
        """The shards of a plan; those that are missing, damaged or made from something else are built first.

        Args:
            plan: from what is there to the parts that are wanted, in order.
            build: makes the tensors of a part, in the dtype of the file.

        Raises:
            InputError: if the folder cannot be written.
        """
        with locked(self.folder, "teacher cache"):
            self._remove_leftovers()
            index = self.index()
            return [self._map(self._intact(part, index) or self._build(part, build, index)) for part in plan(index)]

    def pending(self, plan: Callable[[Index], Sequence[Part]]) -> list[Part]:
        """The parts of a plan that `open` would build now; a part without a source is taken whatever it was made of."""
        index = self.index(warn=False)
        return [part for part in plan(index) if self._problem(part, index)]

    def index(self, warn: bool = True) -> dict[int, Shard]:
        """The shards by their first rollout; none where the index is missing or damaged."""
        path = self.folder / INDEX_FILE
        if not path.is_file():
            return {}
        try:
            listed = json.loads(path.read_text())["shards"]
            shards = [Shard(entry["file"], Part(**entry["part"]), entry["sha256"]) for entry in listed]
            for shard in shards:
                inside(self.folder, shard.file)
        except (ValueError, KeyError, TypeError, InputError):
            if warn:
                logger.warning("The cache index %s is damaged; its shards are rebuilt.", path)
            return {}
        return {shard.part.first: shard for shard in shards}

    def _intact(self, part: Part, index: Index) -> Shard | None:
        """The shard of a part, unless something is wrong with it."""
        problem = self._problem(part, index)
        if problem and part.first in index:
            logger.warning("The cache shard %s is %s; it is rebuilt.", self.folder / index[part.first].file, problem)
        return None if problem else index[part.first]

    def _problem(self, part: Part, index: Index) -> str:
        shard = index.get(part.first)
        if shard is None:
            return "missing"
        if shard.part.count != part.count or (part.source and shard.part.source != part.source):
            return "made from other rollouts"
        path = self.folder / shard.file
        if not path.is_file():
            return "missing"
        return "" if _sha256_once(path) == shard.sha256 else "damaged"

    def _build(self, part: Part, build: Callable[[Part], dict[str, Tensor]], index: dict[int, Shard]) -> Shard:
        content = save({name: tensor.contiguous() for name, tensor in build(part).items()})
        name = f"{self.name}-{part.first:05d}-{part.count:03d}{SHARD_SUFFIX}"
        with atomic_path(self.folder / name) as temporary:
            temporary.write_bytes(content)
        index[part.first] = Shard(name, part, hashlib.sha256(content).hexdigest())
        shards = [asdict(index[first]) for first in sorted(index)]
        with atomic_path(self.folder / INDEX_FILE) as temporary:
            temporary.write_text(json.dumps({"depends_on": self.depends_on, "shards": shards}, indent=2) + "\n")
        return index[part.first]

    def _map(self, shard: Shard) -> OpenShard:
        # Tensors of the CPU that safe_open gives are views of the mapped file.
        with safe_open(self.folder / shard.file, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
        return OpenShard(shard.part, shard.sha256, tensors)

    def _remove_leftovers(self) -> None:
        """Temporary files of builds that were killed; under the lock nobody else is writing one."""
        for pattern in (f".{self.name}-*{SHARD_SUFFIX}", f".{Path(INDEX_FILE).stem}-*.json"):
            for leftover in self.folder.glob(pattern):
                leftover.unlink()


def key_of(depends_on: Mapping[str, Any]) -> str:
    """Twenty hex digits that change with anything in it."""
    return hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:20]


def _sha256_once(path: Path) -> str:
    """SHA-256 of a file, read once per process unless the file changes."""
    stat = path.stat()
    return _sha256_of_version(path, (stat.st_ino, stat.st_size, stat.st_mtime_ns))


@cache
def _sha256_of_version(path: Path, version: tuple[int, int, int]) -> str:
    return sha256_file(path)
