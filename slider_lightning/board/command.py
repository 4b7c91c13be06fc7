"""The command that makes a picture of the board again, and the picture's file that says so."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from slider_lightning.assets import atomic_path
from slider_lightning.backbone import SamplerConfig
from slider_lightning.board.rendering import Picture

# What a picture decides of the sampler even where it equals the start's: it is what the page shows.
_SHOWN = ("num_inference_steps", "guidance_scale", "start_timestep")
_MODULE = "slider_lightning.generate"


def generate_overrides(
    picture: Picture, sliders: Sequence[str], started: Sequence[str], sampler: SamplerConfig, outputs: str
) -> list[str]:
    """Overrides of `python -m slider_lightning.generate` that make a picture.

    Args:
        picture: what is made.
        sliders: run folders and slider files.
        started: the board's own overrides; those of model, sampler and paths are taken over.
        sampler: what the board was started with.
        outputs: folder of all results, where the command writes.

    Returns:
        The overrides, quoted for Hydra but not for a shell.
    """
    changed = {
        field.name: getattr(picture.sampler, field.name)
        for field in fields(picture.sampler)
        if field.name in _SHOWN or getattr(picture.sampler, field.name) != getattr(sampler, field.name)
    }
    folder = Path(outputs) / "board"
    return [
        *_taken_over(started, changed),
        f"sliders=[{','.join(map(_quoted, sliders))}]",
        f"prompt={_quoted(picture.prompt)}",
        f"seeds=[{picture.seed}]",
        f"scales=[[{','.join(map(_number, picture.scales))}]]",
        *(f"sampler.{name}={_number(value)}" for name, value in changed.items()),
        f"images={_quoted(str(folder))}",
        f"out={_quoted(str(folder / 'strip.png'))}",
    ]


def command_line(overrides: Sequence[str]) -> str:
    """The command as a shell takes it."""
    return shlex.join(["python", "-m", _MODULE, *overrides])


def save_picture(image: Image.Image, picture: Picture, command: str, path: Path) -> Path:
    """Write a PNG that carries its settings as JSON ("slider_lightning") and its command ("command") as text.

    Raises:
        InputError: if the disk refuses.
    """
    about = PngInfo()
    about.add_text("slider_lightning", json.dumps(asdict(picture)))
    about.add_text("command", command)
    with atomic_path(path) as temporary:
        image.save(temporary, pnginfo=about)
    return path


def _taken_over(started: Sequence[str], changed: dict[str, object]) -> list[str]:
    overrides = OverridesParser.create().parse_overrides(list(started))
    return [
        override.input_line
        for override in overrides
        if override.key_or_group.split(".")[0] in ("model", "sampler", "paths")
        and override.key_or_group.removeprefix("sampler.") not in changed
        and override.input_line is not None
    ]


def _number(value: object) -> str:
    return str(value).removesuffix(".0")


def _quoted(text: str) -> str:
    """A text in Hydra's quotes, with what OmegaConf would take for an interpolation escaped."""
    escaped = re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + "\\${", text)
    return QuotedString(text=escaped, quote=Quote.double).with_quotes()
