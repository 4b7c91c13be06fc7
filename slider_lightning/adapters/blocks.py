"""The layers of SDXL by the names of its original code, which kohya-ss, A1111 and ComfyUI give them.

input_blocks.0          conv_in
input_blocks.1 ...      of every down block: layers_per_block times a resnet (.0) and, where it attends, an
                        attention (.1); then, but for the last block, the downsampler (.0.op)
middle_block.0, 1, 2    resnet, attention, resnet
output_blocks.0 ...     of every up block: one more resnet (.0) and attention (.1) than below; the last of them also
                        holds, but for the last block, the upsampler (.2.conv, without attention .1.conv)
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from slider_lightning.adapters.layers import layer_path
from slider_lightning.errors import InputError

_PIECE = re.compile(r"((?:down_blocks\.\d+|mid_block|up_blocks\.\d+)\.([a-z]+)\.\d+)\.(.+)")
_ORIGINAL_KEY = re.compile(r"(input_blocks_\d+_\d+|middle_block_\d+|output_blocks_\d+_\d+)_(\w+)")
# What a piece calls its layers, in diffusers and in the original code; attentions use the same names in both.
_LEAVES = {
    "resnets": {
        "conv1": "in_layers.2",
        "time_emb_proj": "emb_layers.1",
        "conv2": "out_layers.3",
        "conv_shortcut": "skip_connection",
    },
    "downsamplers": {"conv": "op"},
    "upsamplers": {"conv": "conv"},
}
_DIFFUSERS_LEAVES = {
    kind: {original.replace(".", "_"): name for name, original in leaves.items()} for kind, leaves in _LEAVES.items()
}


@dataclass(frozen=True)
class BlockStructure:
    """How a UNet's blocks are built, as far as their original names depend on it.

    Args:
        layers_per_block: resnets of every down block; up blocks have one more.
        down_attentions: whether each down block attends, from the input on.
        up_attentions: the same of the up blocks, towards the output.
    """

    layers_per_block: int
    down_attentions: tuple[bool, ...]
    up_attentions: tuple[bool, ...]

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> "BlockStructure":
        """The structure that a `UNet2DConditionModel`'s config describes.

        Raises:
            InputError: if its blocks differ in the number of layers.
        """
        layers = config["layers_per_block"]
        counts = {layers} if isinstance(layers, int) else set(layers)
        if len(counts) != 1:
            raise InputError(
                f"Expected a UNet with equally many layers in every block for kohya's names, but it has "
                f"{list(layers)}; choose layout=native or peft."
            )
        down, up = (tuple("Attn" in name for name in config[f"{side}_block_types"]) for side in ("down", "up"))
        return cls(counts.pop(), down, up)

    @classmethod
    def of_layers(cls, paths: Iterable[str]) -> "BlockStructure":
        """The structure of the UNet that a slider on a whole layer set was made for.

        Args:
            paths: diffusers paths of the slider's layers.

        Raises:
            InputError: if the layers tell it in no single way, as when some are missing.
        """
        seen: dict[tuple[str, int, str], set[int]] = defaultdict(set)
        for path in paths:
            side, number, kind, index = (path.split(".") + [""] * 4)[:4]
            if side in ("down_blocks", "up_blocks") and kind in ("resnets", "attentions"):
                seen[side, int(number), kind].add(int(index))
        more = {"down_blocks": 0, "up_blocks": 1}
        counts = {count - more[key[0]] for key, found in seen.items() for count in (len(found), max(found) + 1)}
        size = 1 + max((number for _, number, _ in seen), default=-1)
        down, up = (
            tuple((side, number, "attentions") in seen for number in range(size))
            for side in ("down_blocks", "up_blocks")
        )
        if len(counts) != 1 or not any(down) or down != up[::-1]:
            raise InputError(
                "Expected the layers of a whole layer set, from which kohya's names of the blocks follow, but some are "
                "missing; choose layout=native or peft."
            )
        return cls(counts.pop(), down, up)

    @cached_property
    def pieces(self) -> dict[str, str]:
        """Resnets, attentions and samplers: diffusers path to original path."""
        names = {"mid_block.resnets.0": "middle_block.0", "mid_block.resnets.1": "middle_block.2"}
        names["mid_block.attentions.0"] = "middle_block.1"
        stride = self.layers_per_block + 1
        for block, attends in enumerate(self.down_attentions):
            first, piece = 1 + block * stride, f"down_blocks.{block}"
            for layer in range(self.layers_per_block):
                names |= _layer(piece, layer, f"input_blocks.{first + layer}", attends)
            if block + 1 < len(self.down_attentions):
                names[f"{piece}.downsamplers.0"] = f"input_blocks.{first + self.layers_per_block}.0"
        for block, attends in enumerate(self.up_attentions):
            first, piece = block * stride, f"up_blocks.{block}"
            for layer in range(stride):
                names |= _layer(piece, layer, f"output_blocks.{first + layer}", attends)
            if block + 1 < len(self.up_attentions):
                names[f"{piece}.upsamplers.0"] = f"output_blocks.{first + stride - 1}.{2 if attends else 1}"
        return names

    @cached_property
    def _diffusers_pieces(self) -> dict[str, str]:
        return {original.replace(".", "_"): piece for piece, original in self.pieces.items()}

    def original_path(self, path: str) -> str | None:
        """ "up_blocks.0.upsamplers.0.conv" as "output_blocks.2.2.conv"; None where the structure has no such layer."""
        match = _PIECE.fullmatch(path)
        piece = self.pieces.get(match[1]) if match else None
        if match is None or piece is None:
            return None
        leaf = match[3] if match[2] == "attentions" else _LEAVES[match[2]].get(match[3])
        return leaf and f"{piece}.{leaf}"

    def diffusers_path(self, key: str) -> str | None:
        """ "output_blocks_2_2_conv" as "up_blocks.0.upsamplers.0.conv"; None where the structure has no such layer."""
        match = _ORIGINAL_KEY.fullmatch(key)
        piece = self._diffusers_pieces.get(match[1]) if match else None
        if match is None or piece is None:
            return None
        kind = piece.split(".")[-2]
        leaf = layer_path(match[2]) if kind == "attentions" else _DIFFUSERS_LEAVES[kind].get(match[2])
        return leaf and f"{piece}.{leaf}"


SDXL_BLOCKS = BlockStructure(2, (False, True, True), (True, True, False))


def _layer(piece: str, layer: int, original: str, attends: bool) -> dict[str, str]:
    names = {f"{piece}.resnets.{layer}": f"{original}.0"}
    return names | ({f"{piece}.attentions.{layer}": f"{original}.1"} if attends else {})
