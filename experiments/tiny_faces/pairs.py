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

DEFAULT_LEVELS: Mapping[float, float | str] = {-0.65: 0.0, 0.65: 1.0}
# Of badly drawn faces there are many kinds, which no single value names.
DRAWN = {attribute.name: attribute for attribute in SCHEMA if attribute.name != "quality"}


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
    """A pair source: well drawn faces of the embedded world that differ in one attribute.

    Args:
        attribute: of the world's faces, e.g. "eye_size", which captions never name.
        levels: slider scale to the attribute's value, two or more, all different: a number in [0, 1], or the name of a
            class, e.g. {-0.65: none, 0.65: glasses}. None means 0 at -0.65 and 1 at 0.65, or the first class and the
            second.
        count: faces, at least 2.
        seed: the faces are a function of (count, seed).

    Raises:
        InputError: if the attribute is unknown, or the levels or the count cannot be drawn.
    """

    attribute: str
    levels: Mapping[float, float | str] | None = None
    count: int = 6
    seed: int = 5

    def __post_init__(self) -> None:
        if self.attribute not in DRAWN:
            raise InputError(
                f"Expected pairs.attribute among {', '.join(DRAWN)}, but got {self.attribute!r}; change it."
            )
        levels = self._levels()
        check_scales(list(levels), "the scales of pairs.levels")
        values = list(levels.values())
        if len(set(values)) < len(values) or not all(map(self._is_value, values)):
            classes = DRAWN[self.attribute].classes
            kind, example = (
                (f"different classes among {', '.join(classes)}", f"{{-1: {classes[0]}, 1: {classes[1]}}}")
                if classes
                else ("different values in [0, 1]", "{-1: 0.2, 1: 0.9}")
            )
            raise InputError(
                f"Expected pairs.levels to map slider scales to {kind}, but got {levels}; write for instance {example}."
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

    def _levels(self) -> dict[float, float | str]:
        classes = DRAWN[self.attribute].classes
        default = dict(zip(DEFAULT_LEVELS, classes, strict=False)) if classes else DEFAULT_LEVELS
        return dict(sorted((default if self.levels is None else self.levels).items()))

    def _is_value(self, value: float | str) -> bool:
        classes = DRAWN[self.attribute].classes
        return value in classes if classes else isinstance(value, int | float) and 0 <= value <= 1

    def _draw(self, scale: float, paths: list[Path]) -> None:
        level = self._levels()[scale]
        value = class_index(self.attribute, level) if isinstance(level, str) else level
        faces = sample_well_drawn(self.count, self.seed).with_values(**{self.attribute: value})
        for image, path in zip(images_to_pil(render(faces).images), paths, strict=True):
            save_image(image, path)

    def _digest(self) -> str:
        """Equal settings have equal names, in whatever order and type the levels were written."""
        levels = [
            (float(scale), value if isinstance(value, str) else float(value)) for scale, value in self._levels().items()
        ]
        return hashlib.sha256(repr((self.attribute, levels, self.count, self.seed)).encode()).hexdigest()[:8]
