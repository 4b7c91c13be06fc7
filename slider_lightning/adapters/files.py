"""Slider files: what they hold, how they are written, and whose files are read.

Layout: kohya's keys (`lora_unet_<diffusers path with _>.lora_down.weight`, `.lora_up.weight`, `.alpha`) in
safetensors, which diffusers' `load_lora_weights`, A1111 and ComfyUI load. The header says what the slider is.
"""

import hashlib
import json
import os
import pickle
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from slider_lightning.adapters.layers import adapted_layers, layer_key, layer_path
from slider_lightning.adapters.slider import AdapterConfig, Slider
from slider_lightning.errors import InputError

METADATA_KEY = "slider_lightning"
DIGEST_KEY = "slider_lightning_sha256"
_Weights = Mapping[str, tuple[Tensor, Tensor]]
_TENSOR_NAME = re.compile(r"(lora_unet_\w+)\.(lora_down\.weight|lora_up\.weight|alpha)")


@dataclass(frozen=True)
class SliderMetadata:
    """What a slider file says about itself. None means not known, as in files from elsewhere.

    Args:
        rank: of the adapter.
        alpha: of the adapter; its strength at slider_scale 1 is alpha / rank.
        layers: the layer set, one of `LAYER_SETS`.
        objective: which loss it was trained with, e.g. "text_enhance".
        concept: the concept's fields (name, target, positive, negative, preserve) as plain JSON values.
        eta: strength in the training target (eq. 3 and 4).
        base_model: name or folder of the model it was trained on.
        base_model_hash: that backbone's fingerprint.
        useful_scales: (lowest, highest) slider_scale with an even response.
        start_timestep: training timestep at and below which the slider should act, 0..999.
    """

    rank: int
    alpha: float
    layers: str
    objective: str | None = None
    concept: dict[str, Any] | None = None
    eta: float | None = None
    base_model: str | None = None
    base_model_hash: str | None = None
    useful_scales: tuple[float, float] | None = None
    start_timestep: int | None = None

    def __post_init__(self) -> None:
        # Through JSON once, so that what is loaded equals what was saved: JSON has no tuples.
        object.__setattr__(self, "concept", json.loads(json.dumps(self.concept)))
        if self.useful_scales is not None:
            lowest, highest = self.useful_scales
            object.__setattr__(self, "useful_scales", (float(lowest), float(highest)))

    @property
    def adapter_config(self) -> AdapterConfig:
        """The part that says how the adapter is built; InputError if it is out of range."""
        return AdapterConfig(self.rank, self.alpha, self.layers)


def save_slider(path: str | os.PathLike[str], slider: Slider, metadata: SliderMetadata) -> None:
    """Write a slider file; it appears whole or not at all.

    Args:
        path: ends in .safetensors; its folder is made when it is missing.
        slider: stored in fp32.
        metadata: must agree with the slider's own rank, alpha and layer set.

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
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(metadata.rank),
        "ss_network_alpha": str(metadata.alpha),
    }
    try:
        _write_whole(target, tensors, header)
    except (OSError, SafetensorError) as error:
        message = f"Expected to write {target}, but got: {error}; make room or choose another folder."
        raise InputError(message) from error


def load_slider(path: str | os.PathLike[str], unet: nn.Module | None = None) -> tuple[Slider, SliderMetadata]:
    """Read a file of `save_slider`, a kohya safetensors with diffusers' names, or a released `.pt` slider.

    Args:
        path: the file. Without the ending .safetensors it is read as torch-saved tensors, never running code.
        unet: when given, the slider must fit it and is put on its device.

    Returns:
        the slider, and its metadata: of foreign files rank, alpha and layer set alone are known.

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
    weights, alpha = _weights(source, tensors)
    metadata = _read_metadata(source, header) or _infer_metadata(source, weights, alpha)
    _check_shapes(source, weights, metadata.rank)
    slider = Slider.from_weights(weights, metadata.adapter_config)
    if unet is not None:
        _check_unet(source, slider, unet, complete=METADATA_KEY in header)
        slider.to(next(unet.parameters()).device)
    return slider, metadata


def _damaged(source: Path, reason: str) -> InputError:
    return InputError(f"Expected {source} to be a whole slider file, but {reason}; copy or train it again.")


def _foreign(source: Path, reason: str) -> InputError:
    return InputError(f"Expected {source} to be a low-rank slider for SDXL, but {reason}; give another file.")


def _tensors(slider: Slider) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in slider.layer_paths:
        key, pair = layer_key(path), slider.adapter(path)
        tensors[f"{key}.lora_down.weight"] = pair.lora_down.detach().to("cpu", torch.float32).contiguous()
        tensors[f"{key}.lora_up.weight"] = pair.lora_up.detach().to("cpu", torch.float32).contiguous()
        tensors[f"{key}.alpha"] = torch.tensor(slider.config.alpha, dtype=torch.float32)
    return tensors


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


def _weights(source: Path, tensors: Mapping[str, Tensor]) -> tuple[_Weights, float | None]:
    """(lora_down, lora_up) by diffusers path, and the one alpha of the file, None where it has none."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _TENSOR_NAME.fullmatch(name)
        if match is None:
            raise _foreign(source, f"it holds {name!r}")
        if not bool(tensor.isfinite().all()):
            raise _damaged(source, f"{name!r} holds values that are not finite")
        parts.setdefault(match[1], {})[match[2]] = tensor
    if not parts:
        raise _foreign(source, "it is empty")
    for key, part in parts.items():
        if not {"lora_down.weight", "lora_up.weight"} <= part.keys():
            raise _damaged(source, f"{key!r} lacks lora_down or lora_up")
    alphas = {part["alpha"].item() if "alpha" in part else None for part in parts.values()}
    if len(alphas) != 1:
        raise _foreign(source, "its layers have different alphas")
    pairs = ((key, part["lora_down.weight"], part["lora_up.weight"]) for key, part in parts.items())
    return {layer_path(key): (down, up) for key, down, up in pairs}, alphas.pop()


def _check_shapes(source: Path, weights: _Weights, rank: int) -> None:
    for path, (down, up) in weights.items():
        of_rank = down.ndim in (2, 4) and up.shape[1:] == (rank, *[1] * (down.ndim - 2)) and len(down) == rank
        if not of_rank:
            shapes = f"{tuple(down.shape)} and {tuple(up.shape)}"
            raise _foreign(source, f"layer {path} has weights of shapes {shapes}, not of rank {rank}")


def _read_metadata(source: Path, header: Mapping[str, str]) -> SliderMetadata | None:
    if METADATA_KEY not in header:
        return None
    try:
        return SliderMetadata(**json.loads(header[METADATA_KEY]))
    except (TypeError, ValueError) as error:
        raise _damaged(source, f"its metadata cannot be read ({error})") from error


def _infer_metadata(source: Path, weights: _Weights, alpha: float | None) -> SliderMetadata:
    first, _ = next(iter(weights.values()))
    rank = first.shape[0] if first.ndim else 0
    # Without an alpha, loaders take the product as it stands: alpha = rank.
    strength = float(rank) if alpha is None else alpha
    if rank < 1 or strength <= 0:
        raise _foreign(source, f"its rank is {rank} and its alpha {strength}")
    return SliderMetadata(rank, strength, _smallest_layer_set(weights))


def _smallest_layer_set(paths: Mapping[str, Any]) -> str:
    if all("attn1" in path for path in paths):
        return "selfattn"
    if all("attn2" in path for path in paths):
        return "xattn"
    return "full" if any("attn2" in path for path in paths) else "noxattn"


def _check_unet(source: Path, slider: Slider, unet: nn.Module, *, complete: bool) -> None:
    allowed = adapted_layers(unet, slider.config.layers).keys()
    unexpected = sorted(set(slider.layer_paths) - allowed)
    if unexpected:
        raise _foreign(source, f"the UNet has no {unexpected[0]} among its {slider.config.layers} layers")
    slider.check_fits(unet)
    missing = sorted(allowed - set(slider.layer_paths))
    if complete and missing:
        raise _damaged(source, f"it lacks {missing[0]}")
