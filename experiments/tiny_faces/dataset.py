"""Rendered faces on disk: drawn once, read by every training of the world."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import UInt8
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor

from experiments.tiny_faces.captions import captions
from experiments.tiny_faces.faces import Faces, sample_faces
from experiments.tiny_faces.render import render

CHUNK = 250


@dataclass(frozen=True)
class FaceDataset:
    """Faces with their pictures.

    Args:
        images: pictures in 0..255.
        labels: index into PARSE_CLASSES for every pixel.
        eye_area: visible area of both eyes in pixels.
        faces: attributes and drawing parameters.
        captions: one text per face.
    """

    images: UInt8[Tensor, "n 3 size size"]
    labels: UInt8[Tensor, "n size size"]
    eye_area: Tensor
    faces: Faces
    captions: list[str]

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
    return torch.Generator().manual_seed((seed << 32) + step)


def rendered_faces(path: Path, n: int, seed: int, size: int, *, held_out: bool = False) -> FaceDataset:
    """The n faces of `seed`, read from `path` or drawn and written there.

    Args:
        path: a .safetensors file; written whole or not at all.
        n: number of faces.
        seed: seed of attributes and captions.
        size: side of the pictures in pixels.
        held_out: whether the combinations that training never sees may occur.
    """
    faces = sample_faces(n, seed, held_out=held_out)
    if not path.is_file():
        _draw(path, faces, size)
    stored = load_file(path)
    return FaceDataset(stored["images"], stored["labels"], stored["eye_area"], faces, captions(faces, seed))


def _draw(path: Path, faces: Faces, size: int) -> None:
    parts: dict[str, list[Tensor]] = {"images": [], "labels": [], "eye_area": []}
    for start in track(range(0, len(faces), CHUNK), description=f"drawing {len(faces)} faces"):
        drawing = render(faces[slice(start, start + CHUNK)], size)
        parts["images"].append((drawing.images * 255).round().to(torch.uint8))
        parts["labels"].append(drawing.labels.to(torch.uint8))
        parts["eye_area"].append(drawing.eye_area)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file({name: torch.cat(tensors) for name, tensors in parts.items()}, partial)
    partial.replace(path)
