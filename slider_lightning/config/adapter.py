"""What a slider is made of: a low-rank or a dense change of a set of layers."""

from __future__ import annotations

from typing import Literal

from slider_lightning.config.base import Settings, setting

LayerSet = Literal["noxattn", "xattn", "selfattn", "full"]
_LAYERS = 'Layers that carry the slider: "noxattn" (all but cross-attention), "xattn", "selfattn" or "full".'


class AdapterConfig(Settings):
    """A low-rank change W0 + scale * (alpha / rank) * B A (eq. 5)."""

    kind: Literal["lora"] = "lora"
    rank: int = setting(4, "Rows of lora_down.", ge=1)
    alpha: float = setting(4.0, "LoRA alpha; the change is scaled by alpha / rank. The paper has 1.", gt=0)
    layers: LayerSet = setting("noxattn", _LAYERS)


class DenseConfig(Settings):
    """A difference for every weight of the layers: table 3's "w/o low rank". It wants a smaller optimizer.lr."""

    kind: Literal["dense"] = "dense"
    layers: LayerSet = setting("noxattn", _LAYERS)


SliderConfig = AdapterConfig | DenseConfig
