"""The smallest generator of the world, untrained, its noise switched on."""

import torch
from torch import nn

from experiments.tiny_faces.stylegan.networks import Generator, GeneratorSize

SIZE = GeneratorSize(z_dim=12, w_dim=16, mapping_width=24, mapping_layers=2, channels=(16, 12, 8))


def new_generator(size: GeneratorSize = SIZE) -> Generator:
    """The same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        generator = Generator(size)
        for name, parameter in generator.named_parameters():
            if name.endswith("noise_strength"):
                nn.init.constant_(parameter, 0.1)
    return generator
