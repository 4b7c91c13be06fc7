"""What the points of an ablation measured: one JSON line each, gathered in one file however they were run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

from evaluation.evaluate import laid_over
from evaluation.measurements import Measurements, read_measurements
from slider_lightning.assets import atomic_path, locked
from slider_lightning.errors import InputError
from slider_lightning.runs import deciding
from slider_lightning.training.run_folder import read_json_lines

RECORDS_FILE = "records.jsonl"


@dataclass(frozen=True)
class AblationConfig:
    """Along which settings sliders are compared.

    Args:
        name: of the axis, and of the folder of its records.
        title: of its table and figure.
        axes: key of the config (e.g. "adapter.rank") to its name in the table; one, or two.
        reference: key to the value of the point that the others are compared with.
        measure: sections and keys laid over how the run says that it is measured.

    Raises:
        InputError: if there is no axis, more than two, or the reference lies on other axes.
    """

    name: str
    title: str
    axes: dict[str, str]
    reference: dict[str, Any]
    measure: dict[str, Any]

    def __post_init__(self) -> None:
        if len(self.axes) not in (1, 2):
            raise InputError(f"Expected ablation.axes to name one or two keys, but got {len(self.axes)}; list them.")
        if set(self.reference) != set(self.axes):
            raise InputError(
                f"Expected ablation.reference to give {', '.join(self.axes)}, but it gives "
                f"{', '.join(self.reference) or 'nothing'}; give each axis its value."
            )


@dataclass(frozen=True)
class Setting:
    """What all points of one ablation share.

    Args:
        title: of its table and figure.
        axes: key of the config to its name in the table.
        reference: the point that the others are compared with.
        concept: name of the concept.
        target: attribute that the slider should move, or one class as "hair_color=blond"; None if no judge reads it.
        protected: class attributes that should not flip.
    """

    title: str
    axes: dict[str, str]
    reference: dict[str, Any]
    concept: str
    target: str | None
    protected: tuple[str, ...]


@dataclass(frozen=True)
class PointRecord:
    """One point of an ablation, one line of its file.

    Args:
        point: key of the config to its value, in the order of the axes.
        setting: what the points share.
        run: folder of the slider's run; empty where it has none.
        measurements: file of its measurements, beside the records; empty where the point failed.
        error: why the point failed.
    """

    point: dict[str, Any]
    setting: Setting
    run: str = ""
    measurements: str = ""
    error: str = ""

    def to_json(self) -> str:
        """The record as a line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> PointRecord:
        """The inverse of `to_json`; KeyError or TypeError if it is no such line."""
        setting = {**line["setting"], "protected": tuple(line["setting"]["protected"])}
        return cls(**{**line, "setting": Setting(**setting)})


@dataclass(frozen=True)
class Point:
    """A point of an ablation with what was measured there.

    Args:
        record: its line.
        measurements: the readings of its images; None where the point failed.
    """

    record: PointRecord
    measurements: Measurements | None


def setting_of(config: Mapping[str, Any], ablation: AblationConfig) -> Setting:
    """What the points of an ablation share, as a plain config says it.

    Raises:
        InputError: if the scales do not end at -s and +s, between which effects are taken.
    """
    evaluation = laid_over(config["evaluation"], ablation.measure.get("evaluation") or {})
    scales = evaluation["scales"]
    if not scales or scales[0] != -scales[-1]:
        raise InputError(
            f"Expected ablation.measure.evaluation.scales to reach as far below 0 as above, but got {scales}; "
            "make them even."
        )
    return Setting(
        title=ablation.title,
        axes=ablation.axes,
        reference=ablation.reference,
        concept=config["concept"]["name"],
        target=evaluation["target"],
        protected=tuple(evaluation["protected"]),
    )


def point_of(config: Mapping[str, Any], axes: Mapping[str, str]) -> dict[str, Any]:
    """The values of a plain config on the axes.

    Raises:
        InputError: if the config lacks one of the keys.
    """
    try:
        return {key: reduce(lambda node, name: node[name], key.split("."), config) for key in axes}
    except (KeyError, TypeError) as error:
        raise InputError(f"Expected ablation.axes to name keys of the config, but got {', '.join(axes)}.") from error


def sweep_folder(config: Mapping[str, Any], ablation: AblationConfig) -> Path:
    """Folder of an ablation: named by all that decides its figures but the axes, so that its points meet in it.

    Raises:
        InputError: if the config lacks an axis.
    """
    point_of(config, ablation.axes)
    rest: dict[str, Any] = deepcopy(dict(config))
    for key in ablation.axes:
        *parents, last = key.split(".")
        del reduce(lambda node, name: node[name], parents, rest)[last]
    rest["measure"] = rest["ablation"]["measure"]
    text = deciding(rest, "ablation", "name", "strip")
    return Path(config["paths"]["outputs"], "ablations", ablation.name, hashlib.sha256(text.encode()).hexdigest()[:8])


def write_point(folder: Path, record: PointRecord, measurements: Measurements | None = None) -> None:
    """Puts a point into the files of its ablation, in place of an earlier one of the same values.

    Raises:
        InputError: if the records are damaged or the disk refuses.
    """
    path = folder / RECORDS_FILE
    if measurements is not None:
        name = hashlib.sha256(json.dumps(record.point).encode()).hexdigest()[:8]
        record = replace(record, measurements=f"measurements/{name}.jsonl")
        measurements.write(folder / record.measurements)
    with locked(folder, "ablation"):
        others = [known for known in read_records(folder) if known.point != record.point] if path.exists() else []
        with atomic_path(path) as temporary:
            temporary.write_text("".join(f"{known.to_json()}\n" for known in in_order([*others, record])))


def read_points(folder: Path) -> tuple[Point, ...]:
    """All points of an ablation, in the order of their values.

    Raises:
        InputError: if a file is missing or damaged.
    """
    return tuple(
        Point(record, read_measurements(folder / record.measurements) if record.measurements else None)
        for record in in_order(read_records(folder))
    )


def read_records(folder: Path) -> list[PointRecord]:
    """The lines of an ablation's records.

    Raises:
        InputError: if the file is missing or damaged.
    """
    path = folder / RECORDS_FILE
    try:
        return [PointRecord.from_json(line) for line in read_json_lines(path)]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"Expected {path} to hold an ablation's records, but a line is none; delete it and run the sweep again."
        ) from error


def in_order(records: Sequence[PointRecord]) -> list[PointRecord]:
    """Numbers by size, lists by length, words by the alphabet; the first axis outermost."""
    return sorted(records, key=lambda record: [sort_key(value) for value in record.point.values()])


def sort_key(value: Any) -> tuple[float, str]:
    """A key that orders any two values of an axis."""
    if isinstance(value, list | tuple):
        return len(value), str(value)
    return (float(value), "") if isinstance(value, int | float) else (0.0, str(value))


def value_label(value: Any) -> str:
    """How a value of an axis is written: a list by its length."""
    if isinstance(value, list | tuple):
        return str(len(value))
    return f"{value:g}" if isinstance(value, int | float) else str(value)
