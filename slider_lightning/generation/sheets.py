"""Which images a picture shows, and where: a strip of scales, a grid of two sliders, one slider after another."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from slider_lightning.errors import InputError
from slider_lightning.generation.strip import draw_strip, format_scales

Axis = float | tuple[float, ...]
AskedScales = Axis | tuple[Axis | tuple[tuple[float, ...], ...], ...]


@dataclass(frozen=True)
class Sheet:
    """The images of every seed, line by line.

    Args:
        scales: of the K sliders for each column of images, (images, K), or seed by seed, (seeds, images, K).
        columns: labels of the columns.
        lines: labels of the lines that the images of one seed fill, images = lines x columns; one blank label for a
            single line.
    """

    scales: Float[Tensor, "*seeds images sliders"]
    columns: tuple[str, ...]
    lines: tuple[str, ...] = ("",)

    def draw(self, images: Float[Tensor, "seeds images 3 h w"], seeds: Sequence[int], title: str) -> Image.Image:
        """The labelled picture; images in [0, 1]."""
        rows = [f"seed {seed}  {line}".strip() for seed in seeds for line in self.lines]
        shown = images.unflatten(1, (len(self.lines), len(self.columns))).flatten(0, 1)
        return draw_strip(shown, rows, self.columns, title)


def strip_sheet(scales: AskedScales, names: Sequence[str], num_seeds: int) -> Sheet:
    """One column per entry of `scales`: a number turns all sliders, a row of numbers one each.

    Args:
        scales: the columns; or, one dimension deeper, the columns of every seed.
        names: of the sliders.
        num_seeds: rows of the picture.

    Raises:
        InputError: if rows do not have one number per slider, or there are not as many as seeds.
    """
    entries = scales if isinstance(scales, tuple) else (scales,)
    if not entries:
        raise InputError("Expected at least one entry of scales, but the list is empty; write for instance [-1, 0, 1].")
    by_seed = all(isinstance(entry, tuple) and entry and isinstance(entry[0], tuple) for entry in entries)
    if by_seed:
        tables = [scale_rows(entry, len(names)) for entry in entries if isinstance(entry, tuple)]
        if len(tables) != num_seeds or len({len(table) for table in tables}) != 1:
            raise InputError(
                f"Expected scales as one table for each of {num_seeds} seeds, all with as many rows, but got {scales}."
            )
        columns = tuple(str(number + 1) for number in range(len(tables[0])))
        return Sheet(torch.tensor(tables), columns)
    rows = scale_rows(entries, len(names))
    labels = tuple(format_scales(row[0] if len(set(row)) == 1 else row) for row in rows)
    return Sheet(torch.tensor(rows), labels)


def grid_sheet(scales: AskedScales, names: Sequence[str], num_seeds: int) -> Sheet:
    """Two sliders, the first along the columns and the second along the lines.

    Args:
        scales: of both axes; or one list for each.
        names: of the two sliders.
        num_seeds: grids of the picture, one below the other.

    Raises:
        InputError: if there are not two sliders, or not one or two lists of numbers.
    """
    if len(names) != 2:
        raise InputError(f"Expected two sliders for layout=grid, one per axis, but got {len(names)}; name two.")
    entries = scales if isinstance(scales, tuple) else (scales,)
    lists = [entry for entry in entries if isinstance(entry, tuple)]
    axes: list[tuple[Any, ...]] = [*lists] or [entries, entries]
    numbers = all(axis and all(not isinstance(scale, tuple) for scale in axis) for axis in axes)
    if len(axes) != 2 or len(lists) not in (0, len(entries)) or not numbers:
        raise InputError(
            f"Expected scales for layout=grid as a list of numbers, or as one list per slider, but got {scales}; write "
            "for instance [[-2, 0, 2], [-1, 0, 1]]."
        )
    across, down = axes
    rows = torch.tensor([[float(a), float(b)] for b in down for a in across])
    labels = [tuple(f"{name} {format_scales(scale)}" for scale in axis) for name, axis in zip(names, axes, strict=True)]
    return Sheet(rows, labels[0], labels[1])


def progressive_sheet(scales: AskedScales, names: Sequence[str], num_seeds: int) -> Sheet:
    """The model itself, then one slider more in every column, as in the paper's figure of composed sliders.

    Args:
        scales: of all sliders, a number or one for each.
        names: of the sliders.
        num_seeds: rows of the picture.

    Raises:
        InputError: if there is not one number per slider.
    """
    (row,) = scale_rows((scales[0] if isinstance(scales, tuple) and len(scales) == 1 else scales,), len(names))
    steps = [[scale if k < count else 0.0 for k, scale in enumerate(row)] for count in range(len(names) + 1)]
    added = tuple(f"+ {name} {format_scales(scale)}" for name, scale in zip(names, row, strict=True))
    return Sheet(torch.tensor(steps), ("none", *added))


LAYOUTS: Mapping[str, Callable[[AskedScales, Sequence[str], int], Sheet]] = MappingProxyType(
    {"strip": strip_sheet, "grid": grid_sheet, "progressive": progressive_sheet}
)


def scale_rows(scales: Sequence[Any], num_sliders: int) -> list[tuple[float, ...]]:
    """One row of `num_sliders` scales per entry: a number stands for all sliders, a row for one each.

    Raises:
        InputError: if a row has another length, or holds no numbers.
    """
    rows = [tuple(entry) if isinstance(entry, Sequence) else (entry,) * num_sliders for entry in scales]
    if any(len(row) != num_sliders or not all(isinstance(scale, int | float) for scale in row) for row in rows):
        raise InputError(
            f"Expected a number or {num_sliders} numbers per entry of scales, one for each slider, but got "
            f"{list(scales)}; change scales or sliders."
        )
    return [tuple(float(scale) for scale in row) for row in rows]
