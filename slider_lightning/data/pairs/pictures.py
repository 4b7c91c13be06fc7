"""A user's image files as 8-bit RGB, or one sentence that says why a file cannot be read."""

import struct
from pathlib import Path

from PIL import Image, ImageColor, UnidentifiedImageError

from slider_lightning.backbone.pixels import as_rgb
from slider_lightning.errors import InputError

# What Pillow's readers raise on damaged files: OSError on missing, foreign and truncated ones, the rest by format.
_READING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    RuntimeError,
    struct.error,
    Image.DecompressionBombError,
)


class PictureError(InputError):
    """An image file that cannot be read.

    Args:
        path: the file.
        reason: why not, in a few words.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"Expected {path} to be an image, but it cannot be read ({reason}); replace or remove it.")
        self.reason = reason


def open_picture(path: Path, background: str = "white") -> Image.Image:
    """An image file as 8-bit RGB: PNG, JPEG, WebP and whatever else Pillow reads, of any mode.

    The camera's orientation is applied, 16-bit greys are scaled to 8 bit, and of an animation the first frame is taken.

    Args:
        path: the file.
        background: what transparency is laid on, a colour as Pillow names it, e.g. "white" or "#808080".

    Raises:
        PictureError: if the file is missing, damaged or no image, or has 32 bits a channel, which name no white.
        InputError: if the background is no colour.
    """
    check_background(background)
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode in ("I", "F"):
                raise PictureError(path, "it has 32 bits a channel, save it with 8 or 16")
            return as_rgb(image, background)
    except UnidentifiedImageError as error:
        raise PictureError(path, "it is in no format that Pillow knows") from error
    except _READING_ERRORS as error:
        raise PictureError(path, getattr(error, "strerror", None) or str(error)) from error


def check_background(background: str) -> None:
    """Refuse what is no colour.

    Raises:
        InputError: if Pillow does not know the colour.
    """
    try:
        ImageColor.getrgb(background)
    except ValueError as error:
        raise InputError(
            f"Expected the background to be a colour, but got {background!r}; write a name such as white, or #rrggbb."
        ) from error
