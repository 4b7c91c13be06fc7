"""Slider files: what they hold, how they are written, and whose files are read.

Layout: kohya's keys in safetensors. A low-rank slider is `lora_unet_<diffusers path with _>.lora_down.weight`,
`.lora_up.weight` and `.alpha`, which diffusers' `load_lora_weights`, A1111 and ComfyUI load; a dense one is `.diff`,
which ComfyUI loads. The header says what the slider is.
"""

import hashlib
import json
import os
import pickle
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from slider_lightning.adapters.base import SliderBase
from slider_lightning.adapters.dense import DenseConfig, DenseSlider
from slider_lightning.adapters.layers import adapted_layers, layer_key, layer_path
from slider_lightning.adapters.metadata import SliderMetadata
from slider_lightning.adapters.slider import AdapterConfig, Slider
from slider_lightning.errors import InputError

METADATA_KEY = "slider_lightning"
DIGEST_KEY = "slider_lightning_sha256"
# Diffusers path of a layer, to its tensors by the last part of their names.
_Parts = Mapping[str, Mapping[str, Tensor]]
_TENSOR_NAME = re.compile(r"(lora_unet_\w+)\.(lora_down\.weight|lora_up\.weight|alpha|diff)")


def save_slider(path: str | os.PathLike[str], slider: SliderBase, metadata: SliderMetadata) -> None:
    """Write a slider file; it appears whole or not at all.

    Args:
        path: ends in .safetensors; its folder is made when it is missing.
        slider: stored in fp32.
        metadata: must agree with the slider's own form, such as rank, alpha and layer set.

    Raises:
        InputError: if the name has another ending or the file cannot be written.
        ValueError: if the metadata describes another adapter.
    """
    target = Path(path)
    if target.suffix != ".safetensors":
        raise InputError(f"Expected a slider file name ending in .safetensors, but got {target}; rename it.")
    if metadata.adapter_config != slider.config:
        raise ValueError(f"Expected metadata of {slider.config}, but got {metadata.adapter_config}.")
    tensors = _tensors(slider)
    header = {
        METADATA_KEY: json.dumps(asdict(metadata)),
        DIGEST_KEY: _digest(tensors),
        "ss_base_model_version": "sdxl_base_v1-0",
    }
    if metadata.rank is not None:
        header |= {
            "ss_network_module": "networks.lora",
            "ss_network_dim": str(metadata.rank),
            "ss_network_alpha": str(metadata.alpha),
        }
    try:
        _write_whole(target, tensors, header)
    except (OSError, SafetensorError) as error:
        message = f"Expected to write {target}, but got: {error}; make room or choose another folder."
        raise InputError(message) from error


def load_slider(path: str | os.PathLike[str], unet: nn.Module | None = None) -> tuple[SliderBase, SliderMetadata]:
    """Read a file of `save_slider`, a kohya safetensors with diffusers' names, or a released `.pt` slider.

    Args:
        path: the file. Without the ending .safetensors it is read as torch-saved tensors, never running code.
        unet: when given, the slider must fit it and is put on its device.

    Returns:
        the slider, a `Slider` or `DenseSlider` by what the file holds, and its metadata: of foreign files the form
        alone (kind, layer set, rank, alpha) is known.

    Raises:
        InputError: if the file is missing, damaged, no slider for an SDXL UNet, or does not fit `unet`.
    """
    source = Path(path)
    if not source.is_file():
        raise InputError(f"Expected a slider file at {source}, but there is none; check the path or train it first.")
    safe = source.suffix == ".safetensors"
    tensors, header = _read_safetensors(source) if safe else (_read_torch(source), {})
    if DIGEST_KEY in header and header[DIGEST_KEY] != _digest(tensors):
        raise _damaged(source, "its weights are not the ones that were saved")
    parts = _parts(source, tensors)
    read = _read_dense if all("diff" in part for part in parts.values()) else _read_low_rank
    slider, metadata = read(source, parts, _read_metadata(source, header))
    if unet is not None:
        _check_unet(source, slider, unet, complete=METADATA_KEY in header)
        slider.to(next(unet.parameters()).device)
    return slider, metadata


def _damaged(source: Path, reason: str) -> InputError:
    return InputError(f"Expected {source} to be a whole slider file, but {reason}; copy or train it again.")


def _foreign(source: Path, reason: str) -> InputError:
    return InputError(f"Expected {source} to be a slider for SDXL, but {reason}; give another file.")


def _tensors(slider: SliderBase) -> dict[str, Tensor]:
    return {
        f"{layer_key(path)}.{name}": tensor.detach().to("cpu", torch.float32).contiguous()
        for path in slider.layer_paths
        for name, tensor in slider.file_tensors(path).items()
    }


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _write_whole(target: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    try:
        save_file(tensors, unfinished, metadata=header)
        Path(unfinished).replace(target)
    finally:
        Path(unfinished).unlink(missing_ok=True)


def _read_safetensors(source: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(source, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _damaged(source, f"it cannot be read ({error})") from error


def _read_torch(source: Path) -> dict[str, Tensor]:
    try:
        tensors = torch.load(source, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, LookupError) as error:
        raise _damaged(source, f"it cannot be read as torch-saved tensors ({type(error).__name__})") from error
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise _foreign(source, "it does not hold named tensors")
    return tensors


def _parts(source: Path, tensors: Mapping[str, Tensor]) -> _Parts:
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _TENSOR_NAME.fullmatch(name)
        if match is None:
            raise _foreign(source, f"it holds {name!r}")
        if not bool(tensor.isfinite().all()):
            raise _damaged(source, f"{name!r} holds values that are not finite")
        parts.setdefault(layer_path(match[1]), {})[match[2]] = tensor
    if not parts:
        raise _foreign(source, "it is empty")
    return parts


def _read_dense(source: Path, parts: _Parts, metadata: SliderMetadata | None) -> tuple[SliderBase, SliderMetadata]:
    metadata = metadata or SliderMetadata.of(DenseConfig(_smallest_layer_set(parts)))
    config = metadata.adapter_config
    if not isinstance(config, DenseConfig):
        raise _damaged(source, f"it holds dense weights and says that it is {metadata.adapter}")
    for path, part in parts.items():
        if part.keys() != {"diff"}:
            raise _foreign(source, f"layer {path} has {', '.join(sorted(part))}")
    return DenseSlider.from_weights({path: part["diff"] for path, part in parts.items()}, config), metadata


def _read_low_rank(source: Path, parts: _Parts, metadata: SliderMetadata | None) -> tuple[SliderBase, SliderMetadata]:
    for path, part in parts.items():
        if "diff" in part:
            raise _foreign(source, f"layer {path} is dense and others are not")
        if not {"lora_down.weight", "lora_up.weight"} <= part.keys():
            raise _damaged(source, f"layer {path} lacks lora_down or lora_up")
    alphas = {part["alpha"].item() if "alpha" in part else None for part in parts.values()}
    if len(alphas) != 1:
        raise _foreign(source, "its layers have different alphas")
    metadata = metadata or _infer_low_rank(source, parts, alphas.pop())
    config = metadata.adapter_config
    if not isinstance(config, AdapterConfig):
        raise _damaged(source, f"it holds low-rank weights and says that it is {metadata.adapter}")
    weights = {path: (part["lora_down.weight"], part["lora_up.weight"]) for path, part in parts.items()}
    for path, (down, up) in weights.items():
        of_rank = down.ndim in (2, 4) and up.shape[1:] == (config.rank, *[1] * (down.ndim - 2))
        if not of_rank or len(down) != config.rank:
            shapes = f"{tuple(down.shape)} and {tuple(up.shape)}"
            raise _foreign(source, f"layer {path} has weights of shapes {shapes}, not of rank {config.rank}")
    return Slider.from_weights(weights, config), metadata


def _read_metadata(source: Path, header: Mapping[str, str]) -> SliderMetadata | None:
    if METADATA_KEY not in header:
        return None
    try:
        return SliderMetadata(**json.loads(header[METADATA_KEY]))
    except (TypeError, ValueError) as error:
        raise _damaged(source, f"its metadata cannot be read ({error})") from error


def _infer_low_rank(source: Path, parts: _Parts, alpha: float | None) -> SliderMetadata:
    down = next(iter(parts.values()))["lora_down.weight"]
    rank = down.shape[0] if down.ndim else 0
    # Without an alpha, loaders take the product as it stands: alpha = rank.
    strength = float(rank) if alpha is None else alpha
    if rank < 1 or strength <= 0:
        raise _foreign(source, f"its rank is {rank} and its alpha {strength}")
    return SliderMetadata.of(AdapterConfig(rank, strength, _smallest_layer_set(parts)))


def _smallest_layer_set(paths: Mapping[str, Any]) -> str:
    if all("attn1" in path for path in paths):
        return "selfattn"
    if all("attn2" in path for path in paths):
        return "xattn"
    return "full" if any("attn2" in path for path in paths) else "noxattn"


def _check_unet(source: Path, slider: SliderBase, unet: nn.Module, *, complete: bool) -> None:
    allowed = adapted_layers(unet, slider.config.layers).keys()
    unexpected = sorted(set(slider.layer_paths) - allowed)
    if unexpected:
        raise _foreign(source, f"the UNet has no {unexpected[0]} among its {slider.config.layers} layers")
    slider.check_fits(unet)
    missing = sorted(allowed - set(slider.layer_paths))
    if complete and missing:
        raise _damaged(source, f"it lacks {missing[0]}")
