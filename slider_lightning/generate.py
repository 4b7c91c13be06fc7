"""Images from sliders: `python -m slider_lightning.generate sliders=[RUN_OR_FILE] prompt="image of a person"`."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from slider_lightning.adapters import SliderBank, SliderMetadata, load_slider
from slider_lightning.adapters.base import SliderBase
from slider_lightning.adapters.calibration import check_settings, common_unit
from slider_lightning.assets import atomic_path
from slider_lightning.backbone import Backbone, SamplerConfig, images_to_pil
from slider_lightning.config import build, typed
from slider_lightning.entry import entry_point
from slider_lightning.errors import InputError
from slider_lightning.generation import (
    LAYOUTS,
    AskedScales,
    ProgressCallback,
    generate_images,
    save_image,
    strip_title,
)
from slider_lightning.training import RunFolder

logger = logging.getLogger(__name__)
UNITS = ("raw", "calibrated")


def load_sliders(places: Sequence[str], backbone: Backbone) -> list[tuple[SliderBase, SliderMetadata]]:
    """The sliders of run folders and slider files; one trained on another model is used with a warning.

    Raises:
        InputError: if a place is neither, or a slider does not fit the backbone.
    """
    loaded = []
    for place in places:
        path = RunFolder.slider_of(place)
        slider, metadata = load_slider(path, backbone.unet)
        if metadata.base_model_hash not in (None, backbone.fingerprint):
            logger.warning(
                "%s was trained on %s, not on %s: check its effect.", path, metadata.base_model, backbone.name
            )
        loaded.append((slider, metadata))
    return loaded


@dataclass(frozen=True)
class GenerateConfig:
    """What is generated and how it is laid out.

    Args:
        prompt: of all images, or one per seed.
        seeds: the same seed starts from the same noise under any prompt and scale.
        scales: what they mean depends on the layout.
        layout: "strip": a column per entry of scales (a number, or a row of one number per slider; a list of such rows
            for each seed sets them image by image). "grid": two sliders, one per axis. "progressive": one slider more
            in every column.
        units: of scales: "raw" slider scales, or "calibrated", where 1 is the same measured effect for every slider.
        batch_size: images per UNet call.

    Raises:
        InputError: if there is no seed, prompts and seeds differ in number, or a choice is unknown.
    """

    prompt: str | tuple[str, ...]
    seeds: tuple[int, ...]
    scales: AskedScales
    layout: str = "strip"
    units: str = "raw"
    batch_size: int = 20

    def __post_init__(self) -> None:
        if not self.seeds or self.batch_size < 1:
            raise InputError("Expected at least one seed and a batch_size of 1 or more; add them.")
        for name, known in (("layout", tuple(LAYOUTS)), ("units", UNITS)):
            if getattr(self, name) not in known:
                raise InputError(f"Expected {name} among {', '.join(known)}, but got {getattr(self, name)!r}.")

    @property
    def heading(self) -> str:
        """The prompt, or how many there are."""
        return self.prompt if isinstance(self.prompt, str) else f"{len(self.prompt)} prompts"


def slider_names(places: Sequence[str], loaded: Sequence[tuple[SliderBase, SliderMetadata]]) -> list[str]:
    """What pictures call the sliders: their concepts, or the files' names; equal ones are numbered."""
    names = [
        (metadata.concept or {}).get("name", Path(place).stem)
        for place, (_, metadata) in zip(places, loaded, strict=True)
    ]
    return [f"{name} {names[:k].count(name) + 1}" if names.count(name) > 1 else name for k, name in enumerate(names)]


def raw_scales(scales: Tensor, metadata: Sequence[SliderMetadata], names: Sequence[str]) -> tuple[Tensor, str]:
    """Slider scales from calibrated ones, and their unit.

    Args:
        scales: (..., K), in units of the measured effect.
        metadata: of the K sliders.
        names: of the K sliders, for messages.

    Raises:
        InputError: if a slider is not calibrated, their units differ, or a value lies beyond a useful range.
    """
    missing = [name for name, slider in zip(names, metadata, strict=True) if slider.calibration is None]
    if missing:
        raise InputError(
            f"Expected calibrated sliders for units=calibrated, but these are not calibrated: {', '.join(missing)}; "
            "run python -m evaluation.calibrate run=RUN, or choose units=raw."
        )
    calibrations = [slider.calibration for slider in metadata if slider.calibration is not None]
    unit = common_unit(calibrations)
    columns = [
        torch.tensor([calibration.scale_of(value) for value in column.flatten().tolist()]).reshape(column.shape)
        for calibration, column in zip(calibrations, scales.unbind(-1), strict=True)
    ]
    return torch.stack(columns, dim=-1).float(), unit


def generate(config: dict[str, Any]) -> Path:
    """Write the picture that a checked config describes, and return its path.

    Args:
        config: the plain, checked config of conf/generate.yaml.

    Raises:
        InputError: for sliders, prompt, scales or a model that cannot work together.
    """
    wanted = {field.name: config[field.name] for field in fields(GenerateConfig)}
    asked: GenerateConfig = build({"_target_": f"{__name__}.GenerateConfig", **wanted})
    places = typed(config["sliders"], tuple[str, ...], "sliders")
    if not places:
        raise InputError("Expected at least one run folder or slider file in sliders, but the list is empty.")
    backbone: Backbone = build(config["model"], "model.")
    sampler: SamplerConfig = build(config["sampler"], "sampler.")
    loaded = load_sliders(places, backbone)
    names = slider_names(places, loaded)
    sheet = LAYOUTS[asked.layout](asked.scales, names, len(asked.seeds))
    scales, unit = sheet.scales, ""
    if asked.units == "calibrated":
        described = [metadata for _, metadata in loaded]
        scales, unit = raw_scales(sheet.scales, described, names)
        _warn_of_other_settings(described, backbone, sampler)
    _warn_if_never_on(backbone, sampler, len(loaded))
    bank = SliderBank(backbone.unet, [slider for slider, _ in loaded])
    with ProgressCallback("images") as on_batch:
        images = generate_images(
            backbone, bank, asked.prompt, asked.seeds, scales, sampler, batch_size=asked.batch_size, on_batch=on_batch
        )
    if config["images"] is not None:
        save_images(images, scales, asked.seeds, names, Path(config["images"]))
    heading = strip_title(" + ".join(names), asked.heading, sampler.start_timestep) + (
        f" | +1 is {unit}" if unit else ""
    )
    return save_image(sheet.draw(images, asked.seeds, heading), config["out"])


def save_images(
    images: Float[Tensor, "seeds images 3 h w"],
    scales: Float[Tensor, "*seeds images sliders"],
    seeds: Sequence[int],
    names: Sequence[str],
    folder: Path,
) -> None:
    """Write every image as `seed<seed>-<number>.png`, with the scales of each in `scales.json`.

    Raises:
        InputError: if the disk refuses.
    """
    of_seeds = scales.expand(len(seeds), *scales.shape[-2:])
    told = {}
    for seed, row, rows in zip(seeds, images, of_seeds.tolist(), strict=True):
        for number, (image, scale_row) in enumerate(zip(images_to_pil(row), rows, strict=True)):
            path = save_image(image, folder / f"seed{seed}-{number:03d}.png")
            told[path.name] = {name: round(scale, 6) for name, scale in zip(names, scale_row, strict=True)}
    with atomic_path(folder / "scales.json") as temporary:
        temporary.write_text(json.dumps(told, indent=2) + "\n")


def _warn_of_other_settings(metadata: Sequence[SliderMetadata], backbone: Backbone, sampler: SamplerConfig) -> None:
    for slider in metadata:
        if slider.calibration is not None:
            sentence = check_settings(slider.calibration, backbone.fingerprint, asdict(sampler))
            if sentence:
                logger.warning("%s", sentence)


def _warn_if_never_on(backbone: Backbone, sampler: SamplerConfig, num_sliders: int) -> None:
    timesteps = sampler.scheduler_for(backbone.scheduler).timesteps
    if not bool(sampler.strengths(timesteps, num_sliders).any()):
        logger.warning(
            "No slider acts: all %d timesteps (%s to %s) lie above sampler.start_timestep=%d, or where the schedule is "
            "0; raise it.",
            len(timesteps),
            f"{float(timesteps[0]):g}",
            f"{float(timesteps[-1]):g}",
            sampler.start_timestep,
        )


@entry_point("generate")
def main(config: dict[str, Any]) -> None:
    """Generate from the command line."""
    logger.info("Wrote %s", generate(config))


if __name__ == "__main__":
    main()
