"""What the page of a run shows, read from its folder: figures scale by scale, with intervals, and some images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from evaluation.measurements import Measurements, read_measurements
from evaluation.pages.images import data_uri, grids_of, spread
from evaluation.scale_sweeps import attribute_shift, flips, protected_flips, target_values
from evaluation.statistics import Measure, bootstrap_mean, from_record
from slider_lightning.errors import InputError
from slider_lightning.training import RunFolder

PAGE_FILE = "page.html"
MEASUREMENTS_FILE = "measurements.jsonl"
SEEDS = 12
DEVIATIONS, CLIP = "sd", "CLIP"


@dataclass(frozen=True)
class Curve:
    """A figure at every scale.

    Args:
        name: of the attribute.
        points: one per scale.
    """

    name: str
    points: tuple[Measure, ...]

    def record(self) -> dict[str, Any]:
        """As JSON: [mean, low, high] per scale."""
        return {"name": self.name, "points": [[m.mean, *m.ci95] for m in self.points]}


@dataclass(frozen=True)
class Example:
    """The images of one row.

    Args:
        prompt: of all of them.
        seed: of their noise.
        images: a data URI per scale.
        effects: how far each moved the target, in the unit of the run's curves.
    """

    prompt: str
    seed: int
    images: tuple[str, ...]
    effects: tuple[float, ...]


@dataclass(frozen=True)
class RunView:
    """All that the page of a run shows.

    Args:
        folder: of the run, as it was given.
        config: the resolved config.
        config_text: the same as YAML.
        manifest: how the run was made.
        costs: flat keys of summary.json, cost/seconds/... and cost/sample_forwards/....
        figures: the measured figures by their keys in summary.json.
        scales: of the images, increasing, 0 among them.
        rows: number of prompts and seeds that were measured.
        unit: of target and others: "sd", standard deviations of the attribute, or "CLIP", 100 x cosine.
        target: what the slider should move.
        others: the other attributes, in standard deviations.
        flips: share of images whose class changed, of any protected attribute and of each.
        examples: some rows; empty where the images are not at hand.
        judges: role to printed name.
    """

    folder: str
    config: Mapping[str, Any]
    config_text: str
    manifest: Mapping[str, Any]
    costs: Mapping[str, float]
    figures: Mapping[str, Measure]
    scales: tuple[float, ...]
    rows: int
    unit: str
    target: Curve
    others: tuple[Curve, ...]
    flips: tuple[Curve, ...]
    examples: tuple[Example, ...]
    judges: Mapping[str, str]

    @property
    def name(self) -> str:
        """Of the concept."""
        return str(self.config["concept"]["name"])


def read_run(run: RunFolder, seeds: int = SEEDS) -> RunView:
    """The view of an evaluated run.

    Args:
        run: its folder.
        seeds: rows whose images are shown, at most.

    Raises:
        InputError: if it was not evaluated, or a file of it is missing or damaged.
    """
    summary, measurements = run.read_summary(), read_measurements(run.path / MEASUREMENTS_FILE)
    settings = summary.get("eval/settings/evaluation")
    if not isinstance(settings, Mapping):
        raise InputError(f"Expected {run.path} to be evaluated, but it is not; run evaluation.evaluate run={run.path}.")
    text = run.config.read_text()
    effects = target_curve(measurements, settings["target"])
    name = str(settings["target"] or measurements.header.concept)
    return RunView(
        folder=run.path.as_posix(),
        config=yaml.safe_load(text),
        config_text=text,
        manifest=run.read_manifest() if run.manifest.is_file() else {},
        costs={key: value for key, value in summary.items() if key.startswith("cost/")},
        figures=figures_of(summary),
        scales=measurements.header.scales,
        rows=len(measurements.rows),
        unit=DEVIATIONS if settings["target"] else CLIP,
        target=Curve(name, tuple(bootstrap_mean(column) for column in effects.T)),
        others=other_curves(measurements, name),
        flips=flip_curves(measurements, settings["protected"]),
        examples=examples_of(run, summary, measurements, effects.tolist(), seeds),
        judges=measurements.header.judges,
    )


def figures_of(summary: Mapping[str, Any]) -> dict[str, Measure]:
    """The measured figures of a summary."""
    return from_record(
        {k: v for k, v in summary.items() if k.startswith("eval/") and not k.startswith("eval/settings/")}
    )


def target_curve(measurements: Measurements, target: str | None) -> Any:
    """Change of what the slider should move against scale 0, (rows, scales): of the target, else of the CLIP score."""
    values = target_values(measurements.sweep(), target) if target else measurements.values("clip/positive")
    return values - values[:, [measurements.zero]]


def other_curves(measurements: Measurements, target: str) -> tuple[Curve, ...]:
    """Shift of every attribute but the target at every scale."""
    sweep = measurements.sweep()
    columns = range(len(sweep.scales))
    names = [attribute.name for attribute in sweep.schema if attribute.name != target.partition("=")[0]]
    return tuple(Curve(name, tuple(attribute_shift(sweep, name, c) for c in columns)) for name in names)


def flip_curves(measurements: Measurements, protected: Sequence[str]) -> tuple[Curve, ...]:
    """Share of images whose class changed against scale 0, of any protected attribute first; none without one."""
    if not protected:
        return ()
    sweep = measurements.sweep()
    shares = {"any of them": protected_flips(sweep, protected)} if len(protected) > 1 else {}
    shares |= {name: flips(sweep, name) for name in protected}
    return tuple(
        Curve(name, tuple(bootstrap_mean(column.double()) for column in where.T)) for name, where in shares.items()
    )


def examples_of(
    run: RunFolder,
    summary: Mapping[str, Any],
    measurements: Measurements,
    effects: Sequence[Sequence[float]],
    count: int,
) -> tuple[Example, ...]:
    """Some rows of the run's images; none where they are not at hand."""
    grids = grids_of(run.path, summary)
    if grids is None:
        return ()
    return tuple(
        Example(*measurements.rows[number], tuple(map(data_uri, grids.row(number))), tuple(effects[number]))
        for number in spread(len(measurements.rows), count)
    )
