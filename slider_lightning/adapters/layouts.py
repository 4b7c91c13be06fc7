"""What the tensors of a slider are called in files: four layouts, one content.

    native     lora_unet_down_blocks_1_attentions_0_..._to_q.lora_down.weight    safetensors; ours
    kohya      lora_unet_input_blocks_4_1_..._to_q.lora_down.weight              safetensors; kohya-ss, A1111, ComfyUI
    peft       unet.down_blocks.1.attentions.0....to_q.lora_A.weight             safetensors; diffusers, PEFT
    released   as native                                                         torch-saved; the released sliders

All but peft say alpha beside each layer; peft says it in the header. A dense layer is `.diff`, in native and kohya
alone.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from slider_lightning.adapters.base import SliderBase
from slider_lightning.adapters.blocks import SDXL_BLOCKS, BlockStructure
from slider_lightning.adapters.layers import KEY_PREFIX, layer_key, layer_path
from slider_lightning.errors import InputError

LAYOUTS = ("native", "kohya", "peft", "released")
DENSE_LAYOUTS = ("native", "kohya")
SUFFIXES = dict.fromkeys(LAYOUTS, ".safetensors") | {"released": ".pt"}

# Diffusers path of a layer, to its tensors by kohya's names: lora_down.weight, lora_up.weight, alpha, diff.
Parts = Mapping[str, Mapping[str, Tensor]]

_KEYED = re.compile(r"lora_unet_(\w+)\.(lora_down\.weight|lora_up\.weight|alpha|diff)")
_DOTTED = re.compile(r"(?:base_model\.model\.)?(?:unet\.)?([\w.]+?)\.(?:(lora_[AB])(?:\.default)?\.weight|alpha)")
_ORIGINAL = ("input_blocks_", "middle_block_", "output_blocks_")
_PEFT_PARTS = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}
_KOHYA_PARTS = {"lora_A": "lora_down.weight", "lora_B": "lora_up.weight", None: "alpha"}
# What other files hold beside or instead of low-rank layers of a UNet; without it images would not be what they mean.
_OTHER_KINDS = {
    "dora_scale": "DoRA magnitudes",
    "lora_magnitude_vector": "DoRA magnitudes",
    "hada_": "a LoHa adapter",
    "lokr_": "a LoKr adapter",
    "oft_": "an OFT adapter",
    "lora_mid": "a Tucker-decomposed LoCon adapter",
    "diff_b": "changes of biases",
    "lora_B.bias": "changes of biases",
    "_norm": "changes of norms",
    "lora_te": "layers of a text encoder",
    "text_encoder": "layers of a text encoder",
}


@dataclass(frozen=True)
class NamedParts:
    """The tensors of a file, told apart by their names.

    Args:
        layout: "native", "kohya" or "peft".
        parts: the tensors by layer.
    """

    layout: str
    parts: Parts


def named_tensors(slider: SliderBase, layout: str, blocks: BlockStructure | None) -> dict[str, Tensor]:
    """The slider's own tensors under the layout's names.

    Args:
        slider: low-rank, or dense for a layout in `DENSE_LAYOUTS`.
        layout: one of `LAYOUTS`.
        blocks: of the UNet, for layout "kohya".

    Raises:
        InputError: if the layout is unknown or cannot hold the slider, or `blocks` are not its UNet's.
    """
    if layout not in LAYOUTS:
        raise InputError(f"Expected a layout among {', '.join(LAYOUTS)}, but got {layout!r}; choose one.")
    if slider.config.kind == "dense" and layout not in DENSE_LAYOUTS:
        raise InputError(
            f"Expected a low-rank slider for layout={layout}, but this one is dense, which its readers do not know; "
            f"choose {' or '.join(DENSE_LAYOUTS)} (ComfyUI and A1111 read both)."
        )
    named: dict[str, Tensor] = {}
    for path in slider.layer_paths:
        for part, tensor in slider.file_tensors(path).items():
            if layout == "peft":
                named |= {f"unet.{path}.{_PEFT_PARTS[part]}": tensor} if part in _PEFT_PARTS else {}
            else:
                key = kohya_key(path, blocks) if layout == "kohya" else layer_key(path)
                named[f"{key}.{part}"] = tensor
    return named


def kohya_key(path: str, blocks: BlockStructure | None) -> str:
    """The name of a layer in layout "kohya"; InputError if the structure has no such layer."""
    original = None if blocks is None else blocks.original_path(path)
    if original is None:
        raise InputError(
            f"Expected layers that the original SDXL code has names for, but got {path}; choose layout=native or peft."
        )
    return KEY_PREFIX + original.replace(".", "_")


def read_names(tensors: Mapping[str, Tensor], blocks: BlockStructure | None) -> NamedParts:
    """Tell layout, layers and parts from the names of a file's tensors.

    Args:
        tensors: of a file.
        blocks: of the UNet, for original names; None takes SDXL's.

    Raises:
        ValueError: saying what the file holds that is no slider for the UNet, in words that follow "but".
    """
    layout = _layout(tensors)
    split = _split_dotted if layout == "peft" else _split_keyed
    paths: dict[str, Callable[[str], str]] = {"native": layer_path, "kohya": _diffusers_paths(blocks), "peft": str}
    path_of = paths[layout]
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        layer, part = split(name)
        parts.setdefault(path_of(layer), {})[part] = tensor
    return NamedParts(layout, parts)


def _layout(names: Iterable[str]) -> str:
    """The one layout whose names these are."""
    layouts = {_layout_of(name) for name in names}
    if len(layouts) != 1:
        raise ValueError(f"it mixes names of the layouts {', '.join(sorted(layouts))}" if layouts else "it is empty")
    return layouts.pop()


def _layout_of(name: str) -> str:
    for mark, kind in _OTHER_KINDS.items():
        if mark in name:
            raise ValueError(f"it holds {kind} ({name!r}), which sliders do not have")
    if match := _KEYED.fullmatch(name):
        return "kohya" if match[1].startswith(_ORIGINAL) else "native"
    if _DOTTED.fullmatch(name):
        return "peft"
    raise ValueError(f"it holds {name!r}")


def _split_keyed(name: str) -> tuple[str, str]:
    match = _KEYED.fullmatch(name)
    assert match is not None
    return match[1], match[2]


def _split_dotted(name: str) -> tuple[str, str]:
    match = _DOTTED.fullmatch(name)
    assert match is not None
    return match[1], _KOHYA_PARTS[match[2]]


def _diffusers_paths(blocks: BlockStructure | None) -> Callable[[str], str]:
    """From original names to diffusers paths, by the UNet's blocks or else by SDXL's."""
    structure = blocks or SDXL_BLOCKS

    def path_of(key: str) -> str:
        path = structure.diffusers_path(key)
        if path is None:
            whose = "the UNet" if blocks else "SDXL, whose names are taken where no UNet is given,"
            raise ValueError(f"it changes {key}, and {whose} has no such layer that a slider adapts")
        return path

    return path_of
