"""The repair of badly made images: `python -m experiments.paper.repair [model=sdxl]`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from evaluation.grids import SliderMethod
from evaluation.measurements import Measurements
from evaluation.report import save_figure
from evaluation.report.strips import slider_strip
from evaluation.statistics import Measure, to_record
from experiments.paper.repair_figure import share_figure
from experiments.paper.repair_images import features_by_scale
from experiments.paper.repair_tables import RepairPlan, bad_rows, distance_table, repair_table, set_distances
from experiments.paper.rows import SLIDER
from experiments.paper.stage import Stage
from slider_lightning.config import build
from slider_lightning.entry import entry_point
from slider_lightning.generation import ProgressCallback, save_image

STRIP_ROWS = 8


@entry_point("paper/repair")
def main(config: dict[str, Any]) -> None:
    """Trains the repair sliders, makes images before and after, and writes shares, distances and strips."""
    stage = Stage(config, Console())
    plan: RepairPlan = build(config["repair"], "repair.")
    plan.check(stage.judges.classifier.schema)
    experiments = {name: stage.protocol.concepts[name].experiment for name in plan.faults}
    stage.train_all(experiments.values())
    methods = {name: stage.slider_method(SLIDER, experiment) for name, experiment in experiments.items()}
    sliders = {name: stage.measured(name, method, plan.scales) for name, method in methods.items()}
    tables = {"repair": repair_table(sliders, plan.faults)}
    distances = measured_distances(stage, plan, methods) if config["reference"] else {}
    if distances:
        features = stage.judges.required_features.name
        tables["distances"] = distance_table(distances, (0.0, *plan.scales), next(iter(sliders.values())), features)
    run = stage.publish(tables, sliders.values())
    figures = {f"{name}/{key}": entry for name, found in distances.items() for key, entry in to_record(found).items()}
    run.update_summary(figures)
    save_figure(run.path, "repair", share_figure(sliders, plan.faults))
    draw_strips(stage, plan, methods, sliders, run.path)


def measured_distances(
    stage: Stage, plan: RepairPlan, methods: Mapping[str, SliderMethod]
) -> dict[str, dict[str, Measure]]:
    """Concept to FID and KID of its slider's images, at every scale, to the reference of the config.

    Raises:
        InputError: if the judges have no features, or the reference cannot be read.
    """
    judge = stage.judges.required_features
    reference = judge(build(stage.config["reference"], "reference.")).cpu()
    found = {}
    for name, method in methods.items():
        gallery = stage.concept(name).gallery
        with ProgressCallback(f"features of {name}, scales") as progress:
            features = features_by_scale(gallery.grid(method, plan.scales), gallery.base, judge, progress)
        found[name] = set_distances(features, reference)
    return found


def draw_strips(
    stage: Stage,
    plan: RepairPlan,
    methods: Mapping[str, SliderMethod],
    sliders: Mapping[str, Measurements],
    folder: Path,
) -> None:
    """One strip per slider: the first images that were bad, before and after."""
    for name, method in methods.items():
        rows = bad_rows(sliders[name], plan.faults[name], STRIP_ROWS)
        if rows:
            gallery = stage.concept(name).gallery
            strip = slider_strip(gallery.grid(method, plan.scales), gallery.base, rows, f"{name}: badly made at 0")
            save_image(strip, folder / f"strip_{name}.png")


if __name__ == "__main__":
    main()
