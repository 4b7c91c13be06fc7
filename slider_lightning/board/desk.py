"""What stands behind the page: from the positions of its controls to an image, its command and its file."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from slider_lightning.adapters import SliderMetadata, check_settings
from slider_lightning.adapters.base import SliderBase
from slider_lightning.backbone import Backbone, SamplerConfig
from slider_lightning.board.command import command_line, generate_overrides, save_picture
from slider_lightning.board.knobs import Knob, shared_unit
from slider_lightning.board.rendering import Picture, Renderer
from slider_lightning.errors import InputError
from slider_lightning.generate import slider_names

_MOST_SEED = 2**32 - 1


@dataclass(frozen=True)
class BoardConfig:
    """What a board shows at first, and where it is served.

    Args:
        sliders: run folders and slider files, one or more.
        prompt: the first prompt.
        seed: the first seed.
        preview_steps: steps of an image while something is dragged, at least 1.
        host: the address that is listened at; a loopback address is reached from this machine alone.
        port: the port there, 1..65535.
        auth: "user:password" that visitors type in; an address that other machines reach needs it.

    Raises:
        InputError: if a value is out of range.
    """

    sliders: tuple[str, ...]
    prompt: str = "image of a person"
    seed: int = 0
    preview_steps: int = 8
    host: str = "127.0.0.1"
    port: int = 7860
    auth: str | None = None

    def __post_init__(self) -> None:
        if not self.sliders:
            raise InputError("Expected at least one run folder or slider file in sliders, but the list is empty.")
        if self.preview_steps < 1:
            raise InputError(f"Expected preview_steps to be at least 1, but got {self.preview_steps}; raise it.")
        if not 1 <= self.port <= 65535:
            raise InputError(f"Expected port in 1..65535, but got {self.port}; 7860 is common.")
        if self.auth is not None and not all(self.auth.partition(":")):
            raise InputError("Expected auth to be USER:PASSWORD, both not empty, but a part is missing; give both.")

    @property
    def credentials(self) -> tuple[str, str] | None:
        """User and password; None lets everyone in who reaches the address."""
        if self.auth is None:
            return None
        user, _, password = self.auth.partition(":")
        return user, password


@dataclass(frozen=True)
class Shown:
    """What the page shows of a picture.

    Args:
        image: with the sliders on.
        command: makes it again.
        note: steps, seconds and warnings.
    """

    image: Image.Image
    command: str
    note: str


def finite(value: object, name: str) -> float:
    """A number that a visitor sent.

    Raises:
        InputError: if it is none, or not finite.
    """
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"Expected {name} to be a finite number, but got {value!r}; type another one.")
    return value


class Desk:
    """The board without its page.

    Args:
        backbone: the frozen model.
        loaded: the sliders with what their files say.
        config: what the board shows at first.
        sampler: what it is started with.
        started: overrides of its command line.
        outputs: folder of all results, which its commands name.
    """

    def __init__(
        self,
        backbone: Backbone,
        loaded: Sequence[tuple[SliderBase, SliderMetadata]],
        config: BoardConfig,
        sampler: SamplerConfig,
        started: Sequence[str] = (),
        outputs: str = "outputs",
    ) -> None:
        self.config = config
        self.sampler = sampler
        self.renderer = Renderer(backbone, [slider for slider, _ in loaded])
        described = zip(slider_names(config.sliders, loaded), loaded, strict=True)
        self.knobs = [Knob.of(name, metadata) for name, (_, metadata) in described]
        self.unit = shared_unit(self.knobs)
        self._started = tuple(started)
        self._outputs = outputs

    def picture(
        self,
        positions: Sequence[float],
        calibrated: bool,
        prompt: str,
        seed: float | None,
        sampler: SamplerConfig,
    ) -> Picture:
        """The picture that the controls ask for.

        Args:
            positions: of the knobs.
            calibrated: whether they are effects in units instead of slider scales.
            prompt: of the image.
            seed: a whole number.
            sampler: steps, guidance and the rest.

        Raises:
            InputError: if a value is missing or out of range.
        """
        for value in positions:
            finite(value, "slider_scale")
        finite(sampler.guidance_scale, "guidance_scale")
        if not isinstance(seed, int | float) or not 0 <= seed <= _MOST_SEED or seed != int(seed):
            raise InputError(f"Expected a seed in 0..{_MOST_SEED}, but got {seed}; type a whole number.")
        scales = tuple(knob.scale(at, calibrated) for knob, at in zip(self.knobs, positions, strict=True))
        return Picture(prompt, int(seed), scales, sampler)

    def preview(self, picture: Picture, outdated: Callable[[], bool] = lambda: False) -> Shown:
        """The picture in a few steps; the picture itself where it is at hand. Arguments and errors as of `show`."""
        few = picture if picture in self.renderer else picture.with_steps(self.config.preview_steps)
        return self.show(few, outdated)

    def show(self, picture: Picture, outdated: Callable[[], bool] = lambda: False) -> Shown:
        """The picture.

        Args:
            picture: what is shown.
            outdated: asked now and then; True gives it up.

        Raises:
            InputError: if prompt, scales or sampler do not fit.
            Outdated: if it was given up.
        """
        at_hand, started = picture in self.renderer, time.perf_counter()
        image = self.renderer.render(picture, outdated)
        seconds = "" if at_hand else f" in {time.perf_counter() - started:.2f} s"
        told = [f"{picture.sampler.num_inference_steps} steps{seconds}", *self._warnings(picture)]
        return Shown(image, self.command(picture), " · ".join(told))

    def command(self, picture: Picture) -> str:
        """The command that makes a picture again."""
        return command_line(self.overrides(picture))

    def overrides(self, picture: Picture) -> list[str]:
        """The overrides of that command."""
        return generate_overrides(picture, self.config.sliders, self._started, self.sampler, self._outputs)

    def save(self, picture: Picture, folder: Path) -> Path:
        """Write a picture's file, with its settings inside; named after sliders and seed."""
        names = [re.sub(r"[^\w-]+", "-", knob.name) for knob in self.knobs]
        parts = [f"{name}{scale:+g}" for name, scale in zip(names, picture.scales, strict=True) if scale]
        path = folder / ("_".join([*parts, f"seed{picture.seed}"]) + ".png")
        return save_picture(self.renderer.render(picture), picture, self.command(picture), path)

    def unit_warnings(self, sampler: SamplerConfig) -> list[str]:
        """A sentence for each slider that was calibrated with another model or sampler."""
        model = self.renderer.backbone.fingerprint
        known = [knob.calibration for knob in self.knobs if knob.calibration is not None]
        told = [check_settings(calibration, model, asdict(sampler)) for calibration in known]
        return [sentence for sentence in told if sentence]

    def _warnings(self, picture: Picture) -> list[str]:
        timesteps = picture.sampler.scheduler_for(self.renderer.backbone.scheduler).timesteps
        if not bool(picture.sampler.strengths(timesteps, len(self.knobs)).any()):
            return ["No slider acts: all timesteps lie above start_timestep; raise it."]
        return []
