"""Transformers models with their image processors, from a verified folder or the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoImageProcessor

from slider_lightning.assets import verify_folder
from slider_lightning.errors import InputError


def load_pretrained(auto_class: Any, source: str | Path, kind: str) -> tuple[Any, Any]:
    """A model in fp32, frozen and in evaluation mode, and its image processor.

    Args:
        auto_class: One of transformers' AutoModelFor classes.
        source: A folder with its `hashes.json`, or a name on the hub, taken from the hub's cache where it is there.
        kind: What the model is, for errors, e.g. "face parser".

    Raises:
        InputError: If the folder is missing or damaged, the weights are absent and the hub does not provide them, or
            they are of another kind of model.
    """
    if Path(source).is_dir() or not is_hub_name(str(source)):
        verify_folder(source)
        remedies = [True]
    else:
        remedies = [True, False]
    for local_files_only in remedies:
        try:
            return _load(auto_class, source, local_files_only)
        except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
            problem = error
    raise InputError(
        f"Expected a {kind} at {source}, but it does not load ({str(problem).splitlines()[0]}); fetch its weights "
        "with a network or give the folder of another one."
    ) from problem


def is_hub_name(source: str) -> bool:
    """Whether a text has the form owner/name of a model on the hub and is no path of this machine."""
    owner, _, name = source.partition("/")
    return bool(owner and name) and "/" not in name and owner not in (".", "..", "~") and not Path(owner).is_dir()


def _load(auto_class: Any, source: str | Path, local_files_only: bool) -> tuple[Any, Any]:
    model = auto_class.from_pretrained(source, local_files_only=local_files_only, dtype=torch.float32)
    processor = AutoImageProcessor.from_pretrained(source, local_files_only=local_files_only)
    return model.eval().requires_grad_(False), processor
