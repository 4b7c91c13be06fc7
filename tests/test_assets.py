"""Atomic writes and the hashes of assets."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from slider_lightning.assets import HASHES_FILE, atomic_path, sha256_file, verify_folder, write_hashes
from slider_lightning.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "weights.bin").write_bytes(bytes(range(256)) * 100)
    (tmp_path / "card.md").write_text("made here")
    (tmp_path / ".lock").write_text("")
    write_hashes(tmp_path)
    return tmp_path


def test_hashes_list_every_visible_file_with_its_sha256(folder: Path) -> None:
    hashes = json.loads((folder / HASHES_FILE).read_text())
    assert list(hashes) == ["card.md", "unet/weights.bin"]
    assert hashes["card.md"] == hashlib.sha256(b"made here").hexdigest() == sha256_file(folder / "card.md")
    assert write_hashes(folder) == hashes
    verify_folder(folder)


def test_one_flipped_bit_is_named(folder: Path) -> None:
    weights = folder / "unet" / "weights.bin"
    content = bytearray(weights.read_bytes())
    content[12345] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InputError, match=r"unet/weights\.bin .*damaged"):
        verify_folder(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "card.md").unlink()
    with pytest.raises(InputError, match=r"card\.md, but it is missing"):
        verify_folder(folder)


@pytest.mark.parametrize("content", [None, "{", "[1]", '{"card.md": 1}'])
def test_a_damaged_list_of_hashes_is_an_input_error(folder: Path, content: str | None) -> None:
    (folder / HASHES_FILE).unlink()
    if content is not None:
        (folder / HASHES_FILE).write_text(content)
    with pytest.raises(InputError, match=r"hashes\.json"):
        verify_folder(folder)


def write_half(path: Path, end: Callable[[], object]) -> None:
    """Write a file and stop in the middle, as `end` does it."""
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        assert temporary.parent == path.parent
        assert temporary.suffix == path.suffix
        end()


def interrupt() -> None:
    raise KeyboardInterrupt


def fill_the_disk() -> None:
    Path("/dev/full").write_text("x")


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("old")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt):
        write_half(path, interrupt)
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_is_an_input_error_that_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No space left on device"):
        write_half(tmp_path / "file.txt", fill_the_disk)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="choose another folder"), atomic_path(tmp_path / "file" / "below.txt"):
        pass
