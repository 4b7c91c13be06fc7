"""Folders of finished judges: written beside their place, hashed, then moved there whole."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slider_lightning.assets import write_hashes


@contextmanager
def finished_folder(out_dir: Path) -> Iterator[Path]:
    """Yields an empty folder that replaces `out_dir`, with hashes.json, when the block ends without an error."""
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=out_dir.parent, prefix=f".{out_dir.name}-"))
    try:
        yield temporary
        write_hashes(temporary)
        temporary.chmod(0o755)
        if out_dir.exists():
            shutil.rmtree(out_dir)
        temporary.replace(out_dir)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
