"""Table 2, visual edits of the eyes: `python -m experiments.paper.table2 [slider=RUN model=sdxl pairs.folder=DIR]`."""

from pathlib import Path
from typing import Any

from rich.console import Console

from evaluation.grids import GridRow, Method, SliderMethod
from evaluation.measurements import Measurements
from evaluation.measuring import Examiner
from evaluation.train_baseline import ensure_baseline
from experiments.paper.pairs import AFTER, DrawnPairs, PairFolder, read_pairs
from experiments.paper.rows import TRAINING_PAIRS, VISUAL_SLIDER, table2
from experiments.paper.stage import Stage
from slider_lightning.config import build, typed
from slider_lightning.entry import entry_point

SCALE = 1.0


@entry_point("paper/table2")
def main(config: dict[str, Any]) -> None:
    """Trains the baselines on the pairs, makes their images, and writes the table; `slider` adds a visual slider."""
    stage = Stage(config, Console())
    provider: DrawnPairs | PairFolder = build(config["pairs"], "pairs.")
    pairs = provider.provide(Path(config["paths"]["outputs"]))
    baselines = typed(config["baselines"], tuple[str, ...], "baselines")
    overrides = typed(config["baseline_training"], tuple[str, ...], "baseline_training")
    methods = {name: personal_method(stage, name, pairs / AFTER, overrides) for name in baselines}
    if (slider := typed(config["slider"], str | None, "slider")) is not None:
        methods[VISUAL_SLIDER] = SliderMethod(VISUAL_SLIDER, (slider,))
    examiner = stage.examiner(config["attribute"], build(config["texts"], "texts."))
    gallery = stage.gallery(stage.protocol.visual_prompts)
    measurements = {TRAINING_PAIRS: measured_pairs(pairs, examiner)}
    measurements |= {name: gallery.measure(method, (SCALE,), examiner) for name, method in methods.items()}
    stage.publish({"table2": table2(measurements, SCALE)}, measurements.values())


def personal_method(stage: Stage, baseline: str, images: Path, overrides: tuple[str, ...]) -> Method:
    """A baseline that learned the images, trained first where it is not."""
    config = stage.compose("train_baseline", f"baseline={baseline}", f"images={images}", *overrides)
    stage.console.print(f"Baseline {baseline} on {images}.")
    ensure_baseline(config)
    method: Method = build(config["baseline"], "baseline.")
    return method


def measured_pairs(folder: Path, examiner: Examiner) -> Measurements:
    """The readings of the training pairs: before at scale 0, after at scale 1."""
    before, after = read_pairs(folder)
    rows = [GridRow("training pair", "training pair", number) for number in range(len(before))]
    images = {0.0: before, SCALE: after}
    return examiner.examine(TRAINING_PAIRS, rows, (0.0, SCALE), lambda scale, some: images[scale][some], {})


if __name__ == "__main__":
    main()
