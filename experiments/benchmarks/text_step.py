"""The cost of one optimizer step, released against ours: `python -m experiments.benchmarks.text_step`."""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from experiments.benchmarks.measuring import (
    OurCost,
    ReleasedCost,
    new_process,
    our_side,
    released_side,
    training_config,
)
from experiments.benchmarks.reporting import write_report
from slider_lightning.config import typed
from slider_lightning.entry import entry_point
from slider_lightning.errors import InputError
from slider_lightning.training.checks import CHECKED_BATCHES

MIB = 2**20


def text_step(config: dict[str, Any]) -> Path:
    """Measures both sides, each in a process of its own, prints the table and returns the JSON file.

    Args:
        config: the plain, checked config of conf/benchmark/text_step.yaml.

    Raises:
        InputError: for a config, model or disk that training cannot work with.
    """
    steps, points = typed(config["steps"], int, "steps"), typed(config["sweep_points"], int, "sweep_points")
    whole = training_config(config)
    our_steps = typed(config["our_steps"], int, "our_steps")
    if our_steps < min(CHECKED_BATCHES, whole["trainer"]["max_steps"]):
        raise InputError(
            f"Expected our_steps to be at least {CHECKED_BATCHES}, the batches that are checked at the end, but got "
            f"{our_steps}; raise it."
        )
    short = training_config(config, f"trainer.max_steps={our_steps}")
    with new_process() as process:
        released, released_memory = process.submit(released_side, config, steps).result()
    with tempfile.TemporaryDirectory() as folder, new_process() as process:
        ours, our_memory = process.submit(our_side, short, Path(folder)).result()
    figures = {
        "released": released_figures(released) | {"peak_memory": released_memory},
        "ours": our_figures(ours, whole["trainer"]["max_steps"], points) | {"peak_memory": our_memory},
    }
    settings = {
        "released": asdict(released.config),
        "ours": {key: whole[key] for key in ("adapter", "objective", "data", "optimizer", "trainer")},
        "timed_steps": {"released": steps, "ours": ours.steps},
        "steps_of_a_run": whole["trainer"]["max_steps"],
        "sweep_points": points,
    }
    tables = [table(figures, points)]
    return write_report("text_step", Path(config["paths"]["outputs"]), {**figures, "settings": settings}, tables)


def released_figures(cost: ReleasedCost) -> dict[str, float]:
    """Forwards and seconds of the released algorithm: nothing is shared, so a sweep costs a run per point."""
    forwards, samples = cost.config.mean_sample_forwards, cost.config.batch_size
    seconds = cost.seconds_per_step
    return {
        "samples_per_step": samples,
        "sample_forwards_per_step": forwards,
        "sample_forwards_per_sample": forwards / samples,
        "sample_forwards_per_sample_in_a_sweep": forwards / samples,
        "sample_forwards_per_state": forwards / samples,
        "seconds_per_step": seconds,
        "seconds_per_sample": seconds / samples,
        "seconds_per_sample_in_a_sweep": seconds / samples,
        "measured_sample_forwards_per_step": cost.sample_forwards / cost.steps,
        "measured_seconds_per_step": cost.seconds / cost.steps,
    }


def our_figures(cost: OurCost, steps: int, points: int) -> dict[str, float]:
    """Forwards and seconds of our training, the cache and the checks at the end counted into runs of `steps` steps.

    Args:
        cost: of a short run with the whole cache.
        steps: optimizer steps of a whole run.
        points: runs of a sweep that share the cache.
    """
    samples = steps * cost.samples_per_step
    return {
        "samples_per_step": cost.samples_per_step,
        "sample_forwards_per_step": cost.samples_per_step,
        "sample_forwards_per_sample": cost.sample_forwards(steps) / samples,
        "sample_forwards_per_sample_in_a_sweep": cost.sample_forwards(steps, points) / (points * samples),
        "sample_forwards_per_state": cost.sample_forwards(steps) / (steps * cost.states_per_step),
        "seconds_per_step": cost.seconds_per_step,
        "seconds_per_sample": cost.seconds(steps) / samples,
        "seconds_per_sample_in_a_sweep": cost.seconds(steps, points) / (points * samples),
        "cache_sample_forwards": cost.cache.sample_forwards,
        "cache_seconds": cost.cache.seconds,
        "checks_sample_forwards": cost.checks.sample_forwards,
        "run_sample_forwards": cost.sample_forwards(steps),
        "run_seconds": cost.seconds(steps),
    }


def table(figures: dict[str, dict[str, float]], points: int) -> Table:
    """Both sides, a figure per row, with the released over ours."""
    rows = {
        "samples_per_step": "training samples in an optimizer step",
        "sample_forwards_per_step": "sample-forwards of an optimizer step, without the cache",
        "sample_forwards_per_sample": "sample-forwards per training sample, cache counted into one run",
        "sample_forwards_per_sample_in_a_sweep": f"sample-forwards per training sample in a sweep of {points} points",
        "sample_forwards_per_state": "sample-forwards per state, cache counted into one run",
        "seconds_per_step": "seconds of an optimizer step, without the cache",
        "seconds_per_sample": "seconds per training sample, cache counted into one run",
        "seconds_per_sample_in_a_sweep": f"seconds per training sample in a sweep of {points} points",
        "peak_memory": "peak memory, MiB",
    }
    drawn = Table(
        title="Cost of training a text slider",
        caption="A training sample is one prediction that a gradient flows through. Released steps are scaled from the "
        "rollouts they drew to their mean length. On neither side: start-up, loading, the encoding of prompts; nor the "
        "strip of images that a run of ours draws when it is trained.",
    )
    drawn.add_column("figure")
    for side in ("released", "ours", "ratio"):
        drawn.add_column(side, justify="right")
    for key, text in rows.items():
        scale = MIB if key == "peak_memory" else 1
        released, ours = (figures[side][key] / scale for side in ("released", "ours"))
        drawn.add_row(text, f"{released:.4g}", f"{ours:.4g}", f"{released / ours:.3g}")
    return drawn


@entry_point("benchmark/text_step")
def main(config: dict[str, Any]) -> None:
    """Measure from the command line."""
    text_step(config)


if __name__ == "__main__":
    main()
