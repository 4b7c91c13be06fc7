"""`make demo`: train the age slider on tiny_faces, measure it, print the figures and the path of the strip."""

import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from evaluation.evaluate import evaluate
from evaluation.tables import slider_tables
from slider_lightning.entry import entry_point
from slider_lightning.train import train


@entry_point("demo")
def main(config: dict[str, Any]) -> None:
    """Train, measure, print."""
    started, console = time.perf_counter(), Console()
    console.print(
        f"Training the slider '{config['name']}' (rank {config['adapter']['rank']}, eta {config['objective']['eta']})."
    )
    run = train(config)
    console.print("Measuring it.")
    measures = evaluate(run)
    summary = run.read_summary()
    console.print(slider_tables(measures, config["evaluation"]["scales"], config["evaluation"]["target"]))
    console.print(cost_table(summary))
    console.print(
        f"Strip: {run.strip}\nAll figures: {run.summary}\n{time.perf_counter() - started:.0f} s in all.", soft_wrap=True
    )


def cost_table(summary: dict[str, Any]) -> Table:
    """Seconds and UNet sample-forwards of every stage in a summary."""
    table = Table("stage", "seconds", "UNet sample-forwards", title="Cost")
    for key, seconds in summary.items():
        if key.startswith("cost/seconds/"):
            stage = Path(key).name
            table.add_row(stage, f"{seconds:.1f}", f"{summary[f'cost/sample_forwards/{stage}']:,}")
    return table


if __name__ == "__main__":
    main()
