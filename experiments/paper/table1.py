"""Table 1, sliders against training-free edits: `python -m experiments.paper.table1 [model=sdxl]`."""

from typing import Any

from rich.console import Console

from evaluation.measurements import Measurements
from experiments.paper.claims import claims_table
from experiments.paper.response_rows import dose_response_table
from experiments.paper.rows import SLIDER, table1
from experiments.paper.stage import Stage
from slider_lightning.config import typed
from slider_lightning.entry import entry_point


@entry_point("paper/table1")
def main(config: dict[str, Any]) -> None:
    """Trains the sliders of all concepts, makes the images of all methods, and writes the table."""
    stage = Stage(config, Console())
    measurements = measured_concepts(stage, typed(config["baselines"], tuple[str, ...], "baselines"))
    sliders = {concept: found for (concept, method), found in measurements.items() if method == SLIDER}
    targets, scale = stage.targets(), stage.protocol.scale
    tables = {
        "table1": table1(measurements, scale, targets),
        "claims": claims_table(measurements, scale, targets, {}),
        "dose_response": dose_response_table(sliders, targets),
    }
    stage.publish(tables, measurements.values())


def measured_concepts(stage: Stage, baselines: tuple[str, ...]) -> dict[tuple[str, str], Measurements]:
    """(concept, method) to measurements: the concept's slider first, then the baselines."""
    concepts = stage.protocol.concepts
    stage.train_all(column.experiment for column in concepts.values())
    measurements = {}
    for concept, column in concepts.items():
        measurements[concept, SLIDER] = stage.slider_images(concept, SLIDER, column.experiment)
        for baseline in baselines:
            measurements[concept, baseline] = stage.baseline_images(concept, baseline)
    return measurements


if __name__ == "__main__":
    main()
