"""Small generators of the world, untrained, their noise switched on."""

import torch
from torch import Tensor, nn

from experiments.tiny_faces.stylegan.latent import z_dim
from experiments.tiny_faces.stylegan.networks import Generator, GeneratorSize

SIZE = GeneratorSize(z_dim=12, w_dim=16, mapping_width=24, mapping_layers=2, channels=(16, 12, 8))
WORLDS = GeneratorSize(z_dim=z_dim(), w_dim=16, mapping_width=16, mapping_layers=2, channels=(8, 8, 6))
"""Of 16 px, for the z of the world's faces."""


def new_generator(size: GeneratorSize = SIZE, noise: float = 0.1) -> Generator:
    """The same weights every time, the noise of this strength."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        generator = Generator(size)
        for name, parameter in generator.named_parameters():
            if name.endswith("noise_strength"):
                nn.init.constant_(parameter, noise)
    return generator


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers of a seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
