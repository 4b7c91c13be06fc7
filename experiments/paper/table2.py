"""Table 2, visual edits of the eyes: `python -m experiments.paper.table2 [pairs=folder pairs.folder=DIR]`."""

from pathlib import Path
from typing import Any

from rich.console import Console

from evaluation.baselines.personal import folder_digest, read_training_images
from evaluation.grids import GridRow, Method, SliderMethod
from evaluation.measurements import Measurements
from evaluation.measuring import Examiner
from evaluation.train_baseline import ensure_baseline
from experiments.paper.pairs import PairEnds, pair_ends
from experiments.paper.protocol import Protocol
from experiments.paper.rows import TRAINING_PAIRS, VISUAL_SLIDER, attributes_table, table2
from experiments.paper.stage import SHARED, Stage
from experiments.paper.visual_claims import visual_claims_table
from slider_lightning.assets import sha256_file
from slider_lightning.config import build, typed
from slider_lightning.data.pairs import PairsConfig, PairSource, check_twins
from slider_lightning.entry import entry_point
from slider_lightning.errors import InputError
from slider_lightning.train import ensure_trained
from slider_lightning.training import RunFolder


@entry_point("paper/table2")
def main(config: dict[str, Any]) -> None:
    """Trains the visual slider and the baselines on the pairs, makes the images of all, and writes the tables."""
    stage = Stage(config, Console())
    scale, target = typed(config["scale"], float, "scale"), typed(config["attribute"], str, "attribute")
    if not scale > 0:
        raise InputError(f"Expected scale above 0, where all methods have images, but got {scale:g}; raise it.")
    training = slider_training(stage)
    ends = read_ends(config, learnt_background(training))
    slider = slider_file(stage, training)
    methods, scales = trained_methods(stage, slider, ends), slider_scales(stage.protocol, scale, ends)
    examiner = stage.examiner(target, build(config["texts"], "texts."))
    gallery = stage.gallery(stage.protocol.visual_prompts)
    measurements = {TRAINING_PAIRS: measured_pairs(ends, scale, examiner, stage.backbone.resolution)}
    for name, method in methods.items():
        stage.console.print(f"Images and measurements of {name}.")
        measurements[name] = gallery.measure(method, scales if name == VISUAL_SLIDER else (scale,), examiner)
    tables = {
        "table2": table2(measurements, scale, ends.scales, target),
        "claims": visual_claims_table(measurements, scale, ends.scales, target),
        "attributes": attributes_table(measurements, scale, target),
    }
    assets = {
        "visual slider": sha256_file(slider),
        "training pairs, lowest level": folder_digest(ends.low),
        "training pairs, highest level": folder_digest(ends.high),
    }
    stage.publish(tables, measurements.values(), seeds={"images": gallery.prompts.first_seed}, assets=assets)


def slider_training(stage: Stage) -> dict[str, Any]:
    """The config of the training of the visual slider: that of its experiment, on this table's pairs."""
    experiment = typed(stage.config["visual_experiment"], str, "visual_experiment")
    return stage.compose("train", f"experiment={experiment}", *stage.overrides, shared=(*SHARED, "pairs"))


def learnt_background(training: dict[str, Any]) -> str:
    """What a training lays transparent pictures on.

    Raises:
        InputError: if it does not learn from pairs.
    """
    source = build(training["data"]["source"], "data.source.")
    if not isinstance(source, PairsConfig):
        raise InputError(
            f"Expected visual_experiment to learn from image pairs, but {training['name']} does not; choose one with "
            "data=pairs."
        )
    return source.background


def read_ends(config: dict[str, Any], background: str) -> PairEnds:
    """The pairs of `pairs`, checked, as two folders of images; `background` is what transparency is laid on.

    Raises:
        InputError: if images are missing, cannot be read or do not fit their twins; it names them all.
    """
    source: PairSource = build(config["pairs"], "pairs.")
    folder = Path(config["paths"]["outputs"]) / "pairs"
    twins = source.twins(folder)
    check_twins(twins, background)
    return pair_ends(twins, folder, background)


def slider_file(stage: Stage, training: dict[str, Any]) -> Path:
    """The slider that learned this table's pairs: the one that the config names, else trained where it is not yet.

    Raises:
        InputError: if the config names a folder that is no run, or as training does.
    """
    place = typed(stage.config["slider"], str | None, "slider")
    if place is not None:
        return RunFolder.slider_of(place)
    stage.console.print(f"Slider '{training['name']}' of experiment={stage.config['visual_experiment']}.")
    return ensure_trained(training).slider


def trained_methods(stage: Stage, slider: Path, ends: PairEnds) -> dict[str, Method]:
    """Baselines, trained first where they are not, and slider by their names."""
    overrides = typed(stage.config["baseline_training"], tuple[str, ...], "baseline_training")
    methods: dict[str, Method] = {
        name: personal_method(stage, name, ends.high, overrides)
        for name in typed(stage.config["baselines"], tuple[str, ...], "baselines")
    }
    return methods | {VISUAL_SLIDER: SliderMethod(VISUAL_SLIDER, (str(slider),))}


def slider_scales(protocol: Protocol, scale: float, ends: PairEnds) -> tuple[float, ...]:
    """The protocol's scales, those that the pairs were trained at, and the one that all are compared at."""
    return tuple(sorted({*protocol.slider_scales, *ends.scales, scale} - {0.0}))


def personal_method(stage: Stage, baseline: str, images: Path, overrides: tuple[str, ...]) -> Method:
    """A baseline that learned the images, trained first where it is not."""
    config = stage.compose("train_baseline", f"baseline={baseline}", f"images='{images}'", *overrides)
    stage.console.print(f"Baseline {baseline} on {images}.")
    ensure_baseline(config)
    method: Method = build(config["baseline"], "baseline.")
    return method


def measured_pairs(ends: PairEnds, scale: float, examiner: Examiner, resolution: int) -> Measurements:
    """The readings of the training pairs at the model's size: lowest level at scale 0, highest at `scale`."""
    images = {0.0: read_training_images(ends.low, resolution), scale: read_training_images(ends.high, resolution)}
    rows = [GridRow("training pair", "training pair", number) for number in range(len(images[0.0]))]
    return examiner.examine(TRAINING_PAIRS, rows, (0.0, scale), lambda at, some: images[at][some], {})


if __name__ == "__main__":
    main()
