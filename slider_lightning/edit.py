"""Photographs edited by sliders: `python -m slider_lightning.edit image=FILE sliders=[RUN_OR_FILE]`."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from slider_lightning.adapters import SliderBank
from slider_lightning.backbone import Backbone, images_to_pil
from slider_lightning.config import build
from slider_lightning.entry import entry_point
from slider_lightning.errors import InputError
from slider_lightning.generate import load_sliders, slider_names
from slider_lightning.generation import (
    EditMethod,
    ProgressCallback,
    draw_strip,
    edit_photographs,
    fidelity,
    format_scales,
    read_photograph,
    save_image,
)
from slider_lightning.generation.sheets import scale_rows
from slider_lightning.training.run_folder import write_json

logger = logging.getLogger(__name__)
ORIGINAL, ROUND_TRIP = "original", "round trip"


@dataclass(frozen=True)
class EditConfig:
    """Which photographs are edited, how far, and with what.

    Args:
        image: a file or several, of any format and size.
        sliders: run folders or slider files.
        prompt: what the photographs show; one for all, or one for each.
        scales: the columns: a number turns all sliders, a row of numbers one each.
        background: what transparency is laid on.
        batch_size: latents per UNet call.

    Raises:
        InputError: if there is no photograph, slider or scale, or prompts and photographs differ in number.
    """

    image: str | tuple[str, ...]
    sliders: tuple[str, ...]
    prompt: str | tuple[str, ...]
    scales: tuple[float | tuple[float, ...], ...]
    background: str
    batch_size: int

    def __post_init__(self) -> None:
        if not self.paths or not self.sliders or not self.scales or self.batch_size < 1:
            raise InputError(
                "Expected at least one file in image, one run folder or slider file in sliders, one scale, and a "
                "batch_size of 1 or more; add them."
            )
        if len(self.prompts) != len(self.paths):
            raise InputError(
                f"Expected one prompt, or one for each of {len(self.paths)} photographs, but got {len(self.prompts)}."
            )

    @property
    def paths(self) -> tuple[str, ...]:
        """The files."""
        return (self.image,) if isinstance(self.image, str) else self.image

    @property
    def prompts(self) -> tuple[str, ...]:
        """One per photograph."""
        return (self.prompt,) * len(self.paths) if isinstance(self.prompt, str) else self.prompt

    @property
    def names(self) -> tuple[str, ...]:
        """What the photographs are called, all different."""
        return tuple(f"{number:02d}_{Path(path).stem}" for number, path in enumerate(self.paths))


def edit(config: dict[str, Any]) -> Path:
    """Write the edits that a checked config describes, and return their folder.

    The folder gets a strip for every size of photographs, a folder of single images for every photograph, and
    `fidelity.json`: how near the round trip through the VAE and every edit come to it.

    Args:
        config: the plain, checked config of conf/edit.yaml.

    Raises:
        InputError: for photographs, sliders, prompts, scales or a model that cannot work together.
    """
    wanted = {field.name: config[field.name] for field in fields(EditConfig)}
    asked: EditConfig = build({"_target_": f"{__name__}.EditConfig", **wanted})
    method: EditMethod = build(config["method"], "method.")
    backbone: Backbone = build(config["model"], "model.")
    loaded = load_sliders(asked.sliders, backbone)
    scales = torch.tensor(scale_rows(asked.scales, len(loaded)))
    photographs = [read_photograph(backbone, path, asked.background) for path in asked.paths]
    with (
        SliderBank(backbone.unet, [slider for slider, _ in loaded]) as bank,
        ProgressCallback("sample-forwards") as on_progress,
    ):
        edited = edit_photographs(
            method, backbone, bank, photographs, asked.prompts, scales, asked.batch_size, on_progress
        )
    rows = [
        torch.cat([photograph.images, photograph.round_trip(backbone), images])
        for photograph, images in zip(photographs, edited, strict=True)
    ]
    turned = [format_scales(row[0] if len(set(row)) == 1 else row) for row in scales.tolist()]
    title = f"{' + '.join(slider_names(asked.sliders, loaded))} | {' | '.join(dict.fromkeys(asked.prompts))}"
    folder = Path(config["out"])
    save_edits(folder, asked.names, rows, [ORIGINAL, ROUND_TRIP, *turned], title)
    return folder


def save_edits(
    folder: Path,
    names: Sequence[str],
    rows: Sequence[Float[Tensor, "columns 3 height width"]],
    labels: Sequence[str],
    title: str,
) -> None:
    """Write strips, single images and `fidelity.json`, and log how near each image comes to the photograph.

    Args:
        folder: is created.
        names: of the photographs.
        rows: of each the original, then its versions, in [0, 1].
        labels: of the columns.
        title: of the strips.

    Raises:
        InputError: if the disk refuses.
    """
    found = {}
    for name, row in zip(names, rows, strict=True):
        for label, image in zip(labels, images_to_pil(row), strict=True):
            save_image(image, folder / name / f"{label.replace(', ', '_').replace(' ', '_')}.png")
        near = dict(zip(labels[1:], fidelity(row[1:], row[:1].expand_as(row[1:])), strict=True))
        found[name] = {label: asdict(each) for label, each in near.items()}
        logger.info("%s: mean squared error and structural similarity to the photograph", name)
        for label, each in near.items():
            ratio = each.squared_error / max(near[ROUND_TRIP].squared_error, 1e-12)
            logger.info("%12s  %.5f (%.2f x %s)  %.3f", label, each.squared_error, ratio, ROUND_TRIP, each.similarity)
    write_json(folder / "fidelity.json", found)
    sizes = dict.fromkeys(row.shape[-2:] for row in rows)
    for height, width in sizes:
        shown = [n for n, row in enumerate(rows) if row.shape[-2:] == (height, width)]
        strip = draw_strip(torch.stack([rows[n] for n in shown]), [names[n] for n in shown], labels, title)
        save_image(strip, folder / ("strip.png" if len(sizes) == 1 else f"strip_{width}x{height}.png"))


@entry_point("edit")
def main(config: dict[str, Any]) -> None:
    """Edit from the command line."""
    logger.info("Wrote %s", edit(config))


if __name__ == "__main__":
    main()
