"""Everything that the build of the world can be told, one object."""

from dataclasses import dataclass

from experiments.tiny_faces.judges.clip import ClipSettings
from experiments.tiny_faces.judges.parser import ParserSettings
from experiments.tiny_faces.judges.perceptual import PerceptualSettings
from experiments.tiny_faces.judges.probe import ProbeSettings
from experiments.tiny_faces.pipeline import PipelineSize
from experiments.tiny_faces.stylegan.training import StyleGanSettings
from experiments.tiny_faces.unet import UNetSettings
from experiments.tiny_faces.vae import VaeSettings
from slider_lightning.errors import InputError

ALONE = ("stylegan",)
"""Parts that need nothing of the others to be made."""


@dataclass(frozen=True)
class BuildSettings:
    """Sizes and lengths of all stages; the defaults are what two CPU cores train in under 4 hours.

    Args:
        out_dir: the assets folder that is made.
        work_dir: data, checkpoints and finished stages; a killed build goes on from it.
        faces: rendered faces that the generator learns from.
        judge_faces: rendered faces that the judges learn from.
        measured_images: generated images that the world is measured on.
        measured_faces: drawn faces that the judges and the StyleGAN generator are measured on.
        only: parts to make again in a world that stands in `out_dir`, of ALONE; empty for all parts.

    Raises:
        InputError: if `only` names another part.
    """

    out_dir: str
    work_dir: str = "build/tiny_faces"
    faces: int = 24000
    judge_faces: int = 12000
    measured_images: int = 512
    measured_faces: int = 1024
    only: tuple[str, ...] = ()
    seed: int = 1
    size: PipelineSize = PipelineSize()
    vae: VaeSettings = VaeSettings()
    unet: UNetSettings = UNetSettings()
    probe: ProbeSettings = ProbeSettings()
    parser: ParserSettings = ParserSettings()
    clip: ClipSettings = ClipSettings()
    perceptual: PerceptualSettings = PerceptualSettings()
    stylegan: StyleGanSettings = StyleGanSettings()

    def __post_init__(self) -> None:
        if not set(self.only) <= set(ALONE):
            raise InputError(
                f"Expected `only` to name parts that can be made alone ({', '.join(ALONE)}), but got "
                f"{', '.join(self.only)}; leave it empty to build everything."
            )
