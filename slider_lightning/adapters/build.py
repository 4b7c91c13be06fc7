"""A new slider from its settings."""

from torch import nn

from slider_lightning.adapters.base import SliderBase
from slider_lightning.adapters.dense import DenseSlider
from slider_lightning.adapters.slider import Slider
from slider_lightning.config.adapter import DenseConfig, SliderConfig


def new_slider(config: SliderConfig, unet: nn.Module, *, seed: int) -> SliderBase:
    """A slider of this form that changes nothing yet.

    Args:
        config: its form.
        unet: the UNet to adapt.
        seed: of the initial lora_down; nothing of a dense slider is drawn.

    Raises:
        InputError: if the UNet has no such layers.
    """
    return DenseSlider(unet, config) if isinstance(config, DenseConfig) else Slider(unet, config, seed=seed)
