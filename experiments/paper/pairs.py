"""Before/after images that differ in one attribute: a researcher's own, or drawn faces."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from evaluation.grids import image_files, read_image_folder
from experiments.tiny_faces.faces import class_index, sample_faces
from experiments.tiny_faces.render import render
from slider_lightning.backbone import images_to_pil
from slider_lightning.errors import InputError
from slider_lightning.generation import save_image

BEFORE, AFTER = "before", "after"


@dataclass(frozen=True)
class DrawnPairs:
    """Well drawn faces of the embedded world at two values of one continuous attribute, everything else alike.

    Args:
        attribute: of the world's faces, e.g. "eye_size", which captions never name.
        low: its value before, in [0, 1].
        high: its value after, in [0, 1].
        count: pairs, at least 2.
        seed: of the faces.

    Raises:
        InputError: if the values are not two in [0, 1], or there are fewer than 2 pairs.
    """

    attribute: str = "eye_size"
    low: float = 0.2
    high: float = 0.9
    count: int = 6
    seed: int = 5

    def __post_init__(self) -> None:
        if not (0 <= self.low <= 1 and 0 <= self.high <= 1 and self.low != self.high) or self.count < 2:
            raise InputError(
                f"Expected pairs with two values in [0, 1] and a count of 2 or more, but got {self.low}, {self.high} "
                f"and {self.count}; change them."
            )

    def provide(self, outputs: Path) -> Path:
        """Draws before/NN.png and after/NN.png into a folder below `outputs` and returns it."""
        folder = outputs / "pairs" / f"{self.attribute}-{hashlib.sha256(repr(self).encode()).hexdigest()[:8]}"
        faces = sample_faces(4 * self.count, self.seed)
        faces = faces[
            (faces.values["quality"] == class_index("quality", "well drawn")).nonzero().flatten()[: self.count]
        ]
        for name, value in ((BEFORE, self.low), (AFTER, self.high)):
            images = render(faces.with_values(**{self.attribute: value})).images
            for number, image in enumerate(images_to_pil(images)):
                save_image(image, folder / name / f"{number:02d}.png")
        return folder


@dataclass(frozen=True)
class PairFolder:
    """A researcher's own pairs.

    Args:
        folder: with before/ and after/, twins by their file names.
    """

    folder: str

    def provide(self, outputs: Path) -> Path:
        """The folder itself."""
        return Path(self.folder)


def read_pairs(folder: Path) -> tuple[Float[Tensor, "n 3 h w"], Float[Tensor, "n 3 h w"]]:
    """The images of before/ and after/, twins by their file names, in [0, 1].

    Raises:
        InputError: if a folder is missing or empty, or an image has no twin of its name and size.
    """
    names = [{path.stem for path in image_files(folder / side)} for side in (BEFORE, AFTER)]
    if alone := sorted(names[0] ^ names[1]):
        raise InputError(
            f"Expected a twin of every image in {folder / BEFORE} and {folder / AFTER}, but {', '.join(alone[:10])} "
            "have none; add or remove them."
        )
    before, after = (read_image_folder(folder / side) for side in (BEFORE, AFTER))
    if before.shape != after.shape:
        raise InputError(
            f"Expected twins of one size in {folder}, but got {tuple(before.shape[2:])} and {tuple(after.shape[2:])}."
        )
    return before, after
