"""A concept: what a slider turns up and down, in words or without, and what it must leave alone."""

from dataclasses import dataclass

from slider_lightning.errors import InputError


@dataclass(frozen=True)
class Concept:
    """The prompts of one text slider (c_t, c+, c- and the set P of eq. 3 and 4).

    Args:
        name: identifier, used for folders and labels.
        target: prompt c_t whose images the slider acts on, e.g. "a person".
        positive: prompt c+ of the upper pole, e.g. "a person, very old".
        negative: prompt c- of the lower pole, e.g. "a person, very young".
        preserve: phrases p of eq. 4; each is appended to both poles ("a person, very old, male"). Empty means eq. 3.

    Raises:
        InputError: if a prompt is blank, or both poles are the same.
    """

    name: str
    target: str
    positive: str
    negative: str
    preserve: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "preserve", tuple(self.preserve))
        for field in ("name", "target", "positive", "negative"):
            if not getattr(self, field).strip():
                raise InputError(
                    f"Expected concept `{field}` to be a non-empty text, but got a blank; fill it in conf/concept."
                )
        if self.positive == self.negative:
            raise InputError(
                f"Expected concept `{self.name}` to have two poles, but both are {self.positive!r}; change one."
            )
        if any(not phrase.strip() for phrase in self.preserve):
            raise InputError(
                f"Expected every preserved phrase of concept `{self.name}` to be a text, but one is blank; remove it."
            )

    def positive_prompts(self) -> tuple[str, ...]:
        """The prompts (c+, p), one per preserved phrase; (c+,) when nothing is preserved."""
        return self._preserved(self.positive)

    def negative_prompts(self) -> tuple[str, ...]:
        """The prompts (c-, p), one per preserved phrase; (c-,) when nothing is preserved."""
        return self._preserved(self.negative)

    def _preserved(self, pole: str) -> tuple[str, ...]:
        return tuple(f"{pole}, {phrase}" for phrase in self.preserve) or (pole,)


@dataclass(frozen=True)
class VisualConcept:
    """What an image-pair slider turns up and down: the pairs say what it is, not words.

    Args:
        name: identifier, used for folders and labels.
        target: prompt of the images that the slider acts on, e.g. "a person".

    Raises:
        InputError: if one of them is blank.
    """

    name: str
    target: str

    def __post_init__(self) -> None:
        if not self.name.strip() or not self.target.strip():
            raise InputError("Expected a concept with `name` and `target`, but one is blank; fill it in conf/concept.")
