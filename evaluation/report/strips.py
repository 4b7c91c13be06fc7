"""Strips of images from grids: the same row of a grid under several scales and methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from evaluation.grids import ImageGrid, check_same_rows
from slider_lightning.errors import InputError
from slider_lightning.generation import draw_strip


def slider_strip(grid: ImageGrid, base: ImageGrid, rows: Sequence[int], title: str) -> Image.Image:
    """Some rows of one method over all its scales, the unedited image among them.

    Args:
        grid: of the method.
        base: of the model itself, with the same prompts and seeds.
        rows: numbers of rows of the grid.
        title: heading.

    Raises:
        InputError: if the grids differ in prompts or seeds, a row is not there, or an image is missing or damaged.
    """
    check_same_rows(grid, base)
    _check_rows(grid, rows)
    scales = sorted({0.0, *grid.scales})
    lines = [torch.cat([_image(base if scale == 0 else grid, scale, row) for scale in scales]) for row in rows]
    labels = [f"{grid.rows[row].prompt}, {grid.rows[row].seed}" for row in rows]
    return draw_strip(torch.stack(lines), labels, scales, title)


def method_strip(
    grids: Mapping[str, ImageGrid], base: ImageGrid, row: int, scales: Sequence[float], title: str
) -> Image.Image:
    """One row of the grid under several methods, the unedited image among the scales of each.

    Args:
        grids: method to its grid, all with the same prompts and seeds.
        base: of the model itself.
        row: number of the row of the grids.
        scales: those shown; 0 always is.
        title: heading.

    Raises:
        InputError: if there is no method, grids differ in prompts or seeds, the row is not there, or an image is
            missing or damaged.
    """
    if not grids:
        raise InputError("Expected grids of images for a strip, but got none; make at least one first.")
    for grid in grids.values():
        check_same_rows(grid, base)
    _check_rows(base, [row])
    columns = sorted({0.0, *scales})
    lines = [torch.cat([_image(base if scale == 0 else g, scale, row) for scale in columns]) for g in grids.values()]
    return draw_strip(torch.stack(lines), list(grids), columns, title)


def _image(grid: ImageGrid, scale: float, row: int) -> Float[Tensor, "1 3 h w"]:
    return grid.images(scale, slice(row, row + 1))


def _check_rows(grid: ImageGrid, rows: Sequence[int]) -> None:
    if not rows or min(rows) < 0 or max(rows) >= len(grid.rows):
        raise InputError(f"Expected rows out of 0..{len(grid.rows) - 1} of the grid, but got {list(rows)}.")
