"""Generation time under 0, 1, 10 and 50 sliders: `python -m experiments.benchmarks.compose [compose.images=8 ...]`.

Three ways side by side, measurements interleaved: ours with the sliders folded into the weights, ours with scales of
its own for every image, and diffusers' pipeline with as many PEFT adapters. That all do the same work is shown by
their images.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import Tensor

from experiments.benchmarks.compose_sides import ComposeConfig, Composition
from experiments.benchmarks.reporting import write_report
from slider_lightning.backbone import Backbone
from slider_lightning.config import build
from slider_lightning.entry import entry_point
from slider_lightning.generation import ProgressCallback

TITLES = {"folded": "ours, folded", "per_sample": "ours, per image", "diffusers": "diffusers with PEFT"}
Progress = Callable[[int, int], None]


def measure(composition: Composition, progress: Progress | None = None) -> dict[str, Any]:
    """Times all ways at all numbers of sliders in turn, after one round that is not timed.

    Args:
        composition: what is measured.
        progress: called as (done, total) after every batch of images.

    Returns:
        "seconds", "ratio" to none and "sample_forwards" by way and number of sliders; the largest differences between
        pixels of different ways, in [0, 1], and how much the sliders changed, by number of sliders.
    """
    config, sides = composition.config, composition.sides()
    cells = [(name, count) for name in sides for count in config.counts]
    seconds: dict[tuple[str, int], list[float]] = {cell: [] for cell in cells}
    forwards: dict[tuple[str, int], int] = {}
    images: dict[tuple[str, int], Tensor] = {}
    total = len(cells) * (1 + config.repetitions)
    for done in range(total):
        cell = cells[done % len(cells)]
        before, started = composition.sample_forwards, time.perf_counter()
        images[cell] = sides[cell[0]](cell[1]).cpu()
        elapsed = time.perf_counter() - started
        forwards[cell] = composition.sample_forwards - before
        if done >= len(cells):
            seconds[cell].append(elapsed)
        if progress is not None:
            progress(done + 1, total)
    return {
        "seconds": {name: {str(k): seconds[name, k] for k in config.counts} for name in sides},
        "ratio": {name: {str(k): _ratio(seconds[name, k], seconds[name, 0]) for k in config.counts} for name in sides},
        "sample_forwards": {name: {str(k): forwards[name, k] for k in config.counts} for name in sides},
        "largest_difference": {str(k): _differences(images, k) for k in config.counts},
    }


def _ratio(seconds: Sequence[float], none: Sequence[float]) -> float:
    """The median of the ratios of neighbours in time, which load that comes and goes leaves alone."""
    return statistics.median(a / b for a, b in zip(seconds, none, strict=True))


def _differences(images: Mapping[tuple[str, int], Tensor], count: int) -> dict[str, float]:
    folded, per_sample, diffusers = (images[name, count] for name in ("folded", "per_sample", "diffusers"))
    return {
        "folded_diffusers": _largest(folded, diffusers),
        # The first image alone has the others' scales.
        "folded_per_sample": _largest(folded[:1], per_sample[:1]),
        "folded_none": _largest(folded, images["folded", 0]),
    }


def _largest(first: Tensor, second: Tensor) -> float:
    return float((first.float() - second.float()).abs().max())


def table(result: Mapping[str, Any], config: ComposeConfig) -> Table:
    """One line for each number of sliders."""
    titles = [f"{title}: s (x none)" for title in TITLES.values()]
    title = f"{config.images} images, {config.num_inference_steps} steps, sliders of rank {config.rank}"
    lines = Table(
        "sliders", *titles, "UNet sample-forwards", "folded - diffusers", "folded - per image", "change", title=title
    )
    for count in map(str, config.counts):
        times = [
            f"{statistics.median(result['seconds'][name][count]):.2f} ({result['ratio'][name][count]:.3f})"
            for name in TITLES
        ]
        forwards = sorted({result["sample_forwards"][name][count] for name in TITLES})
        differences = [f"{value:.1e}" for value in result["largest_difference"][count].values()]
        lines.add_row(count, *times, " / ".join(map(str, forwards)), *differences)
    return lines


@entry_point("benchmark/compose")
def main(config: dict[str, Any]) -> None:
    """Measure and report."""
    settings: ComposeConfig = build(config["compose"], "compose.")
    backbone: Backbone = build(config["model"], "model.")
    with ProgressCallback("batches of images") as progress:
        result = measure(Composition(backbone, settings), progress)
    data = {"settings": config["compose"], "model": backbone.fingerprint, **result}
    write_report("compose", Path(config["paths"]["outputs"]), data, [table(result, settings)])


if __name__ == "__main__":
    main()
