"""Image files of every kind as RGB, and their place in SDXL's buckets."""

import contextlib
import io
import math
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slider_lightning.backbone import Backbone
from slider_lightning.data.pairs import Placement, bucket_for, buckets, open_picture, place
from slider_lightning.data.pairs.latents import size_multiple
from slider_lightning.data.pairs.pictures import PictureError
from slider_lightning.errors import InputError

# As listed in appendix I of the SDXL paper, heights first; the square stands between.
PUBLISHED = """
2048x512 1984x512 1920x512 1856x512 1792x576 1728x576 1664x576 1600x640 1536x640 1472x704 1408x704 1344x704 1344x768
1280x768 1216x832 1152x832 1152x896 1088x896 1088x960 1024x960 1024x1024 960x1024 960x1088 896x1088 896x1152 832x1152
832x1216 768x1280 768x1344 704x1344 704x1408 704x1472 640x1536 640x1600 576x1664 576x1728 576x1792 512x1856 512x1920
512x1984 512x2048
"""
EXIF_ORIENTATION = 0x0112


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def colours(path: Path, background: str = "white") -> list[tuple[int, ...]]:
    picture = open_picture(path, background)
    assert picture.mode == "RGB"
    return [tuple(pixel) for pixel in np.asarray(picture).reshape(-1, 3).tolist()]


# Modes


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        ("RGB", [(255, 0, 51), (1, 2, 3)], [(255, 0, 51), (1, 2, 3)]),
        ("RGBA", [(255, 0, 51, 255), (9, 9, 9, 0)], [(255, 0, 51), (0, 128, 0)]),
        ("LA", [(51, 255), (200, 0)], [(51, 51, 51), (0, 128, 0)]),
        ("L", [51, 255], [(51, 51, 51), (255, 255, 255)]),
        ("1", [0, 255], [(0, 0, 0), (255, 255, 255)]),
    ],
)
def test_a_mode_becomes_rgb_over_the_background(tmp_path, mode, values, expected) -> None:
    image = Image.new(mode, (2, 1))
    for x, value in enumerate(values):
        image.putpixel((x, 0), value)
    assert colours(saved(image, tmp_path / "image.png"), "green") == expected


def test_half_transparent_pixels_are_mixed(tmp_path) -> None:
    path = saved(Image.new("RGBA", (1, 1), (255, 0, 0, 51)), tmp_path / "image.png")
    assert colours(path, "#0000ff") == [(51, 0, 204)]
    assert colours(path, "#0000ff00") == [(51, 0, 204)], "a background is never transparent itself"
    assert colours(path) == [(255, 204, 204)]


def test_palettes_are_looked_up_and_may_be_transparent(tmp_path) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 51, 0, 0, 0, 10, 20, 30])
    image.putdata([0, 1, 2])
    assert colours(saved(image, tmp_path / "opaque.png")) == [(255, 0, 51), (0, 0, 0), (10, 20, 30)]
    clear = saved(image, tmp_path / "clear.png", transparency=1)
    assert colours(clear, "#808080") == [(255, 0, 51), (128, 128, 128), (10, 20, 30)]
    assert colours(saved(image, tmp_path / "clear.gif", transparency=1))[1] == (255, 255, 255)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bit_greys_are_scaled_and_not_clipped(tmp_path, ending) -> None:
    image = Image.fromarray(np.array([[0, 257 * 51, 257 * 51 + 200, 65535]], np.uint16))
    assert colours(saved(image, tmp_path / f"deep.{ending}")) == [(v, v, v) for v in (0, 51, 52, 255)]


def test_cmyk_is_converted(tmp_path) -> None:
    path = saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), tmp_path / "print.jpg", quality=100)
    assert Image.open(path).mode == "CMYK"
    assert np.abs(np.asarray(open_picture(path), dtype=int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp"])
def test_formats_are_read(tmp_path, ending) -> None:
    image = Image.new("RGB", (16, 24), (200, 100, 50))
    picture = open_picture(saved(image, tmp_path / f"image.{ending}"))
    assert picture.size == (16, 24)
    assert np.abs(np.asarray(picture, dtype=int) - (200, 100, 50)).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_cameras_orientation_is_applied(tmp_path, orientation) -> None:
    """Each of EXIF's eight orientations, written out as what has to be done to the stored pixels."""
    stored = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    turned = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.T,
        6: stored[::-1].T,
        7: stored[::-1, ::-1].T,
        8: stored.T[::-1],
    }[orientation]
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    path = saved(Image.fromarray(stored), tmp_path / "photo.png", exif=exif)
    assert np.array_equal(np.asarray(open_picture(path))[:, :, 0], turned)


# Wrong input


def test_what_is_no_image_is_refused_with_its_reason(tmp_path) -> None:
    text = tmp_path / "text.png"
    text.write_text("no image")
    with pytest.raises(PictureError, match=r"text\.png.*no format that Pillow knows") as caught:
        open_picture(text)
    assert "\n" not in str(caught.value)
    with pytest.raises(PictureError, match="No such file"):
        open_picture(tmp_path / "absent.png")
    with pytest.raises(PictureError, match="32 bits"):
        open_picture(saved(Image.new("F", (2, 2)), tmp_path / "float.tif"))
    with pytest.raises(InputError, match="background to be a colour, but got 'whit'"):
        open_picture(text, "whit")


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "gif", "bmp"])
def test_damage_is_one_kind_of_error_whatever_it_hits(tmp_path, ending) -> None:
    """Truncated anywhere, or with any bytes changed, a file reads as an image or is refused: nothing else happens."""
    draw = random.Random(0)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8))
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    whole = saved(image, tmp_path / f"whole.{ending}", **({"exif": exif} if ending != "gif" else {})).read_bytes()
    path = tmp_path / f"harmed.{ending}"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PictureError):
        open_picture(path)
    for _ in range(200):
        content = bytearray(whole[: draw.choice([len(whole), draw.randrange(len(whole))])])
        for _ in range(draw.randrange(1, 4)):
            if content:
                content[draw.randrange(min(len(content), draw.choice([64, len(whole)])))] = draw.randrange(256)
        path.write_bytes(content)
        with contextlib.suppress(PictureError):
            assert open_picture(path).mode == "RGB"


# Buckets


def test_buckets_at_1024_are_the_published_ones() -> None:
    listed = tuple(tuple(int(side) for side in size.split("x")) for size in PUBLISHED.split())
    for multiple in (8, 32, 64):
        assert buckets(1024, multiple) == listed
    assert buckets(512, 32) == tuple((height // 2, width // 2) for height, width in listed)


@pytest.mark.parametrize(("resolution", "multiple"), [(64, 8), (64, 16), (64, 4), (512, 32), (768, 32), (1000, 32)])
def test_scaled_buckets_keep_area_ratio_and_multiples(resolution, multiple) -> None:
    sizes = buckets(resolution, multiple)
    assert (resolution, resolution) in sizes
    assert len(set(sizes)) == len(sizes)
    assert {size[::-1] for size in sizes} == set(sizes), "portrait and landscape alike"
    for height, width in sizes:
        if (height, width) != (resolution, resolution):
            assert height % multiple == width % multiple == 0
        assert 1 / 4.01 < height / width < 4.01
        # Half a multiple is lost or won at each side at most, beside the 10 % by which the published areas differ.
        lost = multiple / 2 * (1 / height + 1 / width) + 0.11
        assert abs(height * width / resolution**2 - 1) <= lost


def test_the_nearest_bucket_is_that_of_least_stretch() -> None:
    assert bucket_for((1024, 1024), 1024, 32) == (1024, 1024)
    assert bucket_for((77, 77), 1024, 32) == (1024, 1024)
    assert bucket_for((3000, 4000), 1024, 32) == (896, 1152)
    assert bucket_for((1080, 1920), 1024, 32) == (768, 1344)
    assert bucket_for((1920, 1080), 1024, 32) == (1344, 768)
    assert bucket_for((10_000, 100), 1024, 32) == (2048, 512)
    draw = random.Random(1)
    for _ in range(200):
        size = (draw.randrange(1, 4000), draw.randrange(1, 4000))
        found = bucket_for(size, 512, 32)
        stretches = [max(a, 1 / a) for a in (h / w * size[1] / size[0] for h, w in buckets(512, 32))]
        chosen = found[0] / found[1] * size[1] / size[0]
        assert math.isclose(max(chosen, 1 / chosen), min(stretches))
        assert bucket_for(size[::-1], 512, 32) == found[::-1]


def test_an_image_of_the_buckets_own_size_is_untouched() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    placed, placement = place(image, (64, 64))
    assert np.array_equal(np.asarray(placed), np.asarray(image))
    assert placement == Placement((64, 64), (0, 0), (64, 64))


def test_time_ids_of_a_whole_square_are_those_of_the_backbone(backbone: Backbone) -> None:
    side = backbone.resolution
    bucket = bucket_for((side, side), side, size_multiple(backbone))
    _, placement = place(Image.new("RGB", (side, side)), bucket)
    added = backbone._add_time_ids(backbone.device)
    assert list(placement.time_ids()) == added[0].tolist()


def test_time_ids_state_size_crop_and_bucket_heights_first() -> None:
    """200 x 100 px to 64 x 64: resized to 128 x 64, so that 32 px are cut off at the left."""
    placed, placement = place(Image.new("RGB", (200, 100)), (64, 64))
    assert placed.size == (64, 64)
    assert placement.time_ids() == (100, 200, 0, 32, 64, 64)
    _, placement = place(Image.new("RGB", (100, 203)), (64, 64))
    assert placement.time_ids() == (203, 100, (round(203 * 0.64) - 64) // 2, 0, 64, 64)


def test_the_crop_is_the_middle_and_proportions_are_kept() -> None:
    """A disc stays a disc, and stays in the middle, whatever the shape around it."""
    for width, height in ((301, 150), (97, 200), (64, 64), (33, 40)):
        y, x = np.mgrid[:height, :width]
        radius = 0.4 * min(width, height)
        disc = np.hypot(x + 0.5 - width / 2, y + 0.5 - height / 2) < radius
        image = Image.fromarray((disc * 255).astype(np.uint8)).convert("RGB")
        bucket = bucket_for((height, width), 512, 32)
        placed, _ = place(image, bucket)
        assert placed.size == bucket[::-1]
        inside = np.argwhere(np.asarray(placed)[:, :, 0] > 127)
        (top, left), (bottom, right) = inside.min(axis=0), inside.max(axis=0)
        pixel = max(bucket[0] / height, bucket[1] / width)
        assert abs((bottom - top) - (right - left)) <= 2 * pixel + 1
        assert abs(top + bottom + 1 - bucket[0]) <= 2 * pixel + 1
        assert abs(left + right + 1 - bucket[1]) <= 2 * pixel + 1


def test_any_size_fills_its_bucket() -> None:
    draw = random.Random(2)
    for size in [(1, 1), (1, 300), (7, 1), *((draw.randrange(1, 300), draw.randrange(1, 300)) for _ in range(100))]:
        bucket = bucket_for(size, 64, 8)
        placed, placement = place(Image.new("RGB", size[::-1], "red"), bucket)
        assert placed.size == bucket[::-1]
        assert placement.original_size == size
        assert np.asarray(placed)[:, :, 0].min() == 255, "no edge of the canvas shows"


def test_reading_leaves_no_file_open(tmp_path) -> None:
    path = saved(Image.new("RGB", (4, 4)), tmp_path / "image.png")
    picture = open_picture(path)
    path.unlink()
    content = io.BytesIO()
    picture.save(content, "PNG")
    assert content.getvalue()
