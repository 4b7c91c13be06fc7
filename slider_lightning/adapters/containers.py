"""The two kinds of files that hold named tensors, safetensors with a header and torch-saved ones without."""

import hashlib
import io
import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from slider_lightning.assets import atomic_path
from slider_lightning.errors import InputError

# In the header of a safetensors file: the metadata as JSON; the digest of names and weights; what the weights are
# stored in; and, beside original names, the structure of the UNet's blocks.
METADATA_KEY = "slider_lightning"
DIGEST_KEY = "slider_lightning_sha256"
DTYPE_KEY = "slider_lightning_dtype"
BLOCKS_KEY = "slider_lightning_blocks"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def damaged(source: Path, reason: str) -> InputError:
    """The error for a file that is not what was saved."""
    return InputError(f"Expected {source} to be a whole slider file, but {reason}; copy or train it again.")


def foreign(source: Path, reason: str) -> InputError:
    """The error for a file of something else."""
    return InputError(f"Expected {source} to be a slider for SDXL, but {reason}; give another file.")


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and bytes of the tensors, in hexadecimal."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        sha.update(name.encode())
        sha.update(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def write_tensors(target: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """Write a file whole or not at all: safetensors by its ending, else torch-saved, which has no room for a header.

    Raises:
        InputError: if it cannot be written.
    """
    with atomic_path(target) as temporary:
        if target.suffix != ".safetensors":
            content = io.BytesIO()
            torch.save(tensors, content)
            temporary.write_bytes(content.getvalue())
            return
        try:
            save_file(tensors, temporary, metadata=header)
        except SafetensorError as error:
            raise OSError(str(error)) from error


def read_tensors(source: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The named tensors of a file and its header; a torch-saved file has none and never runs code.

    Raises:
        InputError: if the file is missing, damaged or holds something else.
    """
    if not source.is_file():
        raise InputError(f"Expected a slider file at {source}, but there is none; check the path or train it first.")
    return _read_safetensors(source) if source.suffix == ".safetensors" else (_read_torch(source), {})


def _read_safetensors(source: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(os.fspath(source), framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise damaged(source, f"it cannot be read ({error})") from error


def _read_torch(source: Path) -> dict[str, Tensor]:
    try:
        tensors = torch.load(source, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, LookupError) as error:
        raise damaged(source, f"it cannot be read as torch-saved tensors ({type(error).__name__})") from error
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise foreign(source, "it does not hold named tensors")
    return tensors
