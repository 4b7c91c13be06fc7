"""What a slider of SDXL's size costs: `python -m experiments.benchmarks.sdxl_size [size=small] [whole=true]`.

The whole architecture with random weights on a GPU. Without one its operations are counted and nothing is timed;
`size=small` times a scaled one on the CPU, for the ratio of both algorithms there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from experiments.benchmarks.reporting import write_report
from experiments.benchmarks.sdxl_size_measures import RELEASED_STEPS, STATES, Case, SizeConfig, measure_case
from experiments.benchmarks.sdxl_size_operations import Operations, count_operations
from slider_lightning.config import build, typed
from slider_lightning.entry import entry_point

_TERA = 1e12
_PARTS = {"cache": "teacher cache", "step": "training steps", "released_step": "released steps"}


@entry_point("benchmark/sdxl_size")
def main(config: dict[str, Any]) -> None:
    """Count, measure where the device is there, report."""
    sdxl_size(config)


def sdxl_size(config: dict[str, Any]) -> Path:
    """Runs the benchmark of a checked config; returns the report's JSON file.

    Raises:
        InputError: for settings that it cannot work with.
    """
    size: SizeConfig = build(config["size"], "size.")
    whole = typed(config["whole"], bool, "whole")
    concept, adapter = build(config["concept"], "concept."), build(config["adapter"], "adapter.")
    operations, measured = [], []
    with Progress(transient=True) as progress:
        task = progress.add_task(f"SDXL, size {size.name}", total=2 * len(size.cases))
        for case in size.cases:
            operations.append(count_operations(size.unet, case.resolution, adapter))
            progress.advance(task)
        for case, counted in zip(size.cases if size.present else (), operations, strict=False):
            measured.append(measure_case(size, case, counted, concept, adapter, whole=whole))
            progress.advance(task)
    data = {
        "size": asdict(size),
        "operations_per_row": [asdict(counted) for counted in operations],
        "cases": measured,
    }
    tables = [operations_table(size.cases, operations)]
    tables += [table for figures in measured for table in (parts_table(size, figures), whole_table(figures))]
    path = write_report(f"sdxl_size_{size.name}", Path(config["paths"]["outputs"]), data, tables)
    if not size.present:
        Console().print(
            "This machine has no GPU, so nothing of this size was timed; size=small times a scaled SDXL on the CPU."
        )
    return path


def operations_table(cases: Sequence[Case], operations: Sequence[Operations]) -> Table:
    """TFLOP per row of a forward and of a training step."""
    table = Table(
        "px",
        "forward",
        "training step",
        "with gradient checkpointing",
        title="Operations, TFLOP per row (one latent)",
    )
    for case, counted in zip(cases, operations, strict=True):
        values = (counted.forward, counted.step, counted.checkpointed_step)
        shares = [f"{value / _TERA:.4g} ({value / counted.forward:.2f} forwards)" for value in values[1:]]
        table.add_row(str(case.resolution), f"{counted.forward / _TERA:.4g}", *shares)
    return table


def parts_table(size: SizeConfig, figures: Mapping[str, Any]) -> Table:
    """What was timed of a case."""
    case = figures["case"]
    checkpointing = ", gradient checkpointing" if case["speed"]["gradient_checkpointing"] else ""
    table = Table(
        "part",
        "sample-forwards",
        "seconds",
        "sample-forwards/s",
        "TFLOP/s",
        "of the matmul rate",
        "peak GiB",
        title=f"{figures['parameters'] / 1e6:,.0f} M parameters, {case['resolution']} px, {case['states']} states x 2 "
        f"poles a step{checkpointing}; {size.dtype} products of matrices run at {figures['matmul_tflops']:.3g} TFLOP/s",
    )
    for key, label in _PARTS.items():
        part = figures[key]
        table.add_row(
            label,
            f"{part['sample_forwards']:,}",
            f"{part['seconds']:.3g}",
            f"{part['sample_forwards_per_second']:.3g}",
            f"{part['tflops']:.3g}",
            f"{part['share_of_matmul']:.0%}",
            f"{part['peak_gib']:.1f}",
        )
    if figures["host_waits_per_step"] is not None:
        table.add_row("host waits per training step", f"{figures['host_waits_per_step']:g}")
    return table


def whole_table(figures: Mapping[str, Any]) -> Table:
    """Seconds of a whole slider, ours and released."""
    guess, found = figures["projection"], figures["whole"]
    table = Table(
        "",
        "step, s",
        "sample-forwards per trained row",
        "cache, s",
        "training, s",
        "checks, s",
        "in all, s",
        title=f"A whole slider at {figures['case']['resolution']} px, from the parts above",
    )
    table.add_row(
        f"ours, {STATES} states at both poles",
        f"{guess['step_seconds']:.3g}",
        f"{guess['sample_forwards_per_sample']:.3g}",
        f"{guess['cache_seconds']:.3g}",
        f"{guess['train_seconds']:.3g}",
        f"{guess['checks_seconds']:.3g}",
        f"{guess['seconds']:.3g}",
    )
    if found is not None:
        seconds = [f"{found[key]:.3g}" for key in ("cache_seconds", "train_seconds", "checks_seconds", "seconds")]
        table.add_row("ours, really run", "", f"{found['sample_forwards'] / (2 * STATES):.3g}", *seconds)
    released = f"{guess['released_seconds']:.3g}"
    per_sample = f"{guess['released_sample_forwards_per_sample']:g}"
    step = f"{guess['released_step_seconds']:.3g}"
    table.add_row(f"released, {RELEASED_STEPS} steps of one sample", step, per_sample, "", released, "", released)
    table.add_row("ratio", *[""] * 5, f"{guess['ratio']:.1f}")
    return table


if __name__ == "__main__":
    main()
