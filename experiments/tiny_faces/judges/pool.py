"""Drawn faces that all judges learn from: rendered once, some as the VAE gives them back, varied at every use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor

from evaluation.attributes import Attribute, schema_slices
from experiments.tiny_faces.dataset import step_generator
from experiments.tiny_faces.faces import Faces, sample_faces
from experiments.tiny_faces.render import render
from slider_lightning.assets import atomic_path

CHUNK = 256
BLUR_SIGMA = 0.7
NOISE = 0.03
GAIN = 0.04
OFFSET = 0.02

Reconstruct = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Pool:
    """Rendered faces with their truth.

    Args:
        faces: The attributes.
        images: Pictures, 255 is 1.0.
        eye_mask: Coverage of the eyes, 255 is 1.0.
        labels: Class of the part on each pixel.
    """

    faces: Faces
    images: UInt8[Tensor, "n 3 size size"]
    eye_mask: UInt8[Tensor, "n size size"]
    labels: UInt8[Tensor, "n size size"]

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, batch_size: int, seed: int, step: int) -> Tensor:
        """The rows of a training step: every epoch is a fresh permutation, a function of (seed, step)."""
        batches = max(len(self) // batch_size, 1)
        epoch, batch = divmod(step, batches)
        order = torch.randperm(len(self), generator=step_generator(seed, epoch))
        return order[batch * batch_size : (batch + 1) * batch_size]


def to_bytes(images: Tensor) -> Tensor:
    """Values in [0, 1] as whole numbers in 0..255."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def to_floats(images: Tensor) -> Tensor:
    """The inverse of `to_bytes`, up to its rounding."""
    return images.float() / 255


def rendered_pool(
    path: Path, count: int, seed: int, *, size: int = 64, reconstruct: Reconstruct | None = None, share: float = 0.5
) -> Pool:
    """Faces with all combinations of attributes, read from `path` or drawn and written there.

    Args:
        path: A .safetensors file; written whole or not at all. It belongs to one choice of the other arguments.
        count: Number of faces.
        seed: The faces follow from (count, seed).
        size: Side of the images in pixels.
        reconstruct: Images in [0, 1] -> images in [0, 1], e.g. VAE encode-decode: generated images look like that.
        share: Share of the images that go through `reconstruct`.
    """
    faces = sample_faces(count, seed, held_out=True)
    if not path.is_file():
        tensors = draw(faces, size, reconstruct, share)
        with atomic_path(path) as temporary:
            save_file(tensors, temporary)
    return Pool(faces, **load_file(path))


@torch.no_grad()
def draw(faces: Faces, size: int, reconstruct: Reconstruct | None = None, share: float = 0.5) -> dict[str, Tensor]:
    """The tensors of a `Pool` for some faces."""
    parts: dict[str, list[Tensor]] = {"images": [], "eye_mask": [], "labels": []}
    for start in range(0, len(faces), CHUNK):
        rendering = render(faces[slice(start, start + CHUNK)], size)
        pixels = rendering.images
        if reconstruct is not None:
            rows = round(len(pixels) * share)
            pixels = torch.cat([reconstruct(pixels[:rows]).to(pixels), pixels[rows:]])
        parts["images"].append(to_bytes(pixels))
        parts["eye_mask"].append(to_bytes(rendering.eye_mask))
        parts["labels"].append(rendering.labels.to(torch.uint8))
    return {name: torch.cat(tensors) for name, tensors in parts.items()}


def vary(images: Float[Tensor, "n 3 h w"], generator: torch.Generator) -> Float[Tensor, "n 3 h w"]:
    """Small changes as generated images show them, which leave every attribute as it is."""
    n = len(images)
    amount = torch.rand(n, 4, generator=generator)
    images = torch.lerp(images, blur(images, BLUR_SIGMA), amount[:, 0, None, None, None])
    gain = 1 + GAIN * (2 * torch.rand(n, 3, 1, 1, generator=generator) - 1)
    offset = OFFSET * (2 * torch.rand(n, 3, 1, 1, generator=generator) - 1)
    noise = NOISE * amount[:, 1, None, None, None] * torch.randn(images.shape, generator=generator)
    return (images * gain + offset + noise).clamp(0, 1)


def mirror_and_shift(
    images: Float[Tensor, "n 3 h w"], generator: torch.Generator, reach: int = 2
) -> Float[Tensor, "n 3 h w"]:
    """Half of the images mirrored, each moved by up to `reach` pixels, edges replicated; no attribute changes."""
    n, _, height, width = images.shape
    mirrored = torch.rand(n, generator=generator) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    dy, dx = torch.randint(-reach, reach + 1, (2, n), generator=generator)
    rows = (torch.arange(height) + dy[:, None]).clamp(0, height - 1)
    columns = (torch.arange(width) + dx[:, None]).clamp(0, width - 1)
    batch = torch.arange(n)[:, None, None]
    return images.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def blur(images: Float[Tensor, "n c h w"], sigma: float) -> Float[Tensor, "n c h w"]:
    """Gaussian blur with `sigma` in pixels, edges replicated."""
    reach = max(int(3 * sigma + 0.5), 1)
    axis = torch.arange(-reach, reach + 1, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (axis / sigma) ** 2)
    kernel = kernel / kernel.sum()
    channels = images.shape[1]
    padded = F.pad(images, (reach, reach, reach, reach), mode="replicate")
    rows = F.conv2d(padded, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    return F.conv2d(rows, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)


def label_targets(faces: Faces, schema: Sequence[Attribute]) -> Float[Tensor, "n labels"]:
    """The truth in the order of `evaluation.attributes.schema_labels`: values, and one-hot classes."""
    slices = schema_slices(schema)
    targets = torch.zeros(len(faces), sum(attribute.width for attribute in schema))
    for attribute in schema:
        value = faces.values[attribute.name]
        one_hot = attribute.kind == "class"
        targets[:, slices[attribute.name]] = F.one_hot(value, attribute.width).float() if one_hot else value[:, None]
    return targets
