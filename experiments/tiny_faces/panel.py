"""The judges of a world that the build wrote; those of the shipped one are conf/judges/tiny_faces.yaml."""

from pathlib import Path

from evaluation.judges.clip import load_clip
from evaluation.judges.features import ClipFeatures
from evaluation.judges.panel import Judges
from evaluation.judges.parser import FaceParser
from evaluation.judges.perceptual import load_perceptual
from evaluation.judges.probe import load_probe


def load_judges(folder: str | Path) -> Judges:
    """Loads the judges from the subfolders probe, parser, clip and perceptual of `folder`.

    Raises:
        InputError: If one of them is missing or damaged.
    """
    folder = Path(folder)
    clip = load_clip(folder / "clip", "tiny_faces CLIP")
    return Judges(
        clip=clip,
        distance=load_perceptual(folder / "perceptual"),
        classifier=load_probe(folder / "probe", "tiny_faces probe"),
        parser=FaceParser(folder / "parser", name="tiny_faces parser"),
        features=ClipFeatures(clip),
    )
