"""Images from sliders: seeds x scales with a delayed start, and the strip that shows them."""

from slider_lightning.generation.editing import EditMethod, InversionEdit, edit_photographs
from slider_lightning.generation.fidelity import Fidelity, fidelity
from slider_lightning.generation.images import generate_images
from slider_lightning.generation.photographs import Photographs, encode_pictures, read_photograph
from slider_lightning.generation.pipelines import Img2ImgEdit, InpaintEdit
from slider_lightning.generation.preview import StripConfig, make_strip
from slider_lightning.generation.progress import ProgressCallback
from slider_lightning.generation.sheets import LAYOUTS, AskedScales, Sheet
from slider_lightning.generation.strip import draw_strip, format_scales, save_image, strip_title

__all__ = [
    "LAYOUTS",
    "AskedScales",
    "EditMethod",
    "Fidelity",
    "Img2ImgEdit",
    "InpaintEdit",
    "InversionEdit",
    "Photographs",
    "ProgressCallback",
    "Sheet",
    "StripConfig",
    "draw_strip",
    "edit_photographs",
    "encode_pictures",
    "fidelity",
    "format_scales",
    "generate_images",
    "make_strip",
    "read_photograph",
    "save_image",
    "strip_title",
]
