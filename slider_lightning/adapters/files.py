"""Slider files, written and read.

A slider is written in one of four layouts (see `layouts`), in fp32 or in half precision. The header of a safetensors
file says what the slider is, so that round trips between layouts lose nothing. Files from elsewhere are read in the
same layouts; of them the form alone is known, which comes from the tensors and never from the file's name.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from torch import Tensor, nn

from slider_lightning.adapters.base import SliderBase
from slider_lightning.adapters.blocks import BlockStructure
from slider_lightning.adapters.containers import (
    BLOCKS_KEY,
    DIGEST_KEY,
    DTYPE_KEY,
    DTYPES,
    METADATA_KEY,
    digest,
    write_tensors,
)
from slider_lightning.adapters.layouts import SUFFIXES, named_tensors
from slider_lightning.adapters.metadata import SliderMetadata
from slider_lightning.adapters.peft_header import peft_header
from slider_lightning.adapters.reading import read_slider_file
from slider_lightning.adapters.slider import Slider
from slider_lightning.errors import InputError


def save_slider(
    path: str | os.PathLike[str],
    slider: SliderBase,
    metadata: SliderMetadata,
    *,
    layout: str = "native",
    dtype: str = "fp32",
) -> None:
    """Write a slider file; it appears whole or not at all.

    Args:
        path: ends in .safetensors, for layout "released" in .pt; its folder is made when it is missing.
        slider: for layout "kohya" on a whole layer set, from which the names of the blocks follow.
        metadata: must agree with the slider's own form, such as rank, alpha and layer set. Layout "released" has no
            room for it.
        layout: one of `LAYOUTS`.
        dtype: of the stored weights, one of `DTYPES`. Alphas stay fp32.

    Raises:
        InputError: if the layout cannot hold the slider, the name has another ending, the weights are too large for
            the dtype, or the file cannot be written.
        ValueError: if the metadata describes another adapter.
    """
    target = Path(path)
    if metadata.adapter_config != slider.config:
        raise ValueError(f"Expected metadata of {slider.config!r}, but got {metadata.adapter_config!r}.")
    if dtype not in DTYPES:
        raise InputError(f"Expected a dtype among {', '.join(DTYPES)}, but got {dtype!r}; choose one.")
    blocks = BlockStructure.of_layers(slider.layer_paths) if layout == "kohya" else None
    tensors = _stored(named_tensors(slider, layout, blocks), dtype)
    suffix = SUFFIXES[layout]
    if target.suffix != suffix:
        raise InputError(f"Expected a slider file name ending in {suffix}, but got {target}; rename it.")
    header = {METADATA_KEY: json.dumps(asdict(metadata)), DIGEST_KEY: digest(tensors), DTYPE_KEY: dtype}
    header["ss_base_model_version"] = "sdxl_base_v1-0"
    if blocks is not None:
        header[BLOCKS_KEY] = json.dumps(asdict(blocks))
    if isinstance(slider, Slider):
        header |= _kohya_header(slider) | (peft_header(slider) if layout == "peft" else {})
    write_tensors(target, tensors, header)


def load_slider(path: str | os.PathLike[str], unet: nn.Module | None = None) -> tuple[SliderBase, SliderMetadata]:
    """Read a slider file in any layout: see `read_slider_file`.

    Args:
        path: the file. Without the ending .safetensors it is read as torch-saved tensors, never running code.
        unet: when given, the slider must fit it and is put on its device.

    Returns:
        the slider, a `Slider` or `DenseSlider` by what the file holds, and its metadata: of foreign files the form
        alone (kind, layer set, rank, alpha) is known.

    Raises:
        InputError: if the file is missing, damaged, no slider for an SDXL UNet, or does not fit `unet`.
    """
    file = read_slider_file(path, unet)
    if unet is not None:
        file.slider.to(next(unet.parameters()).device)
    return file.slider, file.metadata


def _kohya_header(slider: Slider) -> dict[str, str]:
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(slider.config.rank),
        "ss_network_alpha": str(slider.config.alpha),
    }


def _stored(named: Mapping[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """The tensors as they go into the file; InputError if a weight is too large for the dtype."""
    stored = {
        name: tensor.detach().to("cpu", DTYPES["fp32" if name.endswith(".alpha") else dtype]).contiguous()
        for name, tensor in named.items()
    }
    if dtype != "fp32" and not all(bool(tensor.isfinite().all()) for tensor in stored.values()):
        raise InputError(f"Expected weights that {dtype} can hold, but some are too large; choose bf16 or fp32.")
    return stored
