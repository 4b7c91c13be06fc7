"""Rendered faces on disk: drawn once, read by every training of the world."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor

from experiments.tiny_faces.faces import Faces, sample_faces
from experiments.tiny_faces.render import render
from slider_lightning.assets import atomic_path

CHUNK = 250


@dataclass(frozen=True)
class FaceDataset:
    """Faces with their pictures.

    Args:
        images: pictures in 0..255.
        labels: index into PARSE_CLASSES for every pixel.
        eye_area: visible area of both eyes in pixels.
        faces: attributes and drawing parameters.
    """

    images: UInt8[Tensor, "n 3 size size"]
    labels: UInt8[Tensor, "n size size"]
    eye_area: Tensor
    faces: Faces

    def __len__(self) -> int:
        return len(self.images)

    def floats(self, rows: Tensor | slice) -> Tensor:
        """Images of some rows as floats in [0, 1]."""
        return self.images[rows].float() / 255


def step_rows(seed: int, step: int, batch_size: int, total: int) -> Tensor:
    """The rows of the batch of a step: random with replacement, a function of (seed, step)."""
    generator = step_generator(seed, step)
    return torch.randint(total, (batch_size,), generator=generator)


def step_generator(seed: int, step: int) -> torch.Generator:
    """A generator whose stream depends on (seed, step) alone."""
    # The CPU generator keeps 32 bits of a seed, so the two are hashed into as many.
    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, step]).generate_state(1)[0]))


def rendered_faces(path: Path, n: int, seed: int, size: int) -> FaceDataset:
    """The n faces of `seed`, read from `path` or drawn and written there.

    Args:
        path: a .safetensors file; written whole or not at all.
        n: number of faces.
        seed: seed of the attributes.
        size: side of the pictures in pixels.
    """
    faces = sample_faces(n, seed)
    if not path.is_file():
        _draw(path, faces, size)
    stored = load_file(path)
    return FaceDataset(stored["images"], stored["labels"], stored["eye_area"], faces)


def _draw(path: Path, faces: Faces, size: int) -> None:
    parts: dict[str, list[Tensor]] = {"images": [], "labels": [], "eye_area": []}
    for start in track(range(0, len(faces), CHUNK), description=f"drawing {len(faces)} faces"):
        drawing = render(faces[slice(start, start + CHUNK)], size)
        parts["images"].append((drawing.images * 255).round().to(torch.uint8))
        parts["labels"].append(drawing.labels.to(torch.uint8))
        parts["eye_area"].append(drawing.eye_area)
    with atomic_path(path) as temporary:
        save_file({name: torch.cat(tensors) for name, tensors in parts.items()}, temporary)
