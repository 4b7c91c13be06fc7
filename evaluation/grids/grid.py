"""A grid as it lies in its folder: what it shows, which images are there, and the images, verified."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from evaluation.grids.manifest import read_manifest
from evaluation.grids.reading import decode_images
from evaluation.grids.spec import GridRow, GridSpec, PromptSet
from slider_lightning.errors import InputError

GRID_FILE = "grid.json"
MANIFEST_FILE = "manifest.jsonl"
IMAGES_FOLDER = "images"
_LISTED = 10


@dataclass(frozen=True)
class GridImage:
    """One image of a grid.

    Args:
        id: prompt, seed and scale in one word, e.g. "003-001042-+2"; the same in every grid of the same rows.
        row: its prompt and seed.
        scale: its scale.
    """

    id: str
    row: GridRow
    scale: float

    @property
    def file(self) -> str:
        """Its place below the grid's folder."""
        return f"{IMAGES_FOLDER}/{self.id}.png"


@dataclass(frozen=True)
class ImageGrid:
    """Images of (prompts x seeds) rows at scales, in a folder; `make_grid` makes one, `open` finds one again.

    Args:
        folder: holds grid.json, manifest.jsonl and images/.
        settings: all that decided the images, as in grid.json.
        spec: prompts and seeds.
        hashes: SHA-256 of every image that was written, by id.
    """

    folder: Path
    settings: Mapping[str, Any]
    spec: GridSpec
    hashes: Mapping[str, str]

    @classmethod
    def open(cls, folder: str | Path) -> ImageGrid:
        """A grid that was made, whole or in part.

        Raises:
            InputError: if the folder is missing, empty or no grid, or its grid.json is damaged.
        """
        place = Path(folder)
        path = place / GRID_FILE
        if not path.is_file():
            problem = f"it holds no {GRID_FILE}" if place.is_dir() else "there is no such folder"
            if place.is_dir() and not any(place.iterdir()):
                problem = "it is empty"
            raise InputError(f"Expected a grid of images in {place}, but {problem}; make the grid, or give its folder.")
        try:
            settings = json.loads(path.read_text())
            prompts, scales = settings["prompts"], [float(scale) for scale in settings["scales"]]
            names = PromptSet(**{**prompts["prompts"], **_tuples(prompts["prompts"], "nouns", "templates")})
            spec = GridSpec(**{**prompts, "prompts": names})
            complete = bool(scales) and isinstance(settings["method"]["name"], str)
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged(path) from error
        if not complete:
            raise _damaged(path)
        return cls(place, settings, spec, read_manifest(place / MANIFEST_FILE))

    @property
    def method(self) -> str:
        """Identifier of the method that made the images."""
        return str(self.settings["method"]["name"])

    @property
    def scales(self) -> tuple[float, ...]:
        """The scales, increasing."""
        return tuple(float(scale) for scale in self.settings["scales"])

    @cached_property
    def rows(self) -> tuple[GridRow, ...]:
        """Prompts and seeds, in the order of `images`."""
        return self.spec.rows

    @cached_property
    def cells(self) -> tuple[GridImage, ...]:
        """Every image that the grid should hold: rows outermost, scales within."""
        count = self.spec.seeds_per_prompt
        return tuple(
            GridImage(f"{number // count:03d}-{row.seed:06d}-{_scale_name(scale)}", row, scale)
            for number, row in enumerate(self.rows)
            for scale in self.scales
        )

    def images(self, scale: float, rows: slice = slice(None)) -> Float[Tensor, "rows 3 height width"]:
        """The images of one scale in [0, 1], float32, each checked against its hash.

        Args:
            scale: one of the grid's scales.
            rows: which rows; of large images all 500 would take 6 GB.

        Raises:
            InputError: if the grid has no such scale, or images are missing, damaged or of mixed size or mode.
        """
        if scale not in self.scales:
            raise InputError(
                f"Expected one of the scales {[f'{s:g}' for s in self.scales]} of the grid {self.folder}, but got "
                f"{scale:g}; make the grid with it."
            )
        cells = [cell for cell in self.cells if cell.scale == scale][rows]
        contents = {cell.file: self.content(cell) for cell in cells}
        bad = [cell for cell in cells if contents[cell.file] is None]
        if bad:
            raise InputError(self._complaint(bad, len(cells)))
        return decode_images(((name, content) for name, content in contents.items() if content), str(self.folder))

    def missing(self) -> tuple[str, ...]:
        """Ids of the images that are not there, or not as they were written; every file is read."""
        return tuple(cell.id for cell in self.cells if self.content(cell) is None)

    def content(self, cell: GridImage) -> bytes | None:
        """The bytes of an image file; None where it is missing or differs from what was written."""
        path = self.folder / cell.file
        content = path.read_bytes() if path.is_file() else b""
        return content if hashlib.sha256(content).hexdigest() == self.hashes.get(cell.id) else None

    def _complaint(self, bad: Sequence[GridImage], count: int) -> str:
        missing = [cell.id for cell in bad if cell.id not in self.hashes or not (self.folder / cell.file).is_file()]
        damaged = [cell.id for cell in bad if cell.id not in missing]
        parts = [f"{name} are {listed(ids)}" for name, ids in (("missing", missing), ("damaged", damaged)) if ids]
        return (
            f"Expected {count} whole images in the grid {self.folder}, but {' and '.join(parts)}; run the grid again, "
            "which makes these alone anew."
        )


def check_same_rows(first: ImageGrid, second: ImageGrid) -> None:
    """Refuse to compare grids with other prompts or seeds.

    Raises:
        InputError: naming the prompts, or else the seeds, that only one of the two has.
    """
    if first.rows == second.rows:
        return
    advice = "make both with the same prompts and seeds"
    labels = {"prompts": lambda row: repr(row.prompt), "seeds": lambda row: f"{row.seed} of {row.prompt!r}"}
    for what, label in labels.items():
        pairs = ((first, second), (second, first))
        only = [(grid, _only(grid, other, label)) for grid, other in pairs]
        parts = [f"{grid.method} ({grid.folder.name}) alone has {listed(texts)}" for grid, texts in only if texts]
        if parts:
            raise InputError(f"Expected grids of the same {what}, but {' and '.join(parts)}; {advice}.")
    raise InputError(f"Expected grids of the same rows, but their order or their nouns differ; {advice}.")


def _only(first: ImageGrid, second: ImageGrid, label: Callable[[GridRow], str]) -> list[str]:
    """Labels of the rows of `first` that `second` has not."""
    known = {label(row) for row in second.rows}
    return [text for text in dict.fromkeys(label(row) for row in first.rows) if text not in known]


def listed(ids: Sequence[str]) -> str:
    """Up to ten ids, then a count of the others."""
    more = f" and {len(ids) - _LISTED} more" if len(ids) > _LISTED else ""
    return ", ".join(ids[:_LISTED]) + more


def _scale_name(scale: float) -> str:
    """Signed and short, yet different for different scales."""
    short = f"{scale:+g}"
    return short if float(short) == scale else f"{scale:+}"


def _tuples(values: Mapping[str, Iterable[Any]], *names: str) -> dict[str, tuple[Any, ...]]:
    return {name: tuple(values[name]) for name in names}


def _damaged(path: Path) -> InputError:
    return InputError(f"Expected {path} to say what the grid shows, but it is damaged; run the grid again.")
