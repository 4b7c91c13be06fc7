"""What tells one checkpoint from another: its configuration and the weights as they lie on disk."""

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slider_lightning.errors import InputError

# Tensors up to this size are hashed whole, larger ones in evenly spaced blocks.
_WHOLE_BYTES = 64 * 1024
_BLOCK_BYTES = 4096
_BLOCKS = 8
_MAX_HEADER_BYTES = 100 * 1024 * 1024
# What a library writes about itself, or about the dtype it was saved in, is not part of the model.
_CONFIG_NOISE = ("dtype", "torch_dtype", "transformers_version", "architectures")


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a safetensors file: its dtype as written there, its shape, and the bytes it occupies."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file, sorted by name, after checking that the file is whole.

    Raises:
        InputError: if the file is missing, is no safetensors file, or is longer or shorter than its header says.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size, _MAX_HEADER_BYTES):
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        begin = 8 + length
        tensors = {name: _stored_tensor(entry, begin) for name, entry in sorted(header.items())}
        end = max((tensor.end for tensor in tensors.values()), default=begin)
        if end != size:
            raise ValueError(f"it should be {end} bytes long and is {size}")
    except OSError as error:
        raise InputError(
            f"Expected the weights {path}, but got: {error.strerror}; fetch the checkpoint again."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise InputError(f"Expected {path} to be a whole safetensors file, but {error}; fetch it again.") from error
    return tensors


def fingerprint(configs: Sequence[Path], weights: Sequence[Path]) -> str:
    """SHA-256 over configuration files and weights files.

    Of each tensor it takes name, stored dtype, shape and values: small tensors whole, of a large one eight blocks of
    4 KiB from its first to its last byte. Any training of a tensor changes every block, so another checkpoint has
    another fingerprint, and of 7 GB some 100 MB are read. It is taken from the files, before any cast, so it does not
    depend on the dtype the model is loaded in. Single damaged bytes are what `hashes.json` is for.

    Args:
        configs: JSON or text files; of JSON objects the keys that only describe the saving library are left out.
        weights: safetensors files.

    Raises:
        InputError: if a file is missing or damaged.
    """
    digest = hashlib.sha256()
    for config in configs:
        digest.update(f"{config.parent.name}/{config.name}\0".encode() + _config_content(config))
    for path in weights:
        header = read_header(path)
        with path.open("rb") as file:
            for name, tensor in header.items():
                digest.update(f"{name}\0{tensor.dtype}\0{tensor.shape}\0".encode())
                for start, end in _sampled_ranges(tensor.start, tensor.end):
                    file.seek(start)
                    digest.update(file.read(end - start))
    return digest.hexdigest()


def _stored_tensor(entry: dict, begin: int) -> StoredTensor:
    start, end = entry["data_offsets"]
    return StoredTensor(entry["dtype"], tuple(entry["shape"]), begin + start, begin + end)


def _sampled_ranges(start: int, end: int) -> list[tuple[int, int]]:
    if end - start <= _WHOLE_BYTES:
        return [(start, end)]
    stride = (end - start - _BLOCK_BYTES) / (_BLOCKS - 1)
    return [(begin, begin + _BLOCK_BYTES) for begin in (start + int(block * stride) for block in range(_BLOCKS))]


def _config_content(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix != ".json":
        return content
    try:
        config = json.loads(content)
    except ValueError as error:
        raise InputError(f"Expected {path} to be JSON, but it is damaged ({error}); fetch it again.") from error
    if not isinstance(config, dict):
        return content
    kept = {key: value for key, value in config.items() if not key.startswith("_") and key not in _CONFIG_NOISE}
    return json.dumps(kept, sort_keys=True).encode()
