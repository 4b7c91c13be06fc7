"""What every kind of slider offers: a change of the weights of some layers of one frozen UNet, held apart from it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from jaxtyping import Float
from torch import Tensor, nn

from slider_lightning.adapters.layers import layer_key
from slider_lightning.config.adapter import SliderConfig
from slider_lightning.errors import InputError


class Stack(Protocol):
    """Several sliders of one kind on one layer, ready to run."""

    def delta(self, layer: nn.Module, x: Tensor, strengths: Tensor) -> Tensor:
        """What the sliders add to the layer's output for input `x`, each sample with its own row of strengths."""


class SliderBase(nn.Module, ABC):
    """A slider as a `SliderBank` runs it and a slider file holds it.

    Args:
        adapters: the fp32 master weights of every layer, by diffusers path.
        config: the slider's form.
    """

    def __init__(self, adapters: Mapping[str, nn.Module], config: SliderConfig) -> None:
        super().__init__()
        self.config = config
        self.layer_paths = tuple(adapters)
        for path, adapter in adapters.items():
            self.add_module(layer_key(path), adapter)

    def num_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters())

    def adapter(self, path: str) -> nn.Module:
        """The master weights for the layer at a diffusers path; AttributeError where the slider has none."""
        return self.get_submodule(layer_key(path))

    def check_fits(self, unet: nn.Module) -> None:
        """Raise InputError, naming the first layer that is missing or shaped otherwise, if any."""
        layers = dict(unet.named_modules())
        for path in self.layer_paths:
            expected, layer = self.weight_shape(path), layers.get(path)
            found = tuple(layer.weight.shape) if isinstance(layer, nn.Linear | nn.Conv2d) else None
            if found != expected:
                raise InputError(
                    f"Expected layer {path} of the UNet to have a weight of shape {expected}, but it has "
                    f"{found or 'no such layer'}; use the slider with the model it was trained for."
                )

    @abstractmethod
    def weight_shape(self, path: str) -> tuple[int, ...]:
        """Shape of the weight of the layer at `path`."""

    @abstractmethod
    def delta_weight(self, path: str) -> Tensor:
        """What slider_scale 1 adds to the weight of the layer at `path`, in its shape, fp32."""

    @abstractmethod
    def file_tensors(self, path: str) -> dict[str, Tensor]:
        """The layer's tensors by the name that follows the layer's key in a slider file."""

    @staticmethod
    @abstractmethod
    def add_to_weight(weight: Tensor, sliders: Sequence[Any], path: str, scales: Sequence[float]) -> Tensor:
        """weight + sum_i scale_i dW_i on the layer at `path`, for a weight in fp32."""

    @staticmethod
    @abstractmethod
    def stack(sliders: Sequence[Any], path: str, like: Tensor) -> Stack:
        """Sliders of this kind on one layer, in the dtype and on the device of `like`."""

    @staticmethod
    @abstractmethod
    def strengths(sliders: Sequence[Any], scales: Float[Tensor, "batch sliders"]) -> Float[Tensor, "batch columns"]:
        """What the stack's `delta` takes for these slider scales, on the CPU."""


def scaled(output: Tensor, strengths: Tensor) -> Tensor:
    """output * strengths in the dtype of `output`, the product taken in fp32.

    A scale rounded to bf16 would be off by up to 0.4 %.
    """
    return (output * strengths).to(output.dtype)


def per_sample(strengths: Float[Tensor, "batch columns"], layer: nn.Module, x: Tensor) -> Tensor:
    """Strengths shaped to multiply a layer's output for input `x`, whose channels they stand for."""
    if isinstance(layer, nn.Conv2d):
        return strengths[:, :, None, None]
    return strengths.reshape(x.shape[0], *[1] * (x.ndim - 2), -1)
