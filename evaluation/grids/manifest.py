"""manifest.jsonl: one line per image that was written."""

import json
import logging
from pathlib import Path
from typing import Any

from slider_lightning.assets import atomic_path

logger = logging.getLogger(__name__)


def read_manifest(path: Path) -> dict[str, str]:
    """SHA-256 of every image by its id; empty without a file.

    A last line cut short by a kill is left out. So is a damaged line, with a warning: its image counts as missing.
    """
    if not path.is_file():
        return {}
    *lines, _unfinished = path.read_text(errors="replace").split("\n")
    hashes: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            hashes[str(record["id"])] = str(record["sha256"])
        except (ValueError, KeyError, TypeError):
            logger.warning("Line %d of %s is damaged; its image is made anew.", number, path)
    return hashes


def write_manifest(path: Path, records: list[dict[str, Any]]) -> None:
    """All lines at once, whole or not at all.

    Raises:
        InputError: if the disk refuses.
    """
    with atomic_path(path) as temporary:
        temporary.write_text("".join(_line(record) for record in records))


def append_record(path: Path, record: dict[str, Any]) -> None:
    """One more line."""
    with path.open("a") as file:
        file.write(_line(record))


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record) + "\n"
