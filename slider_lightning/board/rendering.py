"""Images for the board: one at a time, each computed once, and given up when nobody waits for it any more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from threading import Lock

from PIL import Image

from slider_lightning.adapters import SliderBank
from slider_lightning.adapters.base import SliderBase
from slider_lightning.backbone import Backbone, SamplerConfig, images_to_pil
from slider_lightning.board.remembering import Recent, RememberingBackbone
from slider_lightning.generation import generate_images


class Outdated(Exception):
    """Nobody waits for the image any more."""


@dataclass(frozen=True)
class Picture:
    """What one image is made from.

    Args:
        prompt: its prompt.
        seed: its noise, 0 or more.
        scales: one slider_scale per slider.
        sampler: steps, guidance, scheduler, and when sliders act.
    """

    prompt: str
    seed: int
    scales: tuple[float, ...]
    sampler: SamplerConfig

    @property
    def base(self) -> Picture:
        """The same with all sliders off."""
        return replace(self, scales=(0.0,) * len(self.scales))

    def with_steps(self, most: int) -> Picture:
        """The same in at most this many steps."""
        steps = min(most, self.sampler.num_inference_steps)
        return replace(self, sampler=replace(self.sampler, num_inference_steps=steps))


class Renderer:
    """Makes pictures, and keeps the last ones.

    Args:
        backbone: the frozen model.
        sliders: hung on its UNet from now on.
        predictions: how many of the frozen model's are kept, one for each step above start_timestep of a prompt and
            seed; 0 keeps none.
        images: how many are kept; 0 keeps none.
    """

    def __init__(
        self, backbone: Backbone, sliders: Sequence[SliderBase], *, predictions: int = 128, images: int = 64
    ) -> None:
        self.backbone = RememberingBackbone(backbone, predictions)
        self.bank = SliderBank(backbone.unet, sliders)
        # Sliders are folded into the one UNet's weights, so two images at a time would spoil each other.
        self._lock = Lock()
        self._images: Recent[str, Image.Image] = Recent(images)

    def __contains__(self, picture: Picture) -> bool:
        """Whether the image is at hand."""
        return repr(picture) in self._images

    def render(self, picture: Picture, outdated: Callable[[], bool] = lambda: False) -> Image.Image:
        """The image of a picture.

        Args:
            picture: what it is made from.
            outdated: asked when its turn comes and after every UNet call; True gives the image up.

        Raises:
            InputError: if the prompt is too long, or the scales or the sampler do not fit.
            Outdated: if it was given up.
        """
        with self._lock:
            if outdated():
                raise Outdated
            image = self._images.get(repr(picture))
            if image is None:
                image = self._generate(picture, outdated)
                self._images.put(repr(picture), image)
            return image

    def _generate(self, picture: Picture, outdated: Callable[[], bool]) -> Image.Image:
        def check(_done: int, _total: int) -> None:
            if outdated():
                raise Outdated

        self.backbone.start_timestep = picture.sampler.start_timestep
        images = generate_images(
            self.backbone,
            self.bank,
            picture.prompt,
            [picture.seed],
            [picture.scales],
            picture.sampler,
            on_batch=check,
        )
        return images_to_pil(images[0])[0]
