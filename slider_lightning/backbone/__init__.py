"""The frozen SDXL: load it, encode prompts, predict noise, sample with sliders, decode."""

from slider_lightning.backbone.backbone import Backbone
from slider_lightning.backbone.guidance import classifier_free_guidance
from slider_lightning.backbone.load import load_backbone
from slider_lightning.backbone.pixels import images_to_pil, pil_to_images
from slider_lightning.backbone.prompts import PromptEmbeds, PromptEncoder
from slider_lightning.backbone.sampler import count_unet_calls, sample
from slider_lightning.backbone.sampler_config import SamplerConfig
from slider_lightning.backbone.schedule import (
    ddim_scheduler,
    fresh_scheduler,
    initial_noise,
    named_scheduler,
    step_arguments,
    step_generators,
)
from slider_lightning.backbone.speed import SpeedConfig

__all__ = [
    "Backbone",
    "PromptEmbeds",
    "PromptEncoder",
    "SamplerConfig",
    "SpeedConfig",
    "classifier_free_guidance",
    "count_unet_calls",
    "ddim_scheduler",
    "fresh_scheduler",
    "images_to_pil",
    "initial_noise",
    "load_backbone",
    "named_scheduler",
    "pil_to_images",
    "sample",
    "step_arguments",
    "step_generators",
]
