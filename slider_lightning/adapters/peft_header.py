"""Strength of layers in the layout of diffusers and PEFT: alpha stands in the file's header, not beside them."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY

from slider_lightning.adapters.slider import Slider

_PREFIX = "unet."
# What PEFT writes beside its own files, whose names begin with base_model.model.
_PEFT_CONFIG = "adapter_config.json"
_NAME = re.compile(r"\^?[\w.]+\$?")


def peft_header(slider: Slider) -> dict[str, str]:
    """The header by which diffusers gives a slider its strength; without it alpha would be taken to be the rank."""
    settings = {
        "r": slider.config.rank,
        "lora_alpha": slider.config.alpha,
        "target_modules": sorted(slider.layer_paths),
    }
    prefixed = {f"{_PREFIX}{name}": value for name, value in settings.items()}
    return {"format": "pt", LORA_ADAPTER_METADATA_KEY: json.dumps(prefixed, indent=2, sort_keys=True)}


@dataclass(frozen=True)
class PeftStrength:
    """What a PEFT file says about the strength of its layers.

    Args:
        alpha: of the layers that have none of their own.
        alphas: by the path, or by its end, of layers that have.
        rank_stabilised: the scaling is alpha / sqrt(rank).
    """

    alpha: float
    alphas: Mapping[str, float]
    rank_stabilised: bool

    @classmethod
    def read(cls, source: Path, header: Mapping[str, str], names: Mapping[str, Any]) -> "PeftStrength | None":
        """What the header says, or PEFT's own adapter_config.json beside the file; None if neither is there.

        Raises:
            ValueError: if it cannot be read or describes another kind of adapter, in words that follow "but".
        """
        beside = source.with_name(_PEFT_CONFIG)
        if LORA_ADAPTER_METADATA_KEY in header:
            settings = _settings(header[LORA_ADAPTER_METADATA_KEY])
        elif any(name.startswith("base_model.model.") for name in names) and beside.is_file():
            settings = _settings(beside.read_text())
        else:
            return None
        if "lora_alpha" not in settings:
            return None
        if settings.get("use_dora"):
            raise ValueError("it says that it is a DoRA adapter, which sliders are not")
        alphas = settings.get("alpha_pattern") or {}
        if not all(_NAME.fullmatch(name) for name in alphas):
            raise ValueError("its alphas are given by regular expressions")
        try:
            numbers = {name.rstrip("$"): float(alpha) for name, alpha in alphas.items()}
            return cls(float(settings["lora_alpha"]), numbers, bool(settings.get("use_rslora")))
        except (TypeError, ValueError) as error:
            raise ValueError(f"its alphas are no numbers ({error})") from error

    def of_layer(self, path: str, rank: int) -> float:
        """Alpha of a layer, such that its scaling is alpha / rank."""
        alpha = next((alpha for name, alpha in self.alphas.items() if _names(name, path)), self.alpha)
        return alpha * rank**0.5 if self.rank_stabilised else alpha


def _settings(text: str) -> dict[str, Any]:
    try:
        settings = json.loads(text)
    except ValueError as error:
        raise ValueError(f"its description of the adapter cannot be read ({error})") from error
    if not isinstance(settings, dict):
        raise ValueError("its description of the adapter is no JSON object")
    return {name.removeprefix(_PREFIX): value for name, value in settings.items()}


def _names(name: str, path: str) -> bool:
    """Whether a name of PEFT's patterns means the layer: the whole path after ^, else its end."""
    return path == name.removeprefix("^") or (not name.startswith("^") and path.endswith(f".{name}"))
