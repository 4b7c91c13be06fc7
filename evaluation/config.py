"""What an evaluation measures, and on which images."""

from dataclasses import dataclass

from evaluation.grids import GridSpec
from slider_lightning.errors import InputError


@dataclass(frozen=True)
class EvaluationConfig:
    """Settings of one slider's evaluation.

    Args:
        target: attribute of the classifier that the slider should move, or one class as "hair_color=blond"; None where
            no classifier reads it, and then nothing is said about it.
        protected: class attributes that should not flip.
        edit_prompt: text that the upper pole should fit, for the CLIP score.
        opposite_prompt: text that the lower pole should fit.
        prompts: prompts and seeds of the images, at least 2 rows for an interval.
        grids: folder of all image grids.
        scales: slider scales, strictly increasing, 0 among them.
        batch_size: images per UNet call.

    Raises:
        InputError: if there are fewer than 2 rows, or the batch is empty.
    """

    target: str | None
    protected: tuple[str, ...]
    edit_prompt: str
    opposite_prompt: str
    prompts: GridSpec
    grids: str
    scales: tuple[float, ...] = (-2.0, -1.0, 0.0, 1.0, 2.0)
    batch_size: int = 32

    def __post_init__(self) -> None:
        if len(self.prompts.rows) < 2:
            raise InputError(
                f"Expected evaluation.prompts to make 2 or more rows of images, but got {len(self.prompts.rows)}; an "
                "interval needs 2, so raise evaluation.prompts.seeds_per_prompt."
            )
        if self.batch_size < 1:
            raise InputError(f"Expected evaluation.batch_size to be 1 or more, but got {self.batch_size}; raise it.")
