"""A grid of rank and eta three ways: the released one, a Hydra sweep with a shared cache, one grid run.

python -m experiments.benchmarks.sweep [fresh=true]
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra.core.hydra_config import HydraConfig
from rich.table import Table

from experiments.benchmarks.measuring import (
    CommandCost,
    ReleasedCost,
    new_process,
    peak_host_memory,
    released_side,
    timed_command,
    training_config,
)
from experiments.benchmarks.reporting import machine, write_report
from slider_lightning.adapters import load_slider
from slider_lightning.config import ROOT, canonical_text, typed
from slider_lightning.entry import entry_point
from slider_lightning.errors import InputError
from slider_lightning.runs import deciding
from slider_lightning.training import RunFolder
from slider_lightning.training.run_folder import git_state, write_json

TRAIN = "slider_lightning.train"
GIB = 2**30
Point = tuple[int, float]


def sweep(config: dict[str, Any]) -> Path:
    """Measures what is not measured yet, prints the table and returns the JSON file.

    Args:
        config: the plain, checked config of conf/benchmark/sweep.yaml.

    Raises:
        InputError: for a config, model or disk that training cannot work with.
    """
    folder = Path(config["paths"]["outputs"]) / "benchmarks" / "sweep"
    if typed(config["fresh"], bool, "fresh"):
        shutil.rmtree(folder, ignore_errors=True)
    stages = Stages(folder / "stages.json", measured_by={"git": git_state(ROOT), "machine": machine()})
    ranks = typed(config["ranks"], tuple[int, ...], "ranks")
    etas = typed(config["etas"], tuple[float, ...], "etas")
    points = list(itertools.product(ranks, etas))
    with new_process() as process:
        released = [released_point(config, point, stages, process) for point in points]
    ways = {
        "released": {
            "sample_forwards": sum(point["sample_forwards"] for point in released),
            "seconds": sum(point["seconds"] for point in released),
            "training_seconds": sum(point["seconds"] for point in released),
            "peak_memory": max(point["peak_memory"] for point in released),
        },
        "hydra": commanded(config, folder / "hydra", hydra_arguments(ranks, etas), stages),
        "grid": commanded(config, folder / "grid", grid_arguments(ranks, etas), stages),
    }
    differences = largest_differences(points_of(folder / "grid"), points_of(folder / "hydra"))
    data = {
        **ways,
        "released_points": [
            {"rank": rank, "eta": eta, **cost} for (rank, eta), cost in zip(points, released, strict=True)
        ],
        "weights": differences,
        "settings": {key: config[key] for key in ("ranks", "etas", "our_experiment", "training", "steps", "released")},
    }
    return write_report(
        "sweep", folder.parents[1], data, [way_table(ways, len(points), config["steps"]), weight_table(differences)]
    )


class Stages:
    """What was measured before, in a JSON file: a stage is known by its name and all that decides it.

    Args:
        path: the file.
        measured_by: the code and the machine; what others measured is not mixed with what these do.
    """

    def __init__(self, path: Path, measured_by: Any = None) -> None:
        self.path = path
        self.measured_by = measured_by
        self._known: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}

    def find(self, name: str, settings: Any) -> dict[str, Any] | None:
        """The figures of a stage, or None where it was not measured with these settings."""
        known = self._known.get(name)
        return known["figures"] if known and known["settings"] == self._text(settings) else None

    def keep(self, name: str, settings: Any, figures: Mapping[str, Any]) -> dict[str, Any]:
        """Writes the figures of a stage; returns them."""
        self._known[name] = {"settings": self._text(settings), "figures": dict(figures)}
        write_json(self.path, self._known)
        return dict(figures)

    def _text(self, settings: Any) -> str:
        return canonical_text([self.measured_by, settings])


def released_point(config: dict[str, Any], point: Point, stages: Stages, process: Executor) -> dict[str, Any]:
    """Cost of one point the released way, timed over a few steps and multiplied to the whole training."""
    (rank, eta), steps = point, typed(config["steps"], int, "steps")
    adapter = {**config["released"]["adapter"], "rank": rank}
    settings = {**config, "released": {**config["released"], "adapter": adapter, "eta": eta}}
    decides = {key: settings[key] for key in ("model", "concept", "released", "steps")}
    name = f"released rank {rank} eta {eta:g}"
    found = stages.find(name, decides)
    if found is not None:
        return found
    cost, memory = process.submit(released_side, settings, steps, peak_host_memory).result()
    return stages.keep(name, decides, released_figures(cost) | {"peak_memory": memory})


def released_figures(cost: ReleasedCost) -> dict[str, float]:
    """Seconds and expected sample-forwards of a whole training, and what was measured of it."""
    return {
        "sample_forwards": round(cost.config.max_steps * cost.config.mean_sample_forwards),
        "seconds": cost.config.max_steps * cost.seconds_per_step,
        "measured_steps": cost.steps,
        "measured_seconds": cost.seconds,
        "measured_sample_forwards": cost.sample_forwards,
    }


def hydra_arguments(ranks: Sequence[int], etas: Sequence[float]) -> list[str]:
    """The command line of a Hydra sweep."""
    return ["-m", f"adapter.rank={','.join(map(str, ranks))}", f"objective.eta={','.join(map(str, etas))}"]


def grid_arguments(ranks: Sequence[int], etas: Sequence[float]) -> list[str]:
    """The command line of a grid run."""
    return [f"grid.rank=[{','.join(map(str, ranks))}]", f"grid.eta=[{','.join(map(str, etas))}]"]


def commanded(config: dict[str, Any], folder: Path, arguments: Sequence[str], stages: Stages) -> dict[str, Any]:
    """Cost of the training command with these arguments in empty folders, its cache included."""
    chosen = HydraConfig.get()
    model = [each for each in chosen.overrides.task if each.startswith(("model=", "model.", "+model."))]
    shared = [*arguments, f"experiment={config['our_experiment']}", *model, *config["training"]]
    decides = {"command": shared, "training": deciding(training_config(config), "name")}
    found = stages.find(folder.name, decides)
    if found is not None and folder.is_dir():
        return found
    shutil.rmtree(folder, ignore_errors=True)
    cost = timed_command(TRAIN, [*shared, f"paths.outputs={folder}", f"paths.cache={folder / 'cache'}"])
    return stages.keep(folder.name, decides, command_figures(cost, summaries(folder)))


def command_figures(cost: CommandCost, found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Cost of a command: forwards and seconds of its trainings, wall time and memory of the whole."""
    stages = ("cache", "train", "checks")
    forwards = [summary.get(f"cost/sample_forwards/{stage}", 0) for summary in found for stage in stages]
    seconds = [summary.get(f"cost/seconds/{stage}", 0) for summary in found for stage in stages]
    return {
        "sample_forwards": round(sum(forwards)),
        "seconds": cost.seconds,
        "training_seconds": sum(seconds),
        "peak_memory": cost.peak_memory,
    }


def summaries(folder: Path) -> list[dict[str, Any]]:
    """The summaries that tell the whole cost: the grid's own where there is one, else those of all runs."""
    grids = [path.parent for path in sorted(folder.glob("*/grid-*/summary.json"))]
    return [RunFolder(run).read_summary() for run in grids or points_of(folder).values()]


def points_of(folder: Path) -> dict[Point, Path]:
    """(rank, eta) to the run folder, of all runs below a folder that wrote a slider."""
    runs = {}
    for slider in sorted(folder.glob("*/*/slider.safetensors")):
        config = yaml.safe_load(RunFolder.open(slider.parent).config.read_text())
        runs[config["adapter"]["rank"], float(config["objective"]["eta"])] = slider.parent
    return dict(sorted(runs.items()))


@torch.no_grad()
def largest_differences(grid: Mapping[Point, Path], alone: Mapping[Point, Path]) -> list[dict[str, float]]:
    """How far every slider of the grid lies from that of the same run alone.

    Returns:
        Per point: `weights`, the largest difference of a stored weight; `change`, that of the weights' change that the
        slider makes, over the largest change.

    Raises:
        InputError: if a point is missing on one side.
    """
    if grid.keys() != alone.keys():
        raise InputError(
            f"Expected the same points from both of our ways, but got {sorted(grid)} and {sorted(alone)}; measure "
            "again with fresh=true."
        )
    rows = []
    for (rank, eta), run in grid.items():
        (ours, _), (theirs, _) = (load_slider(RunFolder(path).slider) for path in (run, alone[rank, eta]))
        pairs = [(ours.state_dict()[name], tensor) for name, tensor in theirs.state_dict().items()]
        deltas = [(ours.delta_weight(path), theirs.delta_weight(path)) for path in theirs.layer_paths]
        rows.append(
            {
                "rank": rank,
                "eta": eta,
                "weights": max(float((a - b).abs().max()) for a, b in pairs),
                "change": max(float((a - b).abs().max()) for a, b in deltas)
                / max(float(b.abs().max()) for _, b in deltas),
            }
        )
    return rows


def way_table(ways: Mapping[str, Mapping[str, float]], points: int, steps: int) -> Table:
    """The three ways, with how many times cheaper than the released one each is."""
    names = {
        "released": "released",
        "hydra": "ours, Hydra sweep",
        "grid": "ours, grid run",
    }
    drawn = Table(
        title=f"A sweep of {points} points over rank and eta",
        caption=f"Released: {steps} steps of every point were timed, without start-up, and multiplied to the whole "
        "training; sample-forwards are their expectation. Ours: whole commands, with start-up, cache and checks; the "
        "released trainer draws no strip, nor do ours here.",
    )
    drawn.add_column("way")
    for column in ("forwards", "times fewer", "wall, s", "times less", "training, s", "peak of main memory, GiB"):
        drawn.add_column(column, justify="right")
    released = ways["released"]
    for key, name in names.items():
        way = ways[key]
        drawn.add_row(
            name,
            f"{way['sample_forwards']:,.0f}",
            f"{released['sample_forwards'] / way['sample_forwards']:.1f}",
            f"{way['seconds']:,.0f}",
            f"{released['seconds'] / way['seconds']:.1f}",
            f"{way['training_seconds']:,.0f}",
            f"{way['peak_memory'] / GIB:.2f}",
        )
    return drawn


def weight_table(rows: Sequence[Mapping[str, float]]) -> Table:
    """The largest differences between a slider of the grid and the same run alone."""
    drawn = Table(title="Sliders of the grid run against the same runs alone, largest differences")
    for column in ("rank", "eta", "of a stored weight", "of the change it makes, over the largest change"):
        drawn.add_column(column, justify="right")
    for row in rows:
        drawn.add_row(f"{row['rank']}", f"{row['eta']:g}", f"{row['weights']:.1e}", f"{row['change']:.1e}")
    return drawn


@entry_point("benchmark/sweep")
def main(config: dict[str, Any]) -> None:
    """Measure from the command line."""
    sweep(config)


if __name__ == "__main__":
    main()
