"""A perceptual distance: the LPIPS formula on a network of this project, not comparable to LPIPS-AlexNet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from evaluation.judges.preprocess import check_images, in_batches, normalize
from slider_lightning.assets import verify_folder
from slider_lightning.errors import InputError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
EPSILON = 1e-10


class FeatureTrunk(nn.Module):
    """Convolutions whose activations after each stage are compared.

    Args:
        widths: Channels of each stage; every stage halves the resolution.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Conv2d(outputs, outputs, 3, padding=1),
                nn.ReLU(),
            )
            for inputs, outputs in zip((3, *widths[:-1]), widths, strict=True)
        )

    def forward(self, pixels: Float[Tensor, "n 3 h w"]) -> list[Tensor]:
        """Activations after each stage, from fine to coarse, of images in [-1, 1]."""
        activations = []
        for stage in self.stages:
            pixels = stage(pixels)
            activations.append(pixels)
        return activations


class PerceptualDistance(nn.Module):
    """d(x, y) = sum over layers l of mean over pixels of sum over channels c of w_lc (x_lc / |x_l| - y_lc / |y_l|)^2.

    The formula of LPIPS (Zhang et al. 2018, eq. 1): activations are scaled to unit length over the channels, the
    weights w are learned and never negative.

    Args:
        widths: Channels of the trunk's stages.
        size: Side in pixels that both images are resized to; distances at another size are not comparable.
        name: What records and tables call the measure.
    """

    def __init__(self, widths: Sequence[int], size: int, name: str) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.size = size
        self.name = name
        self.trunk = FeatureTrunk(widths)
        self.weights = nn.ParameterList(nn.Parameter(torch.full((width,), 1.0 / width)) for width in widths)

    def config(self) -> dict[str, Any]:
        """What `load_perceptual` needs beside the weights."""
        return {"name": self.name, "widths": list(self.widths), "size": self.size}

    def forward(self, first: Float[Tensor, "n 3 h w"], second: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
        """Distance of each pair of images in [0, 1]; at least 0, and 0 for equal images.

        Raises:
            ValueError: If the batches do not fit each other.
        """
        if first.shape != second.shape:
            raise ValueError(
                f"Expected two batches of equal shape, but got {tuple(first.shape)} and {tuple(second.shape)}."
            )
        check_images(first)
        check_images(second)
        return in_batches(lambda x, y: self.compare(self.features(x), self.features(y)), first, second)

    def features(self, images: Float[Tensor, "n 3 h w"]) -> list[Tensor]:
        """Unit-length activations of images in [0, 1], one tensor per stage; differentiable."""
        pixels = normalize(images.to(self.weights[0].device), (self.size, self.size), [0.5] * 3, [0.5] * 3)
        return [F.normalize(activation, dim=1, eps=EPSILON) for activation in self.trunk(pixels)]

    def compare(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> Float[Tensor, " n"]:
        """The weighted distance of two lists of `features`."""
        layers = [
            ((x - y).square() * weight.clamp_min(0)[:, None, None]).sum(1).mean((1, 2))
            for x, y, weight in zip(first, second, self.weights, strict=True)
        ]
        return torch.stack(layers).sum(0)


def load_perceptual(folder: str | Path) -> PerceptualDistance:
    """Loads a perceptual distance from its folder, in fp32 and frozen.

    Raises:
        InputError: If the folder is missing or damaged, or holds another model.
    """
    folder = Path(folder)
    verify_folder(folder)
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise InputError(f"Expected a perceptual distance with {CONFIG} and {WEIGHTS} at {folder}; give such a folder.")
    config = json.loads((folder / CONFIG).read_text())
    try:
        distance = PerceptualDistance(config["widths"], config["size"], config["name"])
        distance.load_state_dict({key: value.float() for key, value in load_file(folder / WEIGHTS).items()})
    except (KeyError, RuntimeError) as error:
        raise InputError(f"Expected {folder} to hold a perceptual distance, but it does not fit: {error}.") from error
    return distance.eval().requires_grad_(False)
