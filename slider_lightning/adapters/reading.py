"""Slider files of any layout and origin, read into one form."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from slider_lightning.adapters.base import SliderBase
from slider_lightning.adapters.blocks import BlockStructure
from slider_lightning.adapters.containers import (
    BLOCKS_KEY,
    DIGEST_KEY,
    DTYPES,
    METADATA_KEY,
    damaged,
    digest,
    foreign,
    read_tensors,
)
from slider_lightning.adapters.dense import DenseConfig, DenseSlider
from slider_lightning.adapters.layers import adapted_layers, layer_kind, smallest_layer_set
from slider_lightning.adapters.layouts import Parts, read_names
from slider_lightning.adapters.metadata import SliderMetadata
from slider_lightning.adapters.peft_header import PeftStrength
from slider_lightning.adapters.slider import AdapterConfig, Slider
from slider_lightning.adapters.uniform import LowRankLayer, UniformLayers


@dataclass(frozen=True)
class SliderFile:
    """What a slider file holds.

    Args:
        layout: one of `LAYOUTS`.
        slider: on the CPU, in fp32.
        metadata: of a file from elsewhere the form alone (kind, layer set, rank, alpha).
        dtype: of the stored weights, by the names in `DTYPES`; several are joined by commas.
        verified: the file carries a digest, and its weights are the ones that were saved.
    """

    layout: str
    slider: SliderBase
    metadata: SliderMetadata
    dtype: str
    verified: bool


def read_slider_file(path: str | os.PathLike[str], unet: nn.Module | None = None) -> SliderFile:
    """Read a slider file and say how it is laid out; the names of its tensors tell.

    Layers of different ranks or alphas become one rank and one alpha (`UniformLayers`). A missing alpha is the rank.
    The original code's names are resolved by the UNet, else by what our own file says of its blocks, else by SDXL's.

    Raises:
        InputError: as `load_slider`.
    """
    source = Path(path)
    tensors, header = read_tensors(source)
    if DIGEST_KEY in header and header[DIGEST_KEY] != digest(tensors):
        raise damaged(source, "its weights are not the ones that were saved")
    metadata = _read_metadata(source, header)
    try:
        named = read_names(tensors, _blocks(header, unet))
        strength = PeftStrength.read(source, header, tensors) if named.layout == "peft" else None
        _check_parts(named.parts)
        if all("diff" in part for part in named.parts.values()):
            slider, metadata = _dense(source, named.parts, metadata)
        else:
            slider, metadata = _low_rank(source, named.parts, strength, metadata)
    except ValueError as error:
        raise foreign(source, str(error)) from error
    if unet is not None:
        _check_unet(source, slider, unet, complete=METADATA_KEY in header)
    layout = "released" if named.layout == "native" and source.suffix != ".safetensors" else named.layout
    return SliderFile(layout, slider, metadata, _stored_dtype(tensors), DIGEST_KEY in header)


def _stored_dtype(tensors: Mapping[str, Tensor]) -> str:
    names = {dtype: name for name, dtype in DTYPES.items()}
    found = {tensor.dtype for name, tensor in tensors.items() if not name.endswith(".alpha")}
    return ", ".join(sorted(names.get(dtype, str(dtype).removeprefix("torch.")) for dtype in found))


def _blocks(header: Mapping[str, str], unet: nn.Module | None) -> BlockStructure | None:
    """The structure that original names follow, where something tells it; ValueError if the header's is damaged."""
    if unet is not None:
        config: Any = unet.config
        return BlockStructure.of_config(config)
    if BLOCKS_KEY not in header:
        return None
    try:
        fields = json.loads(header[BLOCKS_KEY])
        attentions = (tuple(bool(a) for a in fields[f"{side}_attentions"]) for side in ("down", "up"))
        return BlockStructure(int(fields["layers_per_block"]), *attentions)
    except (TypeError, LookupError) as error:
        raise ValueError(f"what it says of its blocks cannot be read ({error})") from error


def _read_metadata(source: Path, header: Mapping[str, str]) -> SliderMetadata | None:
    if METADATA_KEY not in header:
        return None
    try:
        return SliderMetadata(**json.loads(header[METADATA_KEY]))
    except (TypeError, ValueError) as error:
        raise damaged(source, f"its metadata cannot be read ({error})") from error


def _check_parts(parts: Parts) -> None:
    for path, part in parts.items():
        if layer_kind(path) is None:
            raise ValueError(f"it changes {path}, which no layer set of a slider holds")
        for name, tensor in part.items():
            if not bool(tensor.isfinite().all()):
                raise ValueError(f"{name} of {path} holds values that are not finite")


def _dense(source: Path, parts: Parts, metadata: SliderMetadata | None) -> tuple[SliderBase, SliderMetadata]:
    metadata = metadata or SliderMetadata.of(DenseConfig(layers=smallest_layer_set(parts)))
    config = metadata.adapter_config
    if not isinstance(config, DenseConfig):
        raise damaged(source, f"it holds dense weights and says that it is {metadata.adapter}")
    for path, part in parts.items():
        if part.keys() != {"diff"}:
            raise ValueError(f"layer {path} has {', '.join(sorted(part))}")
    return DenseSlider.from_weights({path: part["diff"] for path, part in parts.items()}, config), metadata


def _low_rank(
    source: Path, parts: Parts, strength: PeftStrength | None, metadata: SliderMetadata | None
) -> tuple[SliderBase, SliderMetadata]:
    uniform = UniformLayers.of({path: _layer(source, path, part, strength) for path, part in parts.items()})
    if metadata is None:
        config = AdapterConfig(rank=uniform.rank, alpha=uniform.alpha, layers=smallest_layer_set(parts))
        return Slider.from_weights(uniform.weights, config), SliderMetadata.of(config)
    own = metadata.adapter_config
    # A stored alpha is rounded to fp32.
    if not isinstance(own, AdapterConfig) or own.rank != uniform.rank or not _close(own.alpha, uniform.alpha):
        raise damaged(source, f"it says that it is {own} and holds rank {uniform.rank} and alpha {uniform.alpha:g}")
    return Slider.from_weights(uniform.weights, own), metadata


def _layer(source: Path, path: str, part: Mapping[str, Tensor], strength: PeftStrength | None) -> LowRankLayer:
    if "diff" in part:
        raise ValueError(f"layer {path} is dense and others are not")
    if not {"lora_down.weight", "lora_up.weight"} <= part.keys():
        raise damaged(source, f"layer {path} lacks lora_down or lora_up")
    down, up, alpha = part["lora_down.weight"], part["lora_up.weight"], None
    if "alpha" in part:
        if part["alpha"].numel() != 1:
            raise ValueError(f"layer {path} has more than one alpha")
        alpha = float(part["alpha"])
    elif strength is not None and down.ndim:
        alpha = strength.of_layer(path, len(down))
    layer = LowRankLayer(down, up, alpha)
    if not layer.is_low_rank():
        raise ValueError(f"layer {path} has weights of shapes {tuple(down.shape)} and {tuple(up.shape)}, no low rank")
    return layer


def _close(alpha: float, stored: float) -> bool:
    return math.isclose(alpha, stored, rel_tol=1e-6)


def _check_unet(source: Path, slider: SliderBase, unet: nn.Module, *, complete: bool) -> None:
    allowed = adapted_layers(unet, slider.config.layers).keys()
    unexpected = sorted(set(slider.layer_paths) - allowed)
    if unexpected:
        raise foreign(source, f"the UNet has no {unexpected[0]} among its {slider.config.layers} layers")
    slider.check_fits(unet)
    missing = sorted(allowed - set(slider.layer_paths))
    if complete and missing:
        raise damaged(source, f"it lacks {missing[0]}")
