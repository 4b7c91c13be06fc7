"""The teacher cache: the frozen model's scores as files, computed once for every sweep that trains on them."""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from slider_lightning.assets import atomic_path, locked
from slider_lightning.backbone import Backbone, ddim_scheduler
from slider_lightning.data.states import ConceptEmbeds, RolloutConfig, TeacherStates, rollout_noise, rollout_states
from slider_lightning.errors import InputError

logger = logging.getLogger(__name__)

INDEX_FILE = "index.json"
# Part of the key, so that files of another layout are never taken for these.
LAYOUT_VERSION = 2
DTYPES = {"float16": torch.float16, "float32": torch.float32}

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class TeacherConfig:
    """What the cache holds.

    Args:
        num_rollouts: rollouts used; a cache with fewer is extended, one with more is used in part.
        rollout: how they are drawn.
        dtype: "float32" or "float16" on disk.
        rollouts_per_shard: rollouts computed side by side and stored in one file.

    Raises:
        InputError: if a count is below 1 or the dtype unknown.
    """

    num_rollouts: int = 16
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    dtype: str = "float32"
    rollouts_per_shard: int = 4

    def __post_init__(self) -> None:
        for name in ("num_rollouts", "rollouts_per_shard"):
            if (value := getattr(self, name)) < 1:
                raise InputError(f"Expected data.{name} to be 1 or more, but got {value}; raise it.")
        if self.dtype not in DTYPES:
            names = ", ".join(DTYPES)
            raise InputError(f"Expected data.dtype to be one of {names}, but got {self.dtype!r}; choose one.")


@dataclass(frozen=True)
class Shard:
    """One file of the cache: `count` rollouts from number `first` on."""

    file: str
    first: int
    count: int
    sha256: str


class TeacherCache:
    """States and frozen scores of one (model, prompts, resolution, schedule, guidance, seed), kept in a folder.

    The folder's name is a hash of all that the scores depend on; the number of rollouts is not among it, so asking for
    more extends what is there. Every shard is indexed with its SHA-256 as soon as it is whole: a build that was killed
    goes on where it stopped, a damaged or missing shard is rebuilt alone. A lock lets concurrent jobs build once.

    Args:
        root: folder of all caches.
        backbone: the frozen model.
        embeds: the prompts of concept and contrasts, texts and embeddings.
        config: what to hold.
    """

    def __init__(self, root: Path, backbone: Backbone, embeds: ConceptEmbeds, config: TeacherConfig) -> None:
        self.backbone = backbone
        self.embeds = embeds
        self.config = config
        self.depends_on = dependencies(backbone, embeds, config)
        content = json.dumps(self.depends_on, sort_keys=True).encode()
        self.folder = Path(root) / hashlib.sha256(content).hexdigest()[:20]

    def states(self, progress: Progress | None = None) -> TeacherStates:
        """All states, read from disk where they are intact there, computed and stored where not.

        Args:
            progress: called with (rollout steps done, rollout steps to do) while shards are computed.

        Returns:
            `num_rollouts * num_inference_steps` states in float32 in main memory, the rollouts in order.

        Raises:
            InputError: if the folder cannot be written.
        """
        with locked(self.folder, "teacher cache"):
            self._remove_leftovers()
            index = self._read_index()
            wanted = self._ranges(index)
            found = {first: states for first, _ in wanted if (states := self._read(index.get(first))) is not None}
            missing = [(first, count) for first, count in wanted if first not in found]
            report = _counter(progress, len(missing) * self.config.rollout.num_inference_steps)
            for first, count in missing:
                found[first] = self._build(first, count, index, report)
        parts = [found[first] for first, _ in wanted]
        return TeacherStates.cat(parts)[: self.config.num_rollouts * self.config.rollout.num_inference_steps]

    def _ranges(self, index: dict[int, Shard]) -> list[tuple[int, int]]:
        """(first, count) of the shards that hold the rollouts wanted: those of the index, then new ones."""
        ranges: list[tuple[int, int]] = []
        covered = 0
        while covered < self.config.num_rollouts:
            left = self.config.num_rollouts - covered
            count = index[covered].count if covered in index else min(self.config.rollouts_per_shard, left)
            ranges.append((covered, count))
            covered += count
        return ranges

    def _build(self, first: int, count: int, index: dict[int, Shard], report: Callable[[], None]) -> TeacherStates:
        noise = rollout_noise(self.backbone, self.config.rollout.seed, range(first, first + count))
        states = rollout_states(self.backbone, self.embeds, noise, self.config.rollout, on_step=report)
        stored = states.to("cpu", DTYPES[self.config.dtype])
        content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in stored.tensors().items()})
        name = f"rollouts-{first:05d}-{count:03d}.safetensors"
        shard = Shard(name, first, count, hashlib.sha256(content).hexdigest())
        with atomic_path(self.folder / shard.file) as temporary:
            temporary.write_bytes(content)
        index[first] = shard
        self._write_index(index)
        return stored.to("cpu", torch.float32)

    def _read(self, shard: Shard | None) -> TeacherStates | None:
        if shard is None:
            return None
        path = self.folder / shard.file
        content = path.read_bytes() if path.is_file() else None
        if content is None or hashlib.sha256(content).hexdigest() != shard.sha256:
            problem = "missing" if content is None else "damaged"
            logger.warning("The cache shard %s is %s; it is rebuilt.", path, problem)
            return None
        return TeacherStates(**safetensors.torch.load(content)).to("cpu", torch.float32)

    def _read_index(self) -> dict[int, Shard]:
        path = self.folder / INDEX_FILE
        if not path.is_file():
            return {}
        try:
            shards = [Shard(**entry) for entry in json.loads(path.read_text())["shards"]]
        except (ValueError, KeyError, TypeError):
            logger.warning("The cache index %s is damaged; its shards are rebuilt.", path)
            return {}
        return {shard.first: shard for shard in shards}

    def _write_index(self, index: dict[int, Shard]) -> None:
        shards = [asdict(index[first]) for first in sorted(index)]
        with atomic_path(self.folder / INDEX_FILE) as temporary:
            temporary.write_text(json.dumps({"depends_on": self.depends_on, "shards": shards}, indent=2) + "\n")

    def _remove_leftovers(self) -> None:
        """Temporary files of builds that were killed; under the lock nobody else is writing one."""
        for pattern in (".rollouts-*.safetensors", ".index-*.json"):
            for leftover in self.folder.glob(pattern):
                leftover.unlink()


def dependencies(backbone: Backbone, embeds: ConceptEmbeds, config: TeacherConfig) -> dict[str, Any]:
    """All that the scores depend on, as JSON: what the cache's key is made of."""
    scheduler: Any = ddim_scheduler(backbone.scheduler)
    # Names that start with "_" tell versions and origins, not numbers.
    schedule = {name: value for name, value in scheduler.config.items() if not name.startswith("_")}
    return {
        "layout": LAYOUT_VERSION,
        "model": backbone.fingerprint,
        "model_dtype": str(backbone.dtype),
        "resolution": backbone.resolution,
        "target": embeds.concept.target,
        "positive": list(embeds.concept.positive_prompts()),
        "negative": list(embeds.concept.negative_prompts()),
        "contrasts": [list(pair) for pair in embeds.contrasts],
        "schedule": schedule,
        "num_inference_steps": config.rollout.num_inference_steps,
        "guidance_scale": config.rollout.guidance_scale,
        "seed": config.rollout.seed,
        "dtype": config.dtype,
    }


def _counter(progress: Progress | None, total: int) -> Callable[[], None]:
    done = 0

    def report() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return report
