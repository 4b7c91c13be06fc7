"""A slider of full rank: one difference per weight, for the ablation "w/o low rank (full fine-tune)" of table 3."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from slider_lightning.adapters.base import SliderBase, per_sample, scaled
from slider_lightning.adapters.layers import adapted_layers
from slider_lightning.config.adapter import DenseConfig


class WeightDifference(nn.Module):
    """The fp32 master weight of one layer's adapter.

    Args:
        diff: D, in the shape of the layer's weight.
    """

    def __init__(self, diff: Tensor) -> None:
        super().__init__()
        self.diff = nn.Parameter(diff)


@dataclass(frozen=True)
class StackedDifferences:
    """The differences of several sliders on one layer.

    Args:
        diffs: one per slider, in the shape of the layer's weight.
    """

    diffs: tuple[Tensor, ...]

    def delta(self, layer: nn.Module, x: Tensor, strengths: Float[Tensor, "batch sliders"]) -> Tensor:
        """What the sliders add to the layer's output for input `x`, each sample with its own strengths."""
        columns = strengths.split(1, dim=1)
        deltas = [
            scaled(_without_bias(layer, x, diff), per_sample(column, layer, x))
            for diff, column in zip(self.diffs, columns, strict=True)
        ]
        return deltas[0] if len(deltas) == 1 else torch.stack(deltas).sum(dim=0)


def _without_bias(layer: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """The layer's output for input `x` with another weight and no bias."""
    if isinstance(layer, nn.Conv2d):
        return F.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
    return F.linear(x, weight)


class DenseSlider(SliderBase):
    """A difference for every weight of a set of layers of one UNet, held apart from it; a new one is zero.

    Args:
        unet: the UNet to adapt; read for its layers' shapes and device, never changed.
        config: the layer set.

    Raises:
        InputError: if the UNet has no layers of the set.
    """

    config: DenseConfig

    def __init__(self, unet: nn.Module, config: DenseConfig) -> None:
        layers = adapted_layers(unet, config.layers)
        super().__init__({path: WeightDifference(_zeros_like_weight(layer)) for path, layer in layers.items()}, config)

    @classmethod
    def from_weights(cls, weights: Mapping[str, Tensor], config: DenseConfig) -> "DenseSlider":
        """A slider from diffusers path to the difference of that layer's weight."""
        slider = cls.__new__(cls)
        SliderBase.__init__(slider, {path: WeightDifference(diff.float()) for path, diff in weights.items()}, config)
        return slider

    def adapter(self, path: str) -> WeightDifference:
        """The master weight for the layer at a diffusers path; AttributeError where the slider has none."""
        difference = super().adapter(path)
        assert isinstance(difference, WeightDifference)
        return difference

    def weight_shape(self, path: str) -> tuple[int, ...]:
        """Shape of the weight of the layer at `path`."""
        return tuple(self.adapter(path).diff.shape)

    def delta_weight(self, path: str) -> Tensor:
        """D of the layer at `path`, fp32."""
        return self.adapter(path).diff

    def file_tensors(self, path: str) -> dict[str, Tensor]:
        """The difference, by kohya's name."""
        return {"diff": self.adapter(path).diff}

    @staticmethod
    def add_to_weight(weight: Tensor, sliders: Sequence["DenseSlider"], path: str, scales: Sequence[float]) -> Tensor:
        """weight + sum_i scale_i D_i."""
        for slider, scale in zip(sliders, scales, strict=True):
            weight = torch.add(weight, slider.adapter(path).diff.to(weight.device), alpha=scale)
        return weight

    @staticmethod
    def stack(sliders: Sequence["DenseSlider"], path: str, like: Tensor) -> StackedDifferences:
        """The differences of `sliders` on one layer, in the dtype and on the device of `like`."""
        return StackedDifferences(tuple(slider.adapter(path).diff.to(like.device, like.dtype) for slider in sliders))

    @staticmethod
    def strengths(
        sliders: Sequence["DenseSlider"], scales: Float[Tensor, "batch sliders"]
    ) -> Float[Tensor, "batch sliders"]:
        """The slider scales themselves."""
        return scales


def _zeros_like_weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return torch.zeros_like(weight, dtype=torch.float32)
