"""The figures of the paper and what it does not plot: `python -m experiments.paper.figures [model=sdxl]`."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console

from evaluation.gallery import Gallery
from evaluation.grids import ImageGrid
from evaluation.measurements import Measurements
from evaluation.report import save_figure
from evaluation.report.figures import (
    dose_response_figure,
    flip_matrix,
    scale_points,
    shift_matrix,
    start_points,
    trade_off_figure,
)
from evaluation.report.strips import method_strip, slider_strip
from experiments.paper.quantities import label
from experiments.paper.response_rows import dose_response_table
from experiments.paper.rows import SLIDER
from experiments.paper.stage import Stage
from slider_lightning.config import typed
from slider_lightning.entry import entry_point
from slider_lightning.generation import save_image


@entry_point("paper/figures")
def main(config: dict[str, Any]) -> None:
    """Trains the sliders of all concepts, makes the images of all methods, and draws them."""
    stage = Stage(config, Console())
    concepts = stage.protocol.concepts
    stage.train_all(column.experiment for column in concepts.values())
    sliders = {name: stage.slider_images(name, SLIDER, column.experiment) for name, column in concepts.items()}
    baselines = {b: stage.baseline_images(stage.protocol.ablated, b) for b in _texts(config, "baselines")}
    targets = {name: target for name, target in stage.targets().items() if target}
    run = stage.publish(
        {"dose_response": dose_response_table(sliders, targets)}, [*sliders.values(), *baselines.values()]
    )
    save_figure(
        run.path, "trade_off", trade_off(stage, sliders, baselines, typed(config["starts"], tuple[int, ...], "starts"))
    )
    save_figure(run.path, "attribute_shifts", shift_matrix(sliders))
    save_figure(run.path, "attribute_flips", flip_matrix(sliders, targets))
    if targets:
        save_figure(run.path, "dose_response", dose_response_figure({n: sliders[n] for n in targets}, targets))
    draw_strips(stage, _texts(config, "baselines"), run.path)


def trade_off(
    stage: Stage, sliders: dict[str, Measurements], baselines: dict[str, Measurements], starts: tuple[int, ...]
) -> Figure:
    """CLIP shift against distance of the ablated concept: methods over scales, the slider over start_timesteps."""
    concept, scale = stage.protocol.ablated, stage.protocol.scale
    method = stage.slider_method(SLIDER, stage.protocol.concepts[concept].experiment)
    by_start = {start: stage.measured(concept, method, (scale,), start) for start in sorted(starts)}
    lines = {label(name): scale_points(found) for name, found in {SLIDER: sliders[concept], **baselines}.items()}
    distance = sliders[concept].header.judges["distance"]
    return trade_off_figure(lines, distance, {label(SLIDER): start_points(by_start, scale)})


def draw_strips(stage: Stage, baselines: tuple[str, ...], folder: Path) -> None:
    """One strip per slider, and one of all methods on the ablated concept."""
    for name, column in stage.protocol.concepts.items():
        gallery = stage.concept(name).gallery
        grid = gallery.grid(stage.slider_method(SLIDER, column.experiment), stage.protocol.slider_scales)
        save_image(slider_strip(grid, gallery.base, first_of_nouns(gallery), name), folder / f"strip_{name}.png")
    concept, scales = stage.protocol.ablated, stage.protocol.baseline_scales
    gallery = stage.concept(concept).gallery
    methods = [stage.slider_method(SLIDER, stage.protocol.concepts[concept].experiment)]
    grids: dict[str, ImageGrid] = {label(SLIDER): gallery.grid(methods[0], stage.protocol.slider_scales)}
    grids |= {label(b): gallery.grid(stage.baseline_method(concept, b), scales) for b in baselines}
    for number, row in enumerate(first_of_nouns(gallery)):
        strip = method_strip(grids, gallery.base, row, scales, f"{concept}: {gallery.prompts.rows[row].prompt}")
        save_image(strip, folder / f"methods_{number}.png")


def first_of_nouns(gallery: Gallery) -> list[int]:
    """The first row of every prompt noun."""
    nouns = [row.noun for row in gallery.prompts.rows]
    return [nouns.index(noun) for noun in dict.fromkeys(nouns)]


def _texts(config: dict[str, Any], key: str) -> tuple[str, ...]:
    texts: tuple[str, ...] = typed(config[key], tuple[str, ...], key)
    return texts


if __name__ == "__main__":
    main()
