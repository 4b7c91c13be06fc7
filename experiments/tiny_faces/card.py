"""The model card of the world: how it was made and how good it is, measured on what was written to disk."""

import itertools
import json
import os
import platform
import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.utils import save_image

from evaluation.judges.panel import Judges
from experiments.tiny_faces.measure_judges import measure_judges
from experiments.tiny_faces.measure_stylegan import SHEET_COLUMNS, measure_stylegan
from experiments.tiny_faces.measure_world import measure_world
from experiments.tiny_faces.panel import load_judges
from experiments.tiny_faces.settings import BuildSettings
from experiments.tiny_faces.stylegan.training import load_generator
from slider_lightning.assets import atomic_path
from slider_lightning.backbone import Backbone, load_backbone
from slider_lightning.config import portable_path
from slider_lightning.generation import ProgressCallback

CARD, QUALITY, MADE = "README.md", "quality.json", "made.json"
HEAD = """# tiny_faces

A real SDXL of about 8 M parameters, four judges and a StyleGAN generator, trained from nothing on procedurally drawn
faces of 64 px (`experiments/tiny_faces/`). `pipeline/` opens with `StableDiffusionXLPipeline.from_pretrained`, `probe/`
and `parser/` with transformers, `clip/` with open_clip (`local-dir:`), `perceptual/` with
`evaluation.judges.perceptual`, `stylegan/` with `experiments.tiny_faces.stylegan.training.load_generator`. Rebuild all
of it with `python -m experiments.tiny_faces.build`. License: Apache-2.0; no data from outside went in.

The faces are drawings. Nothing measured on them says how a slider behaves on photographs of people.

![samples](samples.png)
"""


def write_card(out: Path, settings: BuildSettings, logs: Mapping[str, Path]) -> dict[str, float]:
    """Measure the world in `out`, and write README.md, quality.json, made.json, samples.png and stylegan.png there.

    Where `settings.only` names parts, their figures and records alone are replaced, and samples.png stays.

    Args:
        out: the assets folder with all parts.
        settings: what the build was told.
        logs: training -> its metrics file.

    Returns:
        The measured quality.
    """
    backbone, judges = load_backbone(str(out / "pipeline")), load_judges(out)
    generator = load_generator(out / "stylegan")
    made = _made(settings, logs, {"unet": backbone.unet, "vae": backbone.vae, "stylegan": generator})
    if settings.only:
        quality = _without_stylegan(json.loads((out / QUALITY).read_text()))
        made = _made_alone(json.loads((out / MADE).read_text()), made)
    else:
        quality = _measure_pipeline_and_judges(out, backbone, judges, settings)
    reconstruct = partial(_reconstruct, backbone)
    figures, sheet = measure_stylegan(generator, judges, reconstruct, settings.measured_faces)
    save_image(sheet, out / "stylegan.png", nrow=SHEET_COLUMNS)
    quality |= figures
    for name, content in ((QUALITY, quality), (MADE, made)):
        with atomic_path(out / name) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n")
    with atomic_path(out / CARD) as temporary:
        temporary.write_text(card_text(quality, made))
    return quality


def card_text(quality: dict[str, float], made: dict[str, Any]) -> str:
    """The model card, from what quality.json and made.json say."""
    tables = [*_table("Measured quality", quality), *_table("How it was made", _flat(made))]
    return "\n".join([HEAD, *_stylegan(made), *tables]) + "\n"


def _stylegan(made: dict[str, Any]) -> list[str]:
    """How the StyleGAN generator came to be, in words."""
    regression, adversarial = (made["training"].get(f"stylegan_{stage}") for stage in ("regression", "adversarial"))
    sharpened = (
        f"then sharpened adversarially, the regression loss kept beside the discriminator's ({_length(adversarial)})"
        if adversarial
        else "and not sharpened adversarially"
    )
    text = f"""{made["parameters"]["stylegan"] / 1e6:.2f} M parameters, in the manner of StyleGAN2. The picture is a
        function of z (`experiments/tiny_faces/stylegan/latent.py`), so it was first fitted by regression to the faces
        that its z stand for ({_length(regression)}), {sharpened}. Below, `stylegan/rendered` gives the figures of the
        drawn faces themselves, which a perfect generator would reach, `stylegan/reconstructed` those of the drawn faces
        after the VAE. The picture has rows of generated faces, each above the drawn faces of the same z."""
    paragraph = textwrap.fill(" ".join(text.split()), 120)
    return ["## The StyleGAN generator", "", paragraph, "", "![generated above drawn faces](stylegan.png)", ""]


def _length(training: dict[str, Any]) -> str:
    return f"{training['step']} steps, {training['seconds']:.0f} s"


def _measure_pipeline_and_judges(
    out: Path, backbone: Backbone, judges: Judges, settings: BuildSettings
) -> dict[str, float]:
    with ProgressCallback("measuring the generator") as on_batch:
        world, samples = measure_world(backbone, judges.classifier, settings.measured_images, on_batch)
    save_image(samples[:48], out / "samples.png", nrow=12)
    reconstruct = partial(_reconstruct, backbone)
    return world | measure_judges(judges, count=settings.measured_faces, reconstruct=reconstruct)


def _made(settings: BuildSettings, logs: Mapping[str, Path], networks: dict[str, nn.Module]) -> dict[str, Any]:
    told = {name: value for name, value in asdict(settings).items() if name != "only"}
    made = {
        "settings": told | {"out_dir": portable_path(settings.out_dir)},
        "training": {name: _training(path) for name, path in logs.items()},
        "machine": {
            "processors": os.cpu_count(),
            "architecture": platform.machine(),
            "cuda": torch.cuda.is_available(),
        },
        "parameters": {name: _count(network) for name, network in networks.items()},
    }
    # As a later build reads it back, tuples being lists there: the card must not depend on which of the two it was.
    return json.loads(json.dumps(made))


def _made_alone(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """What is known of a world whose StyleGAN generator alone was made again."""
    made = dict(before)
    for section in ("settings", "training", "parameters"):
        fresh = {name: value for name, value in now[section].items() if name.startswith("stylegan")}
        made[section] = _without_stylegan(before[section]) | fresh
    return made | {"machine_stylegan": now["machine"]}


def _without_stylegan(rows: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in rows.items() if not name.startswith("stylegan")}


def _reconstruct(backbone: Backbone, images: Tensor) -> Tensor:
    return backbone.decode(backbone.encode_images(images))


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _training(path: Path) -> dict[str, Any]:
    """The last logged line of a training, with the seconds of all its processes: each starts to count at zero."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
    ends = [line for line, following in itertools.pairwise(lines) if following["seconds"] < line["seconds"]]
    return {**lines[-1], "seconds": round(sum(line["seconds"] for line in [*ends, lines[-1]]), 1)}


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}{key}/") if isinstance(item, dict) else {f"{prefix}{key}": item}
    return flat


def _table(title: str, rows: dict[str, Any]) -> list[str]:
    return [f"## {title}", "", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items()), ""]
