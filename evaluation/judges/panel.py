"""The judges of one world, together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evaluation.judges.clip import ClipJudge, load_clip
from evaluation.judges.parser import FaceParser
from evaluation.judges.perceptual import PerceptualDistance, load_perceptual
from evaluation.judges.probe import AttributeProbe, load_probe


@dataclass(frozen=True)
class Judges:
    """Who measures generated images: attributes, eye area, fit to a text, distance to the unedited image."""

    probe: AttributeProbe
    parser: FaceParser
    clip: ClipJudge
    perceptual: PerceptualDistance


def load_judges(folder: str | Path) -> Judges:
    """Loads the judges from the subfolders probe, parser, clip and perceptual of `folder`.

    Raises:
        InputError: If one of them is missing or damaged.
    """
    folder = Path(folder)
    return Judges(
        probe=load_probe(folder / "probe"),
        parser=FaceParser(folder / "parser"),
        clip=load_clip(folder / "clip"),
        perceptual=load_perceptual(folder / "perceptual"),
    )
