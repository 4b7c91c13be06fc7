"""Images from sliders: seeds x scales with a delayed start, and the strip that shows them."""

from slider_lightning.generation.images import generate_images
from slider_lightning.generation.preview import ProgressCallback, StripConfig, make_strip
from slider_lightning.generation.sheets import LAYOUTS, AskedScales, Sheet
from slider_lightning.generation.strip import draw_strip, format_scales, save_image, strip_title

__all__ = [
    "LAYOUTS",
    "AskedScales",
    "ProgressCallback",
    "Sheet",
    "StripConfig",
    "draw_strip",
    "format_scales",
    "generate_images",
    "make_strip",
    "save_image",
    "strip_title",
]
