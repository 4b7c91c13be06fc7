"""Weights of public networks: a file that the user names, or the one in torch's cache."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from slider_lightning.errors import InputError


def find_weights(path: str | None, url: str, what: str) -> Path:
    """The file of a network's weights.

    Args:
        path: A file; None means the place in torch's cache that torch itself would download `url` to.
        url: Where the public weights come from.
        what: The network, for the error.

    Raises:
        InputError: If there is no such file. Nothing is downloaded here.
    """
    cache = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    place = cache if path is None else Path(path).expanduser()
    if not place.is_file():
        raise InputError(
            f"Expected the weights of {what} at {place}, but there is no such file; download {url} to {cache}, or give "
            "the judge's `weights` as the path of that file."
        )
    return place


def read_weights(path: Path, what: str) -> dict[str, Tensor]:
    """A state dict from a safetensors file, or from a torch file, of which nothing but tensors is read.

    Raises:
        InputError: If the file is damaged or holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise InputError(
            f"Expected {path} to hold the weights of {what}, but it is damaged; fetch it again."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"Expected {path} to hold the weights of {what}, but it holds something else; fetch them.")
    return state
