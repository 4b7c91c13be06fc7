"""Which scales every layout asks for, and where its images stand."""

import pytest
import torch

from slider_lightning.errors import InputError
from slider_lightning.generation import LAYOUTS

NAMES = ("age", "smile")


def test_a_strip_turns_all_sliders_by_a_number_and_each_by_a_row() -> None:
    sheet = LAYOUTS["strip"]((-1.0, (2.0, 0.5)), NAMES, 3)
    assert sheet.scales.tolist() == [[-1, -1], [2, 0.5]]
    assert sheet.columns == ("-1", "+2, +0.5")


def test_a_strip_can_have_scales_image_by_image() -> None:
    tables = (((1.0, 0.0), (2.0, 0.0)), ((0.0, 1.0), (0.0, -2.0)))
    sheet = LAYOUTS["strip"](tables, NAMES, 2)
    assert torch.equal(sheet.scales, torch.tensor(tables))
    with pytest.raises(InputError, match="one table for each of 3 seeds"):
        LAYOUTS["strip"](tables, NAMES, 3)


def test_a_grid_has_the_first_slider_across_and_the_second_down() -> None:
    sheet = LAYOUTS["grid"](((-2.0, 0.0, 2.0), (-1.0, 1.0)), NAMES, 1)
    assert sheet.scales.tolist() == [[-2, -1], [0, -1], [2, -1], [-2, 1], [0, 1], [2, 1]]
    assert sheet.columns == ("age -2", "age 0", "age +2")
    assert sheet.lines == ("smile -1", "smile +1")
    assert LAYOUTS["grid"]((-1.0, 1.0), NAMES, 1).scales.tolist() == [[-1, -1], [1, -1], [-1, 1], [1, 1]]


def test_images_of_a_grid_stand_where_their_scales_do() -> None:
    sheet = LAYOUTS["grid"](((0.0, 1.0, 2.0), (0.0, 1.0)), NAMES, 2)
    images = torch.zeros(2, 6, 3, 8, 8)
    images[1, 5] = 1.0  # the second seed, age 2 and smile 1: the lowest image on the right
    picture = sheet.draw(images, (4, 9), "title")
    white, black = (255, 255, 255), (0, 0, 0)
    width, height = picture.size
    assert picture.getpixel((width - 50, height - 50)) == white
    assert picture.getpixel((width - 150, height - 50)) == black
    assert picture.getpixel((width - 50, height - 150)) == black


def test_progressive_sheets_turn_on_one_slider_more_in_every_column() -> None:
    sheet = LAYOUTS["progressive"]((2.0, -1.5), NAMES, 1)
    assert sheet.scales.tolist() == [[0, 0], [2, 0], [2, -1.5]]
    assert sheet.columns == ("none", "+ age +2", "+ smile -1.5")
    assert LAYOUTS["progressive"](1.0, NAMES, 1).scales.tolist() == [[0, 0], [1, 0], [1, 1]]
    assert LAYOUTS["progressive"]((1.0,), NAMES, 1).scales.tolist() == [[0, 0], [1, 0], [1, 1]]


@pytest.mark.parametrize(
    ("layout", "scales", "names", "match"),
    [
        ("strip", (), NAMES, "the list is empty"),
        ("strip", ((1.0,),), NAMES, "2 numbers per entry"),
        ("grid", (1.0, 2.0), ("age",), "two sliders"),
        ("grid", ((1.0,), (2.0,), (3.0,)), NAMES, "layout=grid"),
        ("grid", (1.0, (2.0,)), NAMES, "layout=grid"),
        ("grid", ((1.0,), ()), NAMES, "layout=grid"),
        ("progressive", (1.0, 2.0, 3.0), NAMES, "2 numbers per entry"),
    ],
)
def test_scales_that_do_not_fit_are_refused(layout: str, scales, names, match: str) -> None:
    with pytest.raises(InputError, match=match):
        LAYOUTS[layout](scales, names, 1)
