"""What a run says of itself on Weights & Biases. Nothing here imports wandb, which few trainings need."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import slider_lightning
from slider_lightning.adapters import SliderMetadata
from slider_lightning.errors import InputError
from slider_lightning.training.run_folder import PACKAGES, git_state

_HASH_DIGITS = 10
_TAG_LIMIT = 64  # characters, by the service


@dataclass(frozen=True)
class WandbConfig:
    """How runs are logged on Weights & Biases.

    Args:
        project: where they appear.
        entity: user or team; None is the account's default.
        group: what they are grouped by; None takes the folder's name of the sweep or grid that they belong to.
        tags: beside concept, objective and kind of adapter.
        offline: keep all on this disk, to be uploaded later.
        init_timeout: seconds to wait for the service at the beginning before a run goes on offline, above 0.
        finish_timeout: seconds to wait at the end for what is not uploaded yet, above 0.

    Raises:
        InputError: if a timeout is not above 0.
    """

    project: str = "slider_lightning"
    entity: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()
    offline: bool = False
    init_timeout: float = 10.0
    finish_timeout: float = 20.0

    def __post_init__(self) -> None:
        for name in ("init_timeout", "finish_timeout"):
            if not getattr(self, name) > 0:
                raise InputError(
                    f"Expected logger.{name} to be above 0 seconds, but got {getattr(self, name)}; raise it."
                )


@dataclass(frozen=True)
class RunCard:
    """What a run is called, and what it is found by.

    Args:
        id: the same for the same settings, so that a run that goes on is found again.
        name: for readers.
        group: what runs are grouped by; None for a run alone.
        tags: to filter by.
        config: all that was chosen, with the versions that did it.
    """

    id: str
    name: str
    group: str | None
    tags: tuple[str, ...]
    config: dict[str, Any]

    @classmethod
    def of(
        cls,
        config: Mapping[str, Any],
        deciding: str,
        told: SliderMetadata,
        *,
        group: str | None = None,
        tags: tuple[str, ...] = (),
    ) -> RunCard:
        """The card of one slider's run.

        Args:
            config: its plain config.
            deciding: all that decides the result, as one text.
            told: what its slider file says.
            group: what the run is grouped by.
            tags: beside concept, objective and kind of adapter.
        """
        digest = hashlib.sha256(deciding.encode()).hexdigest()[:_HASH_DIGITS]
        own = (config["concept"]["name"], told.objective, told.adapter)
        return cls(
            id=f"{plain_name(config['name'])}-{digest}",
            name=run_name(config["name"], told, config["seed"]),
            group=group,
            tags=tuple(dict.fromkeys(tag[:_TAG_LIMIT] for tag in (*own, *tags) if tag)),
            config={**config, **provenance()},
        )


def run_name(name: str, told: SliderMetadata, seed: int) -> str:
    """A run's name for readers, by what runs of one concept mostly differ in.

    Example:
        >>> run_name("age", SliderMetadata(layers="noxattn", rank=4, eta=2.0), 0)
        'age, lora, rank 4, eta 2, seed 0'
    """
    parts = [name, told.adapter]
    parts += [f"rank {told.rank}"] if told.rank is not None else []
    parts += [f"eta {told.eta:g}"] if told.eta is not None else []
    return ", ".join([*parts, f"seed {seed}"])


def plain_name(text: str) -> str:
    """A text in the characters that ids and names of artifacts may have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text) or "run"


def provenance() -> dict[str, Any]:
    """Commit and versions of what a run was made with."""
    installed = {each.name: each.version for each in metadata.distributions()}
    return {
        "git": git_state(Path(slider_lightning.__file__).parent),
        "versions": {name: installed[name] for name in PACKAGES if name in installed},
    }


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings under keys joined by dots; what is a list or a sentence is left out, for charts want numbers.

    Example:
        >>> flat({"eval/spearman": {"mean": 0.9, "ci95": [0.8, 1.0], "n": 64}, "note": "text"})
        {'eval/spearman.mean': 0.9, 'eval/spearman.n': 64}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, int | float):
            found[f"{prefix}{key}"] = value
    return found
