"""The two ends of image pairs as folders: what table 2 measures of the pairs, and what its baselines learn from."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from slider_lightning.assets import sha256_file
from slider_lightning.data.pairs.pictures import open_picture
from slider_lightning.data.pairs.sources import Twins
from slider_lightning.generation import save_image


@dataclass(frozen=True)
class PairEnds:
    """The lowest and the highest level of every pair.

    Args:
        low: folder of the images at the lowest levels.
        high: folder of those at the highest ones, twins by their file names.
        scales: the slider scales of the two, on average over the pairs.
    """

    low: Path
    high: Path
    scales: tuple[float, float]


def pair_ends(twins: Sequence[Twins], root: Path, background: str = "white") -> PairEnds:
    """Copies both ends, as RGB images, into folders named after the bytes of their files and the background.

    Args:
        twins: the pairs, checked.
        root: gets the folders.
        background: what transparency is laid on.

    Raises:
        InputError: if the background is no colour, or an image cannot be read or written.
    """
    ends = {"low": [some.images[0] for some in twins], "high": [some.images[-1] for some in twins]}
    digest = hashlib.sha256(background.encode())
    for images in ends.values():
        digest.update("".join(sha256_file(path) for _, path in images).encode())
    folder = root / f"ends-{digest.hexdigest()[:12]}"
    for end, images in ends.items():
        for number, (_, path) in enumerate(images):
            if not (copy := folder / end / f"{number:03d}.png").is_file():
                save_image(open_picture(path, background), copy)
    low, high = (fmean(scale for scale, _ in images) for images in ends.values())
    return PairEnds(folder / "low", folder / "high", (low, high))
