"""Images of grids as data that a page can hold: as they are where they are small, else smaller and as WebP."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from evaluation.grids import ImageGrid
from slider_lightning.errors import InputError

AS_IT_IS = 128
LARGEST = 384
QUALITY = 80
GRID, BASE = "eval/settings/grid", "eval/settings/base"


@dataclass(frozen=True)
class GridPair:
    """The images of a method, and those of the model itself on the same rows.

    Args:
        grid: of the method.
        base: of the model itself, its scale 0.
    """

    grid: ImageGrid
    base: ImageGrid

    @property
    def scales(self) -> tuple[float, ...]:
        """The scales of both, increasing."""
        return tuple(sorted({0.0, *self.grid.scales}))

    def row(self, number: int) -> tuple[bytes, ...]:
        """The PNG files of one row, one per scale, each checked against its hash.

        Raises:
            InputError: if one is missing or damaged.
        """
        found = {}
        for grid in (self.base, self.grid):
            columns = len(grid.scales)
            for cell in grid.cells[number * columns : (number + 1) * columns]:
                content = grid.content(cell)
                if content is None:
                    raise InputError(
                        f"Expected the image {cell.id} in {grid.folder}, but it is missing; evaluate again."
                    )
                found[cell.scale] = content
        return tuple(found[scale] for scale in self.scales)


def image_places(run: Path, root: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """Where the images of an evaluation lie, from its run's folder on, so that a whole folder of outputs can move.

    Args:
        run: folder of the run.
        root: folder of all grids.
        settings: of the header of its measurements.
    """
    folders = {
        GRID: root / str(settings["method"]["name"]) / str(settings["grid"]),
        BASE: root / "base" / str(settings["base"]),
    }
    return {key: Path(os.path.relpath(folder, run)).as_posix() for key, folder in folders.items()}


def grids_of(run: Path, summary: Mapping[str, Any]) -> GridPair | None:
    """The images that a run was measured on; None where they are not at hand, e.g. where the run was moved alone."""
    places = [run / str(summary[key]) for key in (GRID, BASE) if key in summary]
    if len(places) < 2:
        return None
    try:
        grid, base = map(ImageGrid.open, places)
    except InputError:
        return None
    return GridPair(grid, base)


def spread(count: int, wanted: int) -> list[int]:
    """Up to `wanted` of `count` rows, evenly spaced: no row is chosen for how it looks."""
    shown = min(count, wanted)
    return [number * count // shown for number in range(shown)]


def data_uri(content: bytes) -> str:
    """An image file for a page: itself where it is small, else scaled down as WebP.

    Args:
        content: a PNG file.
    """
    image = Image.open(BytesIO(content))
    if max(image.size) <= AS_IT_IS:
        return encoded(content, "png")
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    return encoded(webp(image), "webp")


def sprite(rows: Sequence[Sequence[bytes]], side: int) -> str:
    """One WebP picture of many images: a line per row, a column per scale, `side` px each."""
    sheet = Image.new("RGB", (side * len(rows[0]), side * len(rows)))
    for line, row in enumerate(rows):
        for column, content in enumerate(row):
            image = Image.open(BytesIO(content)).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(image, (column * side, line * side))
    return encoded(webp(sheet), "webp")


def webp(image: Image.Image) -> bytes:
    """An image as the bytes of a lossy WebP file."""
    stream = BytesIO()
    image.save(stream, "WEBP", quality=QUALITY, method=6)
    return stream.getvalue()


def encoded(content: bytes, kind: str) -> str:
    """A file as a data URI."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
