"""Images from files: 8-bit RGB of one size, or one sentence that says which file is not."""

from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from slider_lightning.backbone import pil_to_images
from slider_lightning.errors import InputError

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")


def image_files(folder: str | Path) -> list[Path]:
    """The png, jpg and webp files of a folder, sorted by name; hidden files and other kinds are left out.

    Raises:
        InputError: if the folder is missing or holds none.
    """
    place = Path(folder)
    if not place.is_dir():
        raise InputError(f"Expected a folder of images at {place}, but there is none; check the path.")
    files = [
        path
        for path in sorted(place.iterdir(), key=lambda path: path.name)
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    if not files:
        raise InputError(f"Expected png, jpg or webp images in {place}, but it holds none; put the images there.")
    return files


def read_image_folder(folder: str | Path) -> Float[Tensor, "n 3 height width"]:
    """The images of a folder in [0, 1], float32, sorted by name: a reference set, or one side of image pairs.

    Raises:
        InputError: if the folder is missing or empty, a file cannot be read, or images differ in size or are not RGB.
    """
    return decode_images(((path.name, path.read_bytes()) for path in image_files(folder)), str(folder))


def decode_images(contents: Iterable[tuple[str, bytes]], folder: str) -> Float[Tensor, "n 3 height width"]:
    """Images in [0, 1], float32, from the bytes of image files.

    Args:
        contents: names and bytes; at least one.
        folder: where they come from, for errors.

    Raises:
        InputError: if a file cannot be read, or images differ in size or are not RGB.
    """
    images: list[Image.Image] = []
    first = ""
    for name, content in contents:
        image = _decode(content, f"{folder}/{name}")
        if image.mode != "RGB":
            raise InputError(
                f"Expected 8-bit RGB images in {folder}, but {name} is of mode {image.mode}; convert it to RGB."
            )
        first = first or name
        if images and image.size != images[0].size:
            raise InputError(
                f"Expected images of one size in {folder}, but {name} has {_size(image)} and {first} "
                f"{_size(images[0])}; resize them."
            )
        images.append(image)
    return pil_to_images(images)


def _decode(content: bytes, name: str) -> Image.Image:
    try:
        image = Image.open(BytesIO(content))
        image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"Expected {name} to be an image, but it cannot be read; replace or remove it.") from error
    return ImageOps.exif_transpose(image)


def _size(image: Image.Image) -> str:
    return f"{image.width} x {image.height} px"
