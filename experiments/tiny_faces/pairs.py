"""Drawn faces as image pairs: the same faces at several values of one attribute, everything else alike."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from experiments.tiny_faces.faces import SCHEMA, Faces, class_index, sample_faces
from experiments.tiny_faces.render import render
from slider_lightning.backbone import images_to_pil
from slider_lightning.data.pairs.sources import Twins, check_scales
from slider_lightning.errors import InputError
from slider_lightning.generation import save_image

DEFAULT_LEVELS: Mapping[float, float] = {-0.65: 0.0, 0.65: 1.0}
CONTINUOUS = tuple(attribute.name for attribute in SCHEMA if attribute.kind == "continuous")


def sample_well_drawn(count: int, seed: int) -> Faces:
    """Faces of the world's distribution, none of them badly drawn.

    Args:
        count: how many.
        seed: the faces are a function of (count, seed).
    """
    drawn = 2 * count
    # Of few faces even half can be bad ones.
    while len(rows := _well_drawn(faces := sample_faces(drawn, seed))) < count:
        drawn *= 2
    return faces[rows[:count]]


def _well_drawn(faces: Faces) -> Int[Tensor, " rows"]:
    return torch.nonzero(faces.values["quality"] == class_index("quality", "well drawn"))[:, 0]


@dataclass(frozen=True)
class DrawnPairs:
    """A pair source: well drawn faces of the embedded world that differ in one continuous attribute.

    Args:
        attribute: of the world's faces, e.g. "eye_size", which captions never name.
        levels: slider scale to the attribute's value in [0, 1], two or more, all different; None means 0 at -0.65 and
            1 at 0.65.
        count: faces, at least 2.
        seed: the faces are a function of (count, seed).

    Raises:
        InputError: if the attribute is unknown or a class, or the levels or the count cannot be drawn.
    """

    attribute: str
    levels: Mapping[float, float] | None = None
    count: int = 6
    seed: int = 5

    def __post_init__(self) -> None:
        if self.attribute not in CONTINUOUS:
            raise InputError(
                f"Expected pairs.attribute among {', '.join(CONTINUOUS)}, but got {self.attribute!r}; change it."
            )
        levels = self._levels()
        check_scales(list(levels), "the scales of pairs.levels")
        values = list(levels.values())
        if len(set(values)) < len(values) or not all(0 <= value <= 1 for value in values):
            raise InputError(
                f"Expected pairs.levels to map slider scales to different values in [0, 1], but got "
                f"{levels}; write for instance {{-1: 0.2, 1: 0.9}}."
            )
        if self.count < 2:
            raise InputError(f"Expected pairs.count to be 2 or more, but got {self.count}; raise it.")

    def twins(self, work_dir: Path) -> tuple[Twins, ...]:
        """The faces as PNG files, drawn where they are not there yet.

        Args:
            work_dir: gets a folder named after these settings, with a folder per level.

        Raises:
            InputError: if the folder cannot be written.
        """
        folder = work_dir / f"{self.attribute}-{self._digest()}"
        files = {
            scale: [folder / f"{scale:+g}" / f"{number:02d}.png" for number in range(self.count)]
            for scale in self._levels()
        }
        for scale, paths in files.items():
            if not all(path.is_file() for path in paths):
                self._draw(scale, paths)
        return tuple(
            Twins(f"{number:02d}", tuple((scale, paths[number]) for scale, paths in files.items()))
            for number in range(self.count)
        )

    def _levels(self) -> dict[float, float]:
        return dict(sorted((DEFAULT_LEVELS if self.levels is None else self.levels).items()))

    def _draw(self, scale: float, paths: list[Path]) -> None:
        faces = sample_well_drawn(self.count, self.seed).with_values(**{self.attribute: self._levels()[scale]})
        for image, path in zip(images_to_pil(render(faces).images), paths, strict=True):
            save_image(image, path)

    def _digest(self) -> str:
        """Equal settings have equal names, in whatever order and type the levels were written."""
        levels = [(float(scale), float(value)) for scale, value in self._levels().items()]
        return hashlib.sha256(repr((self.attribute, levels, self.count, self.seed)).encode()).hexdigest()[:8]
