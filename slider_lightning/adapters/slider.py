"""One slider: a low-rank change of the weights of a frozen UNet.

        x --- W0 (frozen) ------------------------------- + --- y     W = W0 + slider_scale * scaling * B A
         \\                                               /
          --- A lora_down --- * slider_scale * scaling --- B lora_up     scaling = alpha / rank (eq. 5)

A keeps the kernel, stride and padding of a convolution, B is 1x1. B starts at zero: a new slider is a no-op.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from slider_lightning.adapters.base import SliderBase, per_sample, scaled
from slider_lightning.adapters.layers import adapted_layers
from slider_lightning.config.adapter import AdapterConfig


class LowRankPair(nn.Module):
    """The fp32 master weights of one layer's adapter.

    Args:
        lora_down: A, (rank, in) for a Linear, (rank, in, kernel, kernel) for a Conv2d.
        lora_up: B, (out, rank) for a Linear, (out, rank, 1, 1) for a Conv2d.
    """

    def __init__(self, lora_down: Tensor, lora_up: Tensor) -> None:
        super().__init__()
        self.lora_down = nn.Parameter(lora_down)
        self.lora_up = nn.Parameter(lora_up)

    def product(self) -> Tensor:
        """B A in the shape of the layer's weight, fp32."""
        down, up = self.lora_down, self.lora_up
        return (up.flatten(1) @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:])


@dataclass(frozen=True)
class StackedPairs:
    """The adapters of several sliders on one layer as one low-rank product of the summed rank.

    Args:
        lora_down: (ranks, in, ...), the lora_down of all sliders below each other.
        lora_up: (out, ranks, ...), their lora_up side by side.
    """

    lora_down: Tensor
    lora_up: Tensor

    def delta(self, layer: nn.Module, x: Tensor, strengths: Float[Tensor, "batch ranks"]) -> Tensor:
        """What the sliders add to the layer's output for input `x`, each sample with its own strengths."""
        rows = per_sample(strengths, layer, x)
        if isinstance(layer, nn.Conv2d):
            hidden = F.conv2d(x, self.lora_down, None, layer.stride, layer.padding, layer.dilation)
            return F.conv2d(scaled(hidden, rows), self.lora_up)
        return F.linear(scaled(F.linear(x, self.lora_down), rows), self.lora_up)


class Slider(SliderBase):
    """A low-rank adapter for a set of layers of one UNet, held apart from it.

    Args:
        unet: the UNet to adapt; read for its layers' shapes and device, never changed.
        config: rank, alpha and layer set.
        seed: of the initial lora_down. The global random state is neither read nor moved.

    Raises:
        InputError: if the UNet has no layers of the set.
    """

    config: AdapterConfig

    def __init__(self, unet: nn.Module, config: AdapterConfig, *, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        layers = adapted_layers(unet, config.layers)
        super().__init__({path: _new_pair(layer, config.rank, generator) for path, layer in layers.items()}, config)

    @classmethod
    def from_weights(cls, weights: Mapping[str, tuple[Tensor, Tensor]], config: AdapterConfig) -> "Slider":
        """A slider from diffusers path to (lora_down, lora_up), as `LowRankPair` takes them."""
        slider = cls.__new__(cls)
        pairs = {path: LowRankPair(down.float(), up.float()) for path, (down, up) in weights.items()}
        SliderBase.__init__(slider, pairs, config)
        return slider

    @property
    def scaling(self) -> float:
        """alpha / rank."""
        return self.config.alpha / self.config.rank

    def adapter(self, path: str) -> LowRankPair:
        """The master weights for the layer at a diffusers path; AttributeError where the slider has none."""
        pair = super().adapter(path)
        assert isinstance(pair, LowRankPair)
        return pair

    def weight_shape(self, path: str) -> tuple[int, ...]:
        """Shape of the weight of the layer at `path`."""
        pair = self.adapter(path)
        return (pair.lora_up.shape[0], *pair.lora_down.shape[1:])

    def delta_weight(self, path: str) -> Tensor:
        """scaling * B A: what slider_scale 1 adds to the weight of the layer at `path`, in its shape, fp32."""
        return self.scaling * self.adapter(path).product()

    def file_tensors(self, path: str) -> dict[str, Tensor]:
        """lora_down, lora_up and alpha, by kohya's names."""
        pair = self.adapter(path)
        return {
            "lora_down.weight": pair.lora_down,
            "lora_up.weight": pair.lora_up,
            "alpha": torch.tensor(self.config.alpha),
        }

    @staticmethod
    def add_to_weight(weight: Tensor, sliders: Sequence["Slider"], path: str, scales: Sequence[float]) -> Tensor:
        """weight + sum_i scale_i * scaling_i * B_i A_i as one product of the summed rank."""
        stack = Slider.stack(sliders, path, weight)
        strengths = Slider.strengths(sliders, torch.tensor([scales])).to(weight.device)
        up = stack.lora_up.flatten(1) * strengths
        return torch.addmm(weight.flatten(1), up, stack.lora_down.flatten(1)).reshape(weight.shape)

    @staticmethod
    def stack(sliders: Sequence["Slider"], path: str, like: Tensor) -> StackedPairs:
        """The adapters of `sliders` on one layer as one product, in the dtype and on the device of `like`."""
        pairs = [slider.adapter(path) for slider in sliders]
        down = [pair.lora_down.to(like.device, like.dtype) for pair in pairs]
        up = [pair.lora_up.to(like.device, like.dtype) for pair in pairs]
        if len(pairs) == 1:
            return StackedPairs(down[0], up[0])
        return StackedPairs(torch.cat(down), torch.cat(up, dim=1))

    @staticmethod
    def strengths(sliders: Sequence["Slider"], scales: Float[Tensor, "batch sliders"]) -> Float[Tensor, "batch ranks"]:
        """slider_scale * scaling for every row of the stacked lora_down, on the CPU."""
        scalings = torch.tensor([slider.scaling for slider in sliders])
        ranks = torch.tensor([slider.config.rank for slider in sliders])
        return (scales * scalings).repeat_interleave(ranks, dim=1)


def _new_pair(layer: nn.Module, rank: int, generator: torch.Generator) -> LowRankPair:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    down = torch.empty(rank, *weight.shape[1:])
    nn.init.kaiming_uniform_(down, a=1, generator=generator)
    up = torch.zeros(weight.shape[0], rank, *[1] * (weight.ndim - 2))
    return LowRankPair(down.to(weight.device), up.to(weight.device))
