"""Making grids: in groups, kept image by image, gone on with after a kill, shared between jobs."""

import hashlib
import json
import logging
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from evaluation.grids.grid import GRID_FILE, IMAGES_FOLDER, MANIFEST_FILE, GridImage, ImageGrid, listed
from evaluation.grids.manifest import append_record, read_manifest, write_manifest
from evaluation.grids.method import BaseMethod, Method
from evaluation.grids.spec import GridSpec
from slider_lightning.assets import atomic_path, locked
from slider_lightning.backbone import Backbone, SamplerConfig, images_to_pil
from slider_lightning.errors import InputError

logger = logging.getLogger(__name__)

# Part of the key, so that folders of another layout are never taken for these.
LAYOUT_VERSION = 1

Progress = Callable[[int, int], None]


def make_grid(
    root: str | Path,
    backbone: Backbone,
    method: Method,
    spec: GridSpec,
    scales: Sequence[float],
    sampler: SamplerConfig,
    *,
    batch_size: int,
    progress: Progress | None = None,
) -> ImageGrid:
    """The images of a method at every row and scale, made where they are not there yet.

    The folder is root / method / key, the key a hash of all that decides the images. Rows are cut into groups of
    `batch_size`, always the same ones; a group that lacks an image is generated as a whole and what it lacks is
    written. A float can depend on what else is in its batch, so it is the fixed groups that make a grid which was
    killed end with the bytes of one that was not, and why batch_size belongs to the key. The device does not: a grid
    made on a GPU is found on a machine without one.

    Args:
        root: folder of all grids.
        backbone: the frozen model.
        method: makes the images.
        spec: prompts and seeds.
        scales: without 0, which is the model itself (`base_grid`); kept in increasing order.
        sampler: steps, guidance and start_timestep.
        batch_size: rows per group and images per UNet call.
        progress: called as (images there, all images), first with those that are there already; not at all when the
            grid is whole.

    Raises:
        InputError: if the scales are empty, not finite, given twice or 0, the method's images leave [0, 1] or are not
            finite, or the folder cannot be written.
        ValueError: if the method returns images of another shape.
    """
    settings = grid_settings(backbone, method, spec, _checked_scales(method, scales), sampler, batch_size)
    content = json.dumps(settings, sort_keys=True).encode()
    folder = Path(root) / method.name / hashlib.sha256(content).hexdigest()[:20]
    if not _is_whole(_found(folder, settings, spec)):
        with locked(folder, "grid"):
            grid = _found(folder, settings, spec)
            if not _is_whole(grid):
                _fill(grid, backbone, method, sampler, batch_size, progress)
    return _found(folder, settings, spec)


def base_grid(
    root: str | Path,
    backbone: Backbone,
    spec: GridSpec,
    sampler: SamplerConfig,
    *,
    batch_size: int,
    progress: Progress | None = None,
) -> ImageGrid:
    """The images of the model itself, scale 0 of every method; arguments and errors as of `make_grid`.

    start_timestep decides nothing here and is not in the key: all methods and all their start_timesteps share one grid.
    """
    return make_grid(root, backbone, BaseMethod(), spec, (0.0,), sampler, batch_size=batch_size, progress=progress)


def grid_settings(
    backbone: Backbone,
    method: Method,
    spec: GridSpec,
    scales: Sequence[float],
    sampler: SamplerConfig,
    batch_size: int,
) -> dict[str, Any]:
    """All that decides a grid's images, as JSON: what the key is made of and what grid.json holds.

    Raises:
        InputError: if the method's name is no plain word, or the batch is empty.
    """
    if not re.fullmatch(r"\w[\w.-]*", method.name):
        raise InputError(
            f"Expected the name of a method in letters, digits, '_', '-' and '.', but got {method.name!r}; rename it."
        )
    if batch_size < 1:
        raise InputError(f"Expected batch_size to be 1 or more, but got {batch_size}; raise it.")
    without = {"start_timestep"} if isinstance(method, BaseMethod) else set()
    scheduler: Any = backbone.scheduler
    settings = {
        "layout": LAYOUT_VERSION,
        "model": {
            "fingerprint": backbone.fingerprint,
            "dtype": str(backbone.dtype).removeprefix("torch."),
            "resolution": backbone.resolution,
            "scheduler": type(scheduler).__name__,
            # Names that start with "_" tell versions and origins, not numbers.
            "schedule": {key: value for key, value in scheduler.config.items() if not key.startswith("_")},
        },
        "sampler": {key: value for key, value in asdict(sampler).items() if key not in without},
        "prompts": asdict(spec),
        "scales": list(scales),
        "batch_size": batch_size,
        "method": {"name": method.name, **method.depends_on()},
    }
    return json.loads(json.dumps(settings))


def _checked_scales(method: Method, scales: Sequence[float]) -> tuple[float, ...]:
    values = tuple(sorted(float(scale) for scale in scales))
    if isinstance(method, BaseMethod) and values == (0.0,):
        return (0.0,)
    if not values or len(set(values)) < len(values) or not all(map(math.isfinite, values)):
        raise InputError(f"Expected different finite scales of {method.name}, but got {list(scales)}; change them.")
    if isinstance(method, BaseMethod) or 0.0 in values:
        advice = "the model itself is the grid of scale 0, and of no other"
        raise InputError(f"Expected scales that {method.name} can make, but got {list(scales)}; {advice}.")
    return values


def _found(folder: Path, settings: dict[str, Any], spec: GridSpec) -> ImageGrid:
    return ImageGrid(folder, settings, spec, read_manifest(folder / MANIFEST_FILE))


def _is_whole(grid: ImageGrid) -> bool:
    path = grid.folder / GRID_FILE
    return path.is_file() and path.read_text() == _settings_text(grid) and not grid.missing()


def _settings_text(grid: ImageGrid) -> str:
    return json.dumps(grid.settings, indent=2) + "\n"


def _fill(
    grid: ImageGrid,
    backbone: Backbone,
    method: Method,
    sampler: SamplerConfig,
    batch_size: int,
    progress: Progress | None,
) -> None:
    """Generate every group that lacks an image, and write what it lacks."""
    missing = set(grid.missing())
    hashes = {cell.id: grid.hashes[cell.id] for cell in grid.cells if cell.id not in missing}
    _prepare(grid, hashes)
    report = progress or (lambda done, total: None)
    report(len(hashes), len(grid.cells))
    width = len(grid.scales)
    for start in range(0, len(grid.rows), batch_size):
        cells = grid.cells[start * width : (start + batch_size) * width]
        wanted = [position for position, cell in enumerate(cells) if cell.id in missing]
        if not wanted:
            continue
        rows = grid.rows[start : start + batch_size]
        images = method.generate(backbone, rows, grid.scales, sampler, batch_size=batch_size)
        images = _checked_images(images, method, cells, (len(rows), width))
        for position in wanted:
            hashes[cells[position].id] = _write_image(grid, cells[position], images[position])
            report(len(hashes), len(grid.cells))
    write_manifest(grid.folder / MANIFEST_FILE, [_record(cell, hashes[cell.id]) for cell in grid.cells])


def _prepare(grid: ImageGrid, hashes: dict[str, str]) -> None:
    """Clear what a killed build left; under the lock nobody else is writing."""
    for pattern in (".grid-*.json", ".manifest-*.jsonl", f"{IMAGES_FOLDER}/.*.png"):
        for leftover in grid.folder.glob(pattern):
            leftover.unlink()
    with atomic_path(grid.folder / GRID_FILE) as temporary:
        temporary.write_text(_settings_text(grid))
    records = [_record(cell, hashes[cell.id]) for cell in grid.cells if cell.id in hashes]
    write_manifest(grid.folder / MANIFEST_FILE, records)


def _write_image(grid: ImageGrid, cell: GridImage, image: Float[Tensor, "3 height width"]) -> str:
    """Write the file, then its line; returns its hash."""
    buffer = BytesIO()
    images_to_pil(image[None])[0].save(buffer, format="PNG")
    with atomic_path(grid.folder / cell.file) as temporary:
        temporary.write_bytes(buffer.getvalue())
    sha256 = hashlib.sha256(buffer.getvalue()).hexdigest()
    append_record(grid.folder / MANIFEST_FILE, _record(cell, sha256))
    return sha256


def _record(cell: GridImage, sha256: str) -> dict[str, Any]:
    return {"id": cell.id, **asdict(cell.row), "scale": cell.scale, "file": cell.file, "sha256": sha256}


def _checked_images(
    images: Tensor, method: Method, cells: Sequence[GridImage], expected: tuple[int, int]
) -> Float[Tensor, "cells 3 height width"]:
    if images.ndim != 5 or tuple(images.shape[:3]) != (*expected, 3):
        shape = (*expected, 3, "height", "width")
        raise ValueError(f"Expected {method.name} to return images of {shape}, but got {tuple(images.shape)}.")
    flat = images.flatten(0, 1)
    # NaN is neither at least 0 nor at most 1.
    good = ((flat >= 0) & (flat <= 1)).flatten(1).all(1)
    if not bool(good.all()):
        ids = [cell.id for cell, is_good in zip(cells, good.tolist(), strict=True) if not is_good]
        problem = "are not finite" if not bool(torch.isfinite(flat[~good]).all()) else "leave that range"
        raise InputError(
            f"Expected images of {method.name} in [0, 1], but {listed(ids)} {problem}; lower the scales, or change the "
            "method's settings."
        )
    return flat
