"""Adapters, low-rank and dense: which layers they change, how K of them run on one frozen UNet, how they are stored."""

from slider_lightning.adapters.bank import SliderBank
from slider_lightning.adapters.base import SliderBase
from slider_lightning.adapters.build import new_slider
from slider_lightning.adapters.calibration import Calibration, check_settings, common_unit
from slider_lightning.adapters.dense import DenseSlider
from slider_lightning.adapters.files import load_slider, save_slider
from slider_lightning.adapters.layers import LAYER_SETS, adapted_layers
from slider_lightning.adapters.metadata import SliderMetadata
from slider_lightning.adapters.slider import Slider
from slider_lightning.config.adapter import AdapterConfig, DenseConfig, SliderConfig

__all__ = [
    "LAYER_SETS",
    "AdapterConfig",
    "Calibration",
    "DenseConfig",
    "DenseSlider",
    "Slider",
    "SliderBank",
    "SliderBase",
    "SliderConfig",
    "SliderMetadata",
    "adapted_layers",
    "check_settings",
    "common_unit",
    "load_slider",
    "new_slider",
    "save_slider",
]
