"""The shipped generator as a style space: what `generator=tiny_faces` builds."""

from experiments.tiny_faces.stylegan.training import load_generator
from slider_lightning.data.style_space import StyleSpace


def open_style_space(folder: str) -> StyleSpace:
    """The world's generator.

    Args:
        folder: as `save_generator` writes it.

    Raises:
        InputError: if it is missing or damaged.
    """
    return StyleSpace(load_generator(folder), "tiny_faces StyleGAN")
