"""Low-rank layers of different ranks and alphas as one slider of one rank and one alpha, which changes the same."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LowRankLayer:
    """One layer of a LoRA file: W0 + alpha / rank * B A.

    Args:
        lora_down: A, (rank, in) for a Linear, (rank, in, kernel, kernel) for a Conv2d.
        lora_up: B, (out, rank) for a Linear, (out, rank, 1, 1) for a Conv2d.
        alpha: None where the file has none: loaders then take the product as it stands, alpha = rank.
    """

    lora_down: Tensor
    lora_up: Tensor
    alpha: float | None

    @property
    def rank(self) -> int:
        """Rows of A; 0 for a scalar."""
        return self.lora_down.shape[0] if self.lora_down.ndim else 0

    @property
    def scaling(self) -> float:
        """alpha / rank."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def is_low_rank(self) -> bool:
        """Whether the shapes are those of a low-rank pair."""
        dims = self.lora_down.ndim
        return dims in (2, 4) and self.rank > 0 and self.lora_up.shape[1:] == (self.rank, *[1] * (dims - 2))


@dataclass(frozen=True)
class UniformLayers:
    """Layers of one rank and one alpha.

    Args:
        weights: (lora_down, lora_up) by diffusers path.
        rank: of every layer.
        alpha: of every layer.
    """

    weights: dict[str, tuple[Tensor, Tensor]]
    rank: int
    alpha: float

    @classmethod
    def of(cls, layers: Mapping[str, LowRankLayer]) -> "UniformLayers":
        """The same change of every weight in the largest rank and with the scaling that most layers have.

        Smaller ranks are filled up with zeros, and where the scaling differs lora_up takes the factor, in fp32: the
        deltas are the same to rounding. Layers that differ in neither keep their tensors as they are.

        Args:
            layers: at least one, by diffusers path.

        Raises:
            ValueError: if no layer has an alpha above 0.
        """
        rank = max(layer.rank for layer in layers.values())
        scalings = Counter(layer.scaling for layer in layers.values() if layer.scaling > 0)
        if not scalings:
            raise ValueError("no layer has an alpha above 0")
        scaling = scalings.most_common(1)[0][0]
        alphas = {layer.alpha for layer in layers.values() if layer.scaling == scaling and layer.rank == rank}
        known = alphas.pop() if len(alphas) == 1 else None
        alpha = scaling * rank if known is None else known
        return cls({path: _fitted(layer, rank, scaling) for path, layer in layers.items()}, rank, alpha)


def _fitted(layer: LowRankLayer, rank: int, scaling: float) -> tuple[Tensor, Tensor]:
    down, up = layer.lora_down, layer.lora_up
    if layer.scaling != scaling:
        up = up.float() * (layer.scaling / scaling)
    missing = rank - layer.rank
    if missing:
        down = torch.cat([down, down.new_zeros(missing, *down.shape[1:])])
        up = torch.cat([up, up.new_zeros(up.shape[0], missing, *up.shape[2:])], dim=1)
    return down, up
