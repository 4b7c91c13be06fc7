"""Which layers of the UNet an adapter sits on, and what a slider file calls them."""

import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn

from slider_lightning.errors import InputError

ADAPTED_PARENTS = (Attention, ResnetBlock2D, Downsample2D, Upsample2D)
_KEEPS_PARENT: Mapping[str, Callable[[str], bool]] = MappingProxyType(
    {
        "noxattn": lambda parent: "attn2" not in parent,
        "xattn": lambda parent: "attn2" in parent,
        "selfattn": lambda parent: "attn1" in parent,
        "full": lambda parent: True,
    }
)
LAYER_SETS = tuple(_KEEPS_PARENT)

_KINDS = {
    "attention": re.compile(r".*\battentions\.\d+\.(?:.+\.)?to_(?:q|k|v|out\.0)"),
    "resnet": re.compile(r".*\bresnets\.\d+\.(?:conv1|conv2|time_emb_proj|conv_shortcut)"),
    "sampler": re.compile(r".*\b(?:down|up)samplers\.\d+\.conv"),
}
KEY_PREFIX = "lora_unet_"
_NAMES_WITH_UNDERSCORE = (
    "down_blocks",
    "mid_block",
    "up_blocks",
    "transformer_blocks",
    "time_emb_proj",
    "conv_shortcut",
    "to_q",
    "to_k",
    "to_v",
    "to_out",
)


def check_layer_set(layer_set: str) -> None:
    """Raise InputError unless `layer_set` is one of `LAYER_SETS`."""
    if layer_set not in LAYER_SETS:
        raise InputError(f"Expected a layer set among {', '.join(LAYER_SETS)}, but got {layer_set!r}; choose one.")


def adapted_layers(unet: nn.Module, layer_set: str) -> dict[str, nn.Module]:
    """The layers a slider adapts, in the order of the UNet's modules.

    The rule is that of the released code (REFERENCE.md, "rule behind those counts"): every Linear and Conv2d
    inside an Attention, ResnetBlock2D, Downsample2D or Upsample2D. `noxattn` leaves out cross attention
    (`attn2`), `xattn` keeps only that, `selfattn` keeps only self attention (`attn1`), `full` keeps all.

    Args:
        unet: a `UNet2DConditionModel`, on any device including meta.
        layer_set: one of `LAYER_SETS`.

    Returns:
        diffusers path of each layer, e.g. "down_blocks.0.resnets.0.conv1", to the layer.

    Raises:
        InputError: if the layer set is unknown, or the UNet has no such layers.
    """
    check_layer_set(layer_set)
    keeps_parent = _KEEPS_PARENT[layer_set]
    layers: dict[str, nn.Module] = {}
    for parent_path, parent in unet.named_modules():
        if not isinstance(parent, ADAPTED_PARENTS) or not keeps_parent(parent_path):
            continue
        for path, layer in parent.named_modules(prefix=parent_path):
            if isinstance(layer, nn.Linear | nn.Conv2d):
                layers[path] = layer
    if not layers:
        raise InputError(f"Expected a UNet with layers of the set {layer_set}, but it has none; choose another set.")
    return layers


def layer_key(path: str) -> str:
    """The name in files: "mid_block.resnets.0.conv1" becomes "lora_unet_mid_block_resnets_0_conv1"."""
    return KEY_PREFIX + path.replace(".", "_")


def layer_path(key: str) -> str:
    """The diffusers path of a layer from its kohya name; inverse of `layer_key` on the layers of a UNet."""
    path = key.removeprefix(KEY_PREFIX).replace("_", ".")
    for name in _NAMES_WITH_UNDERSCORE:
        path = path.replace(name.replace("_", "."), name)
    return path


def layer_kind(path: str) -> str | None:
    """Whose layer this is: "attention", "resnet", "sampler" (down and up), or None where no layer set holds it."""
    return next((kind for kind, pattern in _KINDS.items() if pattern.fullmatch(path)), None)


def smallest_layer_set(paths: Iterable[str]) -> str:
    """The smallest layer set that holds these diffusers paths."""
    names = list(paths)
    for layer_set, part in (("selfattn", "attn1"), ("xattn", "attn2")):
        if all(part in name for name in names):
            return layer_set
    return "full" if any("attn2" in name for name in names) else "noxattn"
