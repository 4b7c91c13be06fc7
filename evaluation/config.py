"""What an evaluation measures, and on which images."""

from dataclasses import dataclass

from slider_lightning.errors import InputError


@dataclass(frozen=True)
class EvaluationConfig:
    """Settings of one slider's evaluation.

    Args:
        judges: folder of the judges (probe, parser, clip, perceptual).
        target: attribute of the probe that the slider should move, or one class as "hair_color=blond".
        protected: class attributes that should not flip.
        prompt: prompt of every image.
        edit_prompt: text that the upper pole should fit, for the CLIP score.
        num_seeds: images per scale, at least 2 for an interval.
        first_seed: the seeds are first_seed, first_seed + 1, ...
        scales: slider scales, strictly increasing, 0 among them.
        batch_size: images per UNet call.

    Raises:
        InputError: if there are fewer than 2 seeds, or the batch is empty.
    """

    judges: str
    target: str
    protected: tuple[str, ...]
    prompt: str
    edit_prompt: str
    num_seeds: int = 64
    first_seed: int = 1000
    scales: tuple[float, ...] = (-2.0, -1.0, 0.0, 1.0, 2.0)
    batch_size: int = 32

    def __post_init__(self) -> None:
        if self.num_seeds < 2:
            raise InputError(
                f"Expected evaluation.num_seeds to be 2 or more, but got {self.num_seeds}; an interval needs 2."
            )
        if self.batch_size < 1:
            raise InputError(f"Expected evaluation.batch_size to be 1 or more, but got {self.batch_size}; raise it.")

    @property
    def seeds(self) -> range:
        """The seeds of the images."""
        return range(self.first_seed, self.first_seed + self.num_seeds)
