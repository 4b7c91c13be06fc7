"""What the tables compare on one model."""

from dataclasses import dataclass

from slider_lightning.errors import InputError


@dataclass(frozen=True)
class TableConcept:
    """One column of table 1.

    Args:
        experiment: file in conf/experiment that trains its slider and says what is measured.
        prompts: file in conf/prompts with the prompts of its images.
    """

    experiment: str
    prompts: str


@dataclass(frozen=True)
class Protocol:
    """The comparison of a model.

    Args:
        concepts: name to column, in the order of the tables.
        ablated: the concept that table 3 takes apart.
        variants: method to the file in conf/experiment that trains it, for table 3; judged as `ablated` is.
        visual_prompts: file in conf/prompts with the prompts of table 2.
        visual_experiment: file in conf/experiment that trains table 2's slider, on that table's pairs.
        slider_scales: scales of slider images, without 0.
        baseline_scales: scales of the ablated concept's baseline images, without 0; the largest is what tables compare
            at, and the only one of the other concepts' baselines.
        seeds_per_prompt: replaces the one of the prompts; None keeps it.
        first_seed: replaces the one of the prompts; None keeps it.
        batch_size: images per UNet call.
        resolution: side of the images in pixels, where it is not that of the trainings; None keeps it.

    Raises:
        InputError: if `ablated` is no concept, sliders and baselines end at other scales, or there are none.
    """

    concepts: dict[str, TableConcept]
    ablated: str
    variants: dict[str, str]
    visual_prompts: str
    visual_experiment: str = "eye_size"
    slider_scales: tuple[float, ...] = (-2.0, -1.0, 1.0, 2.0)
    baseline_scales: tuple[float, ...] = (-2.0, 2.0)
    seeds_per_prompt: int | None = None
    first_seed: int | None = None
    batch_size: int = 32
    resolution: int | None = None

    def __post_init__(self) -> None:
        if self.ablated not in self.concepts:
            known = ", ".join(self.concepts)
            raise InputError(f"Expected protocol.ablated among {known}, but got {self.ablated!r}; change it.")
        if not self.slider_scales or not self.baseline_scales or self.batch_size < 1:
            raise InputError(
                "Expected protocol to name scales of sliders and baselines and a batch_size of 1 or more; fill them in."
            )
        ends = [(min(scales), max(scales)) for scales in (self.slider_scales, self.baseline_scales)]
        if ends[0] != ends[1] or not ends[0][0] < 0 < ends[0][1]:
            raise InputError(
                f"Expected sliders and baselines between the same two scales around 0, but got {ends[0]} and "
                f"{ends[1]}; make protocol.slider_scales and protocol.baseline_scales end alike."
            )

    @property
    def scale(self) -> float:
        """The scale that tables compare at."""
        return max(self.baseline_scales)
