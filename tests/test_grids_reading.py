"""Plain folders of images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.grids import image_files, read_image_folder
from slider_lightning.errors import InputError


def colour(value: int, size: tuple[int, int] = (6, 4)) -> Image.Image:
    return Image.new("RGB", size, (value, 0, 255))


def test_a_folder_is_read_by_name(tmp_path: Path) -> None:
    for name, value in (("b.png", 51), ("a.PNG", 102), ("c.webp", 204)):
        colour(value).save(tmp_path / name, lossless=True)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".half.png").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    images = read_image_folder(tmp_path)
    assert images.shape == (3, 3, 4, 6)
    assert images[:, :, 0, 0].tolist() == torch.tensor([[0.4, 0, 1], [0.2, 0, 1], [0.8, 0, 1]]).tolist()
    assert [path.name for path in image_files(str(tmp_path))] == ["a.PNG", "b.png", "c.webp"]


def test_the_orientation_of_the_camera_is_applied(tmp_path: Path) -> None:
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=95)
    colour(0, (8, 16)).save(tmp_path / "b.jpeg")
    image = read_image_folder(tmp_path)[0]
    assert image.shape == (3, 16, 8)
    assert image[:, :8].min() > 0.9 > 0.1 > image[:, 8:].max()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA", "1", "CMYK", "I;16"])
def test_other_modes_are_refused(tmp_path: Path, mode: str) -> None:
    colour(0).save(tmp_path / "a.png")
    odd = Image.new("I;16", (6, 4)) if mode == "I;16" else colour(9).convert(mode)
    odd.save(tmp_path / ("b.jpg" if mode == "CMYK" else "b.png"))
    with pytest.raises(InputError, match=rf"8-bit RGB images in .*, but b\.\w+ is of mode {mode}"):
        read_image_folder(tmp_path)


def test_mixed_sizes_are_refused(tmp_path: Path) -> None:
    colour(0).save(tmp_path / "a.png")
    colour(0, (6, 5)).save(tmp_path / "b.png")
    with pytest.raises(InputError, match=r"one size in .*, but b.png has 6 x 5 px and a.png 6 x 4 px; resize them"):
        read_image_folder(tmp_path)


@pytest.mark.parametrize("cut", [0, 20, -30])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, cut: int) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:cut])
    with pytest.raises(InputError, match=r"a\.png to be an image, but it cannot be read"):
        read_image_folder(tmp_path)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"png, jpg or webp images in .* holds none"):
        read_image_folder(tmp_path)
    with pytest.raises(InputError, match=r"folder of images at .*, but there is none"):
        read_image_folder(tmp_path / "none")
