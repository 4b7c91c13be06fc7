"""Photographs edited by a slider, every method against the truth: `python -m experiments.paper.photographs`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from rich.console import Console

from evaluation.config import EvaluationConfig
from evaluation.statistics import to_record
from experiments.paper.photographs_measures import Edits
from experiments.paper.photographs_tables import Faces, Measured, drift_table, edit_table, strip_rows
from experiments.paper.stage import Stage
from experiments.tiny_faces.captions import tags
from experiments.tiny_faces.faces import GENDERS, SCHEMA
from experiments.tiny_faces.faces import Faces as DrawnFaces
from experiments.tiny_faces.pairs import sample_well_drawn
from experiments.tiny_faces.render import render
from slider_lightning.adapters import SliderBank
from slider_lightning.assets import sha256_file
from slider_lightning.backbone import images_to_pil
from slider_lightning.config import build, typed
from slider_lightning.data import measured_cost
from slider_lightning.entry import entry_point
from slider_lightning.errors import InputError
from slider_lightning.generate import load_sliders
from slider_lightning.generation import (
    EditMethod,
    Photographs,
    ProgressCallback,
    draw_strip,
    edit_photographs,
    encode_pictures,
    save_image,
)

STRIP_FACES = 4
CAPTION = "true caption"


@entry_point("paper/photographs")
def main(config: dict[str, Any]) -> None:
    """Trains the slider, edits drawn faces by every method, and writes tables and strips."""
    stage = Stage(config, Console())
    experiment = typed(config["experiment"], str, "experiment")
    scale, count = typed(config["scale"], float, "scale"), typed(config["faces"], int, "faces")
    methods: dict[str, EditMethod] = {n: build(node, f"methods.{n}.") for n, node in config["methods"].items()}
    training = stage.compose("train", f"experiment={experiment}", *stage.overrides)
    settings: EvaluationConfig = build(training["evaluation"], "evaluation.")
    check(stage, settings, count, scale)
    assert settings.target is not None
    drawn = sample_well_drawn(count, typed(config["seed"], int, "seed"))
    photographs = encode_pictures(stage.backbone, images_to_pil(render(drawn, stage.backbone.resolution).images))
    faces = Faces(photographs.images, photographs.round_trip(stage.backbone), drawn.values)
    prompt = typed(config["prompt"], str, "prompt")
    prompts = {prompt: [prompt] * count}
    if typed(config["captions"], bool, "captions"):
        prompts[CAPTION] = true_captions(drawn)
    slider = stage.slider(experiment).slider
    edits = {
        (name, method): edited(stage, f"{method}, {name}", methods[method], str(slider), photographs, texts, scale)
        for name, texts in prompts.items()
        for method in methods
    }
    measured = {
        key: Measured.of(each, faces, stage.judges, settings.target, settings.protected) for key, each in edits.items()
    }
    notes = (f"{count} drawn faces of seed {config['seed']}, none of them seen in training; slider {experiment}.",)
    run = stage.publish(
        {
            "photographs": edit_table(measured, edits, stage.judges, settings.target, settings.protected, notes),
            "photographs_drift": drift_table(measured, faces, stage.judges, settings.target, prompt),
        },
        [],
        seeds={"faces": config["seed"]},
        assets={f"slider {training['name']}": sha256_file(slider)},
    )
    run.update_summary({f"{'/'.join(key)}/{name}": m for key, f in measured.items() for name, m in record(f).items()})
    for number in range(min(STRIP_FACES, count)):
        images, names = strip_rows(faces, edits, prompt, number)
        columns = ["photograph", "round trip", -scale, 0, scale]
        save_image(draw_strip(images, names, columns, f"{training['name']} | {prompt}"), run.path / f"face{number}.png")


def check(stage: Stage, settings: EvaluationConfig, count: int, scale: float) -> None:
    """Refuse what cannot be measured against the truth.

    Raises:
        InputError: if the judges read other attributes than the faces have, the slider has no target or nothing
            protected, or there are too few faces.
    """
    if stage.judges.classifier.schema != SCHEMA:
        raise InputError(
            "Expected judges of the embedded world's attributes, since its faces are what is edited, but got others; "
            "use model=tiny_faces."
        )
    continuous = [attribute.name for attribute in SCHEMA if attribute.kind == "continuous"]
    if settings.target not in continuous or not settings.protected:
        raise InputError(
            f"Expected an experiment whose evaluation.target is among {', '.join(continuous)} and protects a class, "
            f"but got {settings.target} and {list(settings.protected)}; choose another."
        )
    if count < 2 or scale <= 0:
        raise InputError(f"Expected faces of 2 or more and a scale above 0, but got {count} and {scale}; raise them.")


def edited(
    stage: Stage,
    what: str,
    method: EditMethod,
    slider: str,
    photographs: Photographs,
    prompts: list[str],
    scale: float,
) -> Edits:
    """All faces at minus the scale, 0 and the scale."""
    backbone = stage.backbone
    loaded = load_sliders([slider], backbone)
    scales = torch.tensor([[-scale], [0.0], [scale]])
    with (
        SliderBank(backbone.unet, [each for each, _ in loaded]) as bank,
        ProgressCallback(what) as progress,
        measured_cost(backbone) as cost,
    ):
        one_by_one = [photographs[slice(number, number + 1)] for number in range(len(photographs))]
        size = stage.protocol.batch_size
        images = edit_photographs(method, backbone, bank, one_by_one, prompts, scales, size, progress)
    return Edits(torch.stack(images), cost)


def true_captions(faces: DrawnFaces) -> list[str]:
    """What captions can say of every face, but for its age, which is to change."""
    captions = []
    for number in range(len(faces)):
        values = {name: column[number].item() for name, column in faces.values.items()}
        said = [phrase for name, phrase in tags(values).items() if name not in ("age", "quality")]
        captions.append(", ".join([f"image of a {GENDERS[int(values['gender'])]}", *said]))
    return captions


def record(measured: Measured) -> Mapping[str, Any]:
    """The figures as JSON values."""
    return to_record(measured.figures)


if __name__ == "__main__":
    main()
