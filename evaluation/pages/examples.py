"""Images of several methods on the same rows, for the page of a table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from evaluation.grids import ImageGrid
from evaluation.measurements import Measurements
from evaluation.pages.images import GridPair, data_uri, spread
from slider_lightning.errors import InputError

ROWS = 4


@dataclass(frozen=True)
class MethodImages:
    """Images of one method.

    Args:
        name: of the method.
        scales: of the images in a row.
        rows: a data URI per row and scale.
    """

    name: str
    scales: tuple[float, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class ConceptImages:
    """Images of all methods of one concept.

    Args:
        concept: its name.
        labels: prompt and seed of every row.
        methods: on the same rows.
    """

    concept: str
    labels: tuple[str, ...]
    methods: tuple[MethodImages, ...]

    @property
    def scales(self) -> tuple[float, ...]:
        """The scales of any method, increasing."""
        return tuple(sorted({scale for method in self.methods for scale in method.scales}))


def concept_images(measurements: Iterable[Measurements], root: Path) -> tuple[ConceptImages, ...]:
    """Some rows of the images that were measured, concept by concept; grids that are not at hand are left out.

    Args:
        measurements: of all methods and concepts.
        root: folder of all grids.

    Raises:
        InputError: if an image of a grid is missing or damaged.
    """
    found: dict[str, list[tuple[str, GridPair]]] = {}
    for each in measurements:
        pair = grids_at(root, each)
        if pair is not None:
            found.setdefault(each.header.concept, []).append((each.header.method, pair))
    return tuple(_concept(concept, pairs) for concept, pairs in found.items())


def grids_at(root: Path, measurements: Measurements) -> GridPair | None:
    """The grids that were measured; None where they are not at hand, or where no grid was measured."""
    header = measurements.header
    if not {"grid", "base"} <= header.settings.keys():
        return None
    try:
        grid = ImageGrid.open(root / header.method / str(header.settings["grid"]))
        return GridPair(grid, ImageGrid.open(root / "base" / str(header.settings["base"])))
    except InputError:
        return None


def _concept(concept: str, pairs: list[tuple[str, GridPair]]) -> ConceptImages:
    rows = pairs[0][1].base.rows
    numbers = spread(len(rows), ROWS)
    methods = tuple(
        MethodImages(name, pair.scales, tuple(tuple(map(data_uri, pair.row(number))) for number in numbers))
        for name, pair in pairs
        if pair.base.rows == rows
    )
    return ConceptImages(concept, tuple(f"{rows[n].prompt}, {rows[n].seed}" for n in numbers), methods)
