"""Images as tensors in [0, 1] and as Pillow images: the one place that converts between them."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor


def images_to_pil(images: Float[Tensor, "batch 3 height width"]) -> list[Image.Image]:
    """Round images in [0, 1] to 8 bit, as diffusers does; values outside are clamped."""
    pixels = (images.detach().float().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    return [Image.fromarray(array) for array in pixels.permute(0, 2, 3, 1).contiguous().numpy()]


def pil_to_images(images: Sequence[Image.Image]) -> Float[Tensor, "batch 3 height width"]:
    """Images in [0, 1], float32, from Pillow images of one size and any mode.

    Grey and palette images become RGB, transparency is laid on white, and the camera's orientation is applied.

    Raises:
        ValueError: if the images differ in size.
    """
    arrays = [np.asarray(as_rgb(image)) for image in images]
    if len({array.shape for array in arrays}) > 1:
        raise ValueError(f"Expected images of one size, but got {sorted({image.size for image in images})}.")
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous().float() / 255


def as_rgb(image: Image.Image, background: str = "white") -> Image.Image:
    """An image of any mode as 8-bit RGB, turned as its camera's orientation says.

    Args:
        image: colour, grey (8 or 16 bit), palette or CMYK, with or without transparency.
        background: what transparency is laid on, a colour as Pillow names it, e.g. "white" or "#808080".
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        # Pillow would clip 16-bit greys at 255 instead of scaling them.
        image = Image.fromarray((np.asarray(image, dtype=np.float32) / 257).round().astype(np.uint8))
    rgba = image.convert("RGBA")
    # Through RGB, because a background that is itself transparent would leave holes.
    canvas = Image.new("RGB", rgba.size, background).convert("RGBA")
    return Image.alpha_composite(canvas, rgba).convert("RGB")
