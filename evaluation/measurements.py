"""What the judges read off every image of a grid: one JSON line per image, from which tables and figures are made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from evaluation.attributes import Schema, schema_from_json, schema_labels, schema_slices
from evaluation.scale_sweeps import Sweep
from slider_lightning.assets import atomic_path
from slider_lightning.errors import InputError
from slider_lightning.training.run_folder import json_ready, read_json_lines

ROW_COLUMNS = ("row", "id", "prompt", "noun", "seed", "scale")
ATTRIBUTE = "attribute/"


@dataclass(frozen=True)
class MeasurementsHeader:
    """What the readings of one grid have in common.

    Args:
        method: identifier of the method that made the images, e.g. "concept_slider".
        concept: name of the concept it turns.
        model: name or folder of the diffusion model.
        judges: role ("clip", "distance", "classifier", ...) to the name that is printed.
        scales: scales of the images, increasing, with 0 (the base images) among them.
        schema: the classifier's attributes, as `schema_to_json` writes them.
        std: attribute to the standard deviations of its labels.
        edit_prompts: the texts behind "clip/positive" and "clip/negative".
        settings: what else decides the figures: sampler, grid folders.
    """

    method: str
    concept: str
    model: str
    judges: dict[str, str]
    scales: tuple[float, ...]
    schema: list[dict[str, Any]]
    std: dict[str, list[float]]
    edit_prompts: dict[str, str]
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(float(scale) for scale in self.scales))

    @property
    def attributes(self) -> Schema:
        """The classifier's attributes."""
        return schema_from_json(self.schema)


@dataclass(frozen=True)
class Measurements:
    """The readings of one method's images of one concept, the base images among them at scale 0.

    The columns of `frame`, one row per image, rows of the grid together and scales increasing within: `row`, `id`,
    `prompt`, `noun`, `seed`, `scale`; `clip/positive` and `clip/negative`, 100 x cosine with the two edit prompts;
    `distance` and, where the judges have one, `distance_native` to the base image; `eye_area` in pixels, NaN where no
    eye was found, absent without a parser; `attribute/<label>` per label of the schema: a value, or a probability.

    Raises:
        InputError: if a column is missing, or an image of a row.
    """

    header: MeasurementsHeader
    frame: pd.DataFrame

    def __post_init__(self) -> None:
        labels = [f"{ATTRIBUTE}{label}" for label in schema_labels(self.header.attributes)]
        missing = [
            c for c in (*ROW_COLUMNS, "clip/positive", "clip/negative", "distance", *labels) if c not in self.frame
        ]
        if missing:
            raise InputError(
                f"Expected measurements with the columns {', '.join(missing)}, but they lack them; measure again."
            )
        scales = self.frame["scale"].to_numpy()
        count = len(self.header.scales)
        if not len(scales) or len(scales) % count or (scales.reshape(-1, count) != self.header.scales).any():
            raise InputError(
                f"Expected measurements of every row at the scales {list(self.header.scales)}, but some images are "
                "missing; measure the grid again."
            )

    @property
    def zero(self) -> int:
        """Position of scale 0 among the scales."""
        return self.header.scales.index(0.0)

    @property
    def nouns(self) -> tuple[str, ...]:
        """The nouns of the prompts, in order."""
        return tuple(dict.fromkeys(self.frame["noun"]))

    @property
    def rows(self) -> list[tuple[str, int]]:
        """(prompt, seed) of every row."""
        first = self.frame[:: len(self.header.scales)]
        return list(zip(first["prompt"], first["seed"].astype(int), strict=True))

    def values(self, column: str) -> Float[Tensor, "rows scales"]:
        """One column, double precision.

        Raises:
            InputError: if the judges did not read it.
        """
        if column not in self.frame:
            raise InputError(f"Expected measurements of {column!r}, but no judge read it; give a judge that does.")
        values = torch.from_numpy(self.frame[column].to_numpy(dtype="float64", copy=True))
        return values.reshape(-1, len(self.header.scales))

    def change(self, column: str, scale: float) -> Float[Tensor, " rows"]:
        """Change of a column from scale 0 to `scale`, per row.

        Raises:
            InputError: if there are no images at that scale.
        """
        values = self.values(column)
        return values[:, self.position(scale)] - values[:, self.zero]

    def position(self, scale: float) -> int:
        """Position of a scale; InputError if there are no images at it."""
        if scale not in self.header.scales:
            raise InputError(
                f"Expected images of {self.header.method} at scale {scale:g}, but there are "
                f"{list(self.header.scales)}; add the scale."
            )
        return self.header.scales.index(scale)

    def sweep(self) -> Sweep:
        """The classifier's readings as a sweep over the scales."""
        schema = self.header.attributes
        labels, slices = schema_labels(schema), schema_slices(schema)
        stacked = torch.stack([self.values(f"{ATTRIBUTE}{label}") for label in labels], dim=-1)
        readings = {a.name: stacked[..., slices[a.name]] for a in schema}
        readings = {a.name: readings[a.name][..., 0] if a.kind == "continuous" else readings[a.name] for a in schema}
        std = {name: torch.tensor(values) for name, values in self.header.std.items()}
        return Sweep(self.header.scales, readings, schema, std)

    def only(self, noun: str) -> Measurements:
        """The rows of one prompt noun.

        Raises:
            InputError: if no prompt has it.
        """
        if noun not in self.nouns:
            raise InputError(f"Expected one of the nouns {', '.join(self.nouns)}, but got {noun!r}; choose one.")
        return Measurements(self.header, self.frame[self.frame["noun"] == noun].reset_index(drop=True))

    def at_scales(self, scales: Sequence[float]) -> Measurements:
        """The images at some of the scales, 0 always among them.

        Raises:
            InputError: if there are no images at one of them.
        """
        kept = tuple(sorted({0.0, *(self.header.scales[self.position(scale)] for scale in scales)}))
        header = MeasurementsHeader(**{**vars(self.header), "scales": kept})
        return Measurements(header, self.frame[self.frame["scale"].isin(kept)].reset_index(drop=True))

    def write(self, path: Path) -> None:
        """Writes the header and one line per image, atomically.

        Raises:
            InputError: if the disk refuses.
        """
        lines = [asdict(self.header), *self.frame.to_dict("records")]
        with atomic_path(path) as temporary:
            temporary.write_text("".join(json.dumps(json_ready(line), allow_nan=False) + "\n" for line in lines))


def read_measurements(path: Path) -> Measurements:
    """The inverse of `Measurements.write`.

    Raises:
        InputError: if the file is missing, damaged or not whole.
    """
    lines = read_json_lines(path)
    try:
        header = MeasurementsHeader(**lines[0])
    except (IndexError, TypeError) as error:
        raise InputError(
            f"Expected {path} to begin with a header of measurements, but it does not; measure again."
        ) from error
    frame = pd.DataFrame(lines[1:])
    columns = [name for name in frame if name not in ROW_COLUMNS]
    return Measurements(header, frame.astype(dict.fromkeys(columns, "float64")))


def check_paired(first: Measurements, second: Measurements) -> None:
    """Refuse to compare what was measured on other prompts, other seeds or by other judges.

    Raises:
        InputError: naming what differs.
    """
    names = f"{first.header.method} and {second.header.method}"
    for what, mine, other in (
        ("prompts", _unique(first.frame["prompt"]), _unique(second.frame["prompt"])),
        ("seeds", _unique(first.frame["seed"]), _unique(second.frame["seed"])),
        ("prompts with seeds", first.rows, second.rows),
    ):
        if mine != other:
            differing = sorted(map(str, {*mine} ^ {*other}))
            raise InputError(
                f"Expected {names} on the same {what}, but they differ in {', '.join(differing[:5]) or 'their order'}"
                f"{' and more' if len(differing) > 5 else ''}; make both grids with the same ones."
            )
    _check_same("judges", first.header.judges, second.header.judges, names)
    _check_same("edit prompts", first.header.edit_prompts, second.header.edit_prompts, names)


def _check_same(what: str, mine: Mapping[str, str], other: Mapping[str, str], names: str) -> None:
    if mine != other:
        raise InputError(
            f"Expected {names} measured with the same {what}, but one has {dict(mine)} and the other {dict(other)}; "
            "measure both with the same ones."
        )


def _unique(column: pd.Series[Any]) -> list[Any]:
    return list(dict.fromkeys(column))
