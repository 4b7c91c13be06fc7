"""From sliders to a strip in one call, with a progress bar."""

from dataclasses import dataclass

from PIL import Image

from slider_lightning.adapters import SliderBank
from slider_lightning.backbone import Backbone, SamplerConfig
from slider_lightning.errors import InputError
from slider_lightning.generation.images import generate_images
from slider_lightning.generation.progress import ProgressCallback
from slider_lightning.generation.sheets import strip_sheet
from slider_lightning.generation.strip import strip_title


@dataclass(frozen=True)
class StripConfig:
    """What a strip shows.

    Args:
        prompt: the prompt of every image.
        seeds: its rows.
        scales: its columns; with several sliders a number turns all of them, a row of numbers one each.
        batch_size: images per UNet call.

    Raises:
        InputError: if there is no seed or no scale.
    """

    prompt: str
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    scales: tuple[float | tuple[float, ...], ...] = (-2.0, -1.0, 0.0, 1.0, 2.0)
    batch_size: int = 20

    def __post_init__(self) -> None:
        if not self.seeds or not self.scales or self.batch_size < 1:
            raise InputError(
                "Expected at least one seed, one scale and a batch_size of 1 or more for the strip; add them."
            )


def make_strip(
    backbone: Backbone, bank: SliderBank, title: str, strip: StripConfig, sampler: SamplerConfig
) -> Image.Image:
    """Generate the images of a strip and draw it.

    Args:
        backbone: the frozen model.
        bank: the sliders on its UNet.
        title: what the sliders turn, e.g. the concept's name.
        strip: prompt, seeds and scales.
        sampler: steps, guidance and start_timestep.

    Raises:
        InputError: if the scales do not fit the sliders, or the prompt is too long.
    """
    sheet = strip_sheet(strip.scales, [title] * len(bank.sliders), len(strip.seeds))
    with ProgressCallback("images") as on_batch:
        images = generate_images(
            backbone,
            bank,
            strip.prompt,
            strip.seeds,
            sheet.scales,
            sampler,
            batch_size=strip.batch_size,
            on_batch=on_batch,
        )
    return sheet.draw(images, strip.seeds, strip_title(title, strip.prompt, sampler.start_timestep))
