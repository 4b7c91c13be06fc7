"""The model card of the world: how it was made and how good it is, measured on what was written to disk."""

import itertools
import json
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torchvision.utils import save_image

from experiments.tiny_faces.fit import METRICS
from experiments.tiny_faces.measure_judges import measure_judges
from experiments.tiny_faces.measure_world import measure_world
from experiments.tiny_faces.panel import load_judges
from experiments.tiny_faces.settings import BuildSettings
from slider_lightning.assets import atomic_path
from slider_lightning.backbone import Backbone, load_backbone
from slider_lightning.config import portable_path
from slider_lightning.generation import ProgressCallback

HEAD = """# tiny_faces

A real SDXL of about 8 M parameters and four judges, trained from nothing on procedurally drawn faces of 64 px
(`experiments/tiny_faces/`). `pipeline/` opens with `StableDiffusionXLPipeline.from_pretrained`, `probe/` and `parser/`
with transformers, `clip/` with open_clip (`local-dir:`), `perceptual/` with `evaluation.judges.perceptual`. Rebuild all
of it with `python -m experiments.tiny_faces.build`. License: Apache-2.0; no data from outside went in.

The faces are drawings. Nothing measured on them says how a slider behaves on photographs of people.

![samples](samples.png)
"""


def write_card(out: Path, settings: BuildSettings, work_folders: dict[str, Path]) -> dict[str, Any]:
    """Measure the world in `out`, and write README.md, quality.json, made.json and samples.png there.

    Args:
        out: the assets folder with pipeline and judges.
        settings: what the build was told.
        work_folders: stage -> the folder that its training logged to.

    Returns:
        The measured quality.
    """
    backbone, judges = load_backbone(str(out / "pipeline")), load_judges(out)
    with ProgressCallback("measuring the generator") as on_batch:
        world, images = measure_world(backbone, judges.classifier, settings.measured_images, on_batch)
    quality = world | measure_judges(judges, reconstruct=lambda rows: _reconstruct(backbone, rows))
    made = {
        "settings": asdict(settings) | {"out_dir": portable_path(settings.out_dir)},
        "training": {name: _training(folder / METRICS) for name, folder in work_folders.items()},
        "machine": {
            "processors": os.cpu_count(),
            "architecture": platform.machine(),
            "cuda": torch.cuda.is_available(),
        },
        "parameters": {name: _count(getattr(backbone, name)) for name in ("unet", "vae")},
    }
    save_image(images[:48], out / "samples.png", nrow=12)
    for name, content in (("quality.json", quality), ("made.json", made)):
        with atomic_path(out / name) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n")
    with atomic_path(out / "README.md") as temporary:
        temporary.write_text(
            "\n".join([HEAD, *_table("Measured quality", quality), *_table("How it was made", _flat(made))]) + "\n"
        )
    return quality


def _reconstruct(backbone: Backbone, images: torch.Tensor) -> torch.Tensor:
    return backbone.decode(backbone.encode_images(images))


def _count(module: torch.nn.Module) -> int:
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
