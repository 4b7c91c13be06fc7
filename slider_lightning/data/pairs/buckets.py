"""Images of any shape at sizes that the model was trained on, and the size conditioning that tells it the truth."""

import functools
import math
from dataclasses import dataclass

from PIL import Image

_PUBLISHED_RESOLUTION = 1024
# Short and long side of SDXL's training sizes, portrait and landscape alike ("SDXL: Improving Latent Diffusion
# Models for High-Resolution Image Synthesis", arXiv 2307.01952, appendix I).
_PUBLISHED_SIDES = (
    (512, 2048),
    (512, 1984),
    (512, 1920),
    (512, 1856),
    (576, 1792),
    (576, 1728),
    (576, 1664),
    (640, 1600),
    (640, 1536),
    (704, 1472),
    (704, 1408),
    (704, 1344),
    (768, 1344),
    (768, 1280),
    (832, 1216),
    (832, 1152),
    (896, 1152),
    (896, 1088),
    (960, 1088),
    (960, 1024),
)

Size = tuple[int, int]


@dataclass(frozen=True)
class Placement:
    """How an image was brought to its bucket: SDXL's micro-conditioning. Heights come before widths.

    Args:
        original_size: height and width of the image as it came, in pixels.
        crop_top_left: top and left edge of the crop, in pixels of the resized image.
        target_size: height and width of the bucket.
    """

    original_size: Size
    crop_top_left: Size
    target_size: Size

    def time_ids(self) -> tuple[int, int, int, int, int, int]:
        """The six numbers in SDXL's order: original size, crop offset, target size."""
        return (*self.original_size, *self.crop_top_left, *self.target_size)


@functools.cache
def buckets(resolution: int, multiple: int) -> tuple[Size, ...]:
    """Heights and widths of about `resolution`^2 pixels, with aspect ratios from 1:4 to 4:1.

    At 1024 these are the sizes SDXL was trained on. For other resolutions they are scaled, and their sides rounded to
    the nearest `multiple`; the square is always the resolution itself, because that is what the model generates.

    Args:
        resolution: side of the square in pixels.
        multiple: what the other sides are multiples of: the downsampling of VAE and UNet together.
    """

    def fitted(side: int) -> int:
        return max(1, round(side * resolution / _PUBLISHED_RESOLUTION / multiple)) * multiple

    portraits = [(fitted(long), fitted(short)) for short, long in _PUBLISHED_SIDES]
    landscapes = [(width, height) for height, width in reversed(portraits)]
    return tuple(dict.fromkeys([*portraits, (resolution, resolution), *landscapes]))


def bucket_for(size: Size, resolution: int, multiple: int) -> Size:
    """The bucket whose aspect ratio is nearest, as a factor; of equal ones that whose area is nearest.

    Args:
        size: height and width of the image.
        resolution: side of the square bucket in pixels.
        multiple: downsampling of VAE and UNet together.

    Returns:
        Height and width.
    """

    def distance(bucket: Size) -> tuple[float, int]:
        stretch = abs(math.log(bucket[0] / bucket[1]) - math.log(size[0] / size[1]))
        return stretch, abs(bucket[0] * bucket[1] - resolution**2)

    return min(buckets(resolution, multiple), key=distance)


def place(image: Image.Image, bucket: Size) -> tuple[Image.Image, Placement]:
    """An image, its proportions kept: resized (Lanczos) to cover the bucket, the rest cut off evenly at both ends.

    It depends on nothing but the image's size, so that twins of one size get the same crop.

    Args:
        image: RGB.
        bucket: height and width wanted.

    Returns:
        The image at the bucket's size, and what was done to it.
    """
    size = (image.height, image.width)
    scale = max(wanted / side for wanted, side in zip(bucket, size, strict=True))
    # The side that decides the scale may come out a pixel short in floating point.
    height, width = (max(wanted, round(side * scale)) for wanted, side in zip(bucket, size, strict=True))
    if (height, width) != size:
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    top, left = (height - bucket[0]) // 2, (width - bucket[1]) // 2
    cropped = image.crop((left, top, left + bucket[1], top + bucket[0]))
    return cropped, Placement(size, (top, left), bucket)
