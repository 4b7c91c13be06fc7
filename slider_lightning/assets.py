"""Files that are whole or absent: atomic writing, and hashes that tell a damaged asset by name."""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from slider_lightning.errors import InputError

logger = logging.getLogger(__name__)

HASHES_FILE = "hashes.json"
LOCK_FILE = ".lock"


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it becomes `path` when the block ends well and vanishes otherwise.

    Args:
        path: the file to write; its folder is created.

    Raises:
        InputError: if the folder or the file cannot be written (no room, no permission).

    Example:
        >>> with atomic_path("/tmp/slider_lightning_example.txt") as temporary:
        ...     _ = temporary.write_text("whole")
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The suffix is kept because writers such as Pillow choose the format by it.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"Expected to write {path}, but got: {reason}; free some room or choose another folder."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def locked(folder: str | Path, what: str) -> Iterator[None]:
    """Hold a folder's lock, so that concurrent jobs make its content once; it ends with the process, however that ends.

    Args:
        folder: is created.
        what: what it holds, for messages, e.g. "teacher cache".

    Raises:
        InputError: if the folder cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_FILE)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.info("Another job makes the %s %s; waiting for it.", what, folder)
            lock.acquire()
    except OSError as error:
        raise InputError(
            f"Expected to write the {what} {folder}, but got: {error.strerror or error}; choose another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()


def inside(folder: str | Path, name: object) -> Path:
    """The place below a folder that a file names: what a stranger's file says leads nowhere else.

    Args:
        folder: holds the file that names it.
        name: relative to the folder, by "/"; the place need not exist.

    Raises:
        InputError: if the name is no text, is absolute or leads out of the folder, also through a link, or if what lies
            there is neither a regular file nor a folder: opening a pipe or a device would wait or act.
    """
    folder = Path(folder)
    path = folder / name if isinstance(name, str) else folder
    root = folder.resolve()
    leads_out = Path(str(name)).is_absolute() or ".." in Path(str(name)).parts
    if path == folder or leads_out or not path.resolve().is_relative_to(root):
        raise InputError(
            f"Expected a name of a file below {folder}, but got {name!r}, which leads elsewhere; it is left alone."
        )
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise InputError(f"Expected {path} to be a regular file, but it is a pipe or a device; remove it.")
    return path


def sha256_file(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_hashes(folder: str | Path) -> dict[str, str]:
    """Write `hashes.json`: the SHA-256 of every file below `folder`, by its path relative to it.

    Hidden files and `hashes.json` itself are left out.

    Returns:
        The hashes as written, sorted by name.
    """
    folder = Path(folder)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    hashes = {name: sha256_file(folder / name) for name in names if name != HASHES_FILE and not _is_hidden(name)}
    with atomic_path(folder / HASHES_FILE) as temporary:
        temporary.write_text(json.dumps(hashes, indent=2) + "\n")
    return hashes


def verify_folder(folder: str | Path) -> None:
    """Check every file that `hashes.json` lists.

    Raises:
        InputError: if the folder or its `hashes.json` is missing or unreadable, or a listed file is missing or
            differs; the message names the file.
    """
    folder = Path(folder)
    for name, expected in _read_hashes(folder / HASHES_FILE).items():
        path = folder / name
        if not path.is_file():
            raise InputError(f"Expected the asset {path}, but it is missing; fetch or rebuild the folder {folder}.")
        if sha256_file(path) != expected:
            raise InputError(
                f"Expected {path} as listed in {HASHES_FILE}, but it is damaged or changed; fetch or rebuild it."
            )


def _read_hashes(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise InputError(
            f"Expected the list of hashes {path}, but it is missing; fetch or rebuild the folder {path.parent}."
        )
    try:
        hashes = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"Expected {path} to be JSON, but it is damaged ({error}); fetch or rebuild it.") from error
    if not isinstance(hashes, dict) or not all(isinstance(value, str) for value in hashes.values()):
        raise InputError(f"Expected {path} to map file names to SHA-256 texts, but it does not; fetch or rebuild it.")
    return hashes


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
