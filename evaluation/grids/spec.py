"""What a grid shows: prompts x seeds, every row with a seed of its own."""

from collections.abc import Sequence
from dataclasses import dataclass

from slider_lightning.errors import InputError


@dataclass(frozen=True)
class GridRow:
    """One (prompt, seed) of a grid.

    Args:
        prompt: the prompt.
        noun: the noun that its template holds.
        seed: of the row's initial noise.
    """

    prompt: str
    noun: str
    seed: int


@dataclass(frozen=True)
class PromptSet:
    """Prompts = nouns x templates, the nouns outermost.

    Args:
        name: e.g. "person".
        nouns: what is shown, e.g. "a doctor".
        templates: prompts with "{}" for the noun, e.g. "photo of {}".

    Raises:
        InputError: if there is no noun or template, one is blank or given twice, or a template lacks "{}".
    """

    name: str
    nouns: tuple[str, ...]
    templates: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise InputError("Expected prompts.name to be a name such as person, but it is blank; give one.")
        _check_texts("nouns", self.nouns)
        _check_texts("templates", self.templates)
        wrong = [template for template in self.templates if template.count("{}") != 1]
        if wrong:
            raise InputError(
                f"Expected every one of prompts.templates to hold {{}} once, but got {wrong[0]!r}; {{}} is the noun."
            )

    @property
    def prompts(self) -> tuple[tuple[str, str], ...]:
        """(prompt, noun) of every prompt."""
        return tuple((template.replace("{}", noun), noun) for noun in self.nouns for template in self.templates)


@dataclass(frozen=True)
class GridSpec:
    """Prompts x seeds. Every row has its own seed: first_seed + prompt_index * seeds_per_prompt + i.

    Args:
        prompts: the prompts.
        seeds_per_prompt: rows per prompt, at least 1.
        first_seed: of the first row, at least 0.

    Raises:
        InputError: if a number is out of range.
    """

    prompts: PromptSet
    seeds_per_prompt: int = 20
    first_seed: int = 1000

    def __post_init__(self) -> None:
        for name, least in (("seeds_per_prompt", 1), ("first_seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(
                    f"Expected prompts.{name} to be a whole number of {least} or more, but got {value!r}; raise it."
                )

    @property
    def rows(self) -> tuple[GridRow, ...]:
        """Prompts outermost, seeds_per_prompt rows each."""
        count = self.seeds_per_prompt
        return tuple(
            GridRow(prompt, noun, self.first_seed + index * count + number)
            for index, (prompt, noun) in enumerate(self.prompts.prompts)
            for number in range(count)
        )


def _check_texts(what: str, texts: Sequence[str]) -> None:
    if not texts or any(not text.strip() for text in texts):
        raise InputError(f"Expected prompts.{what} to be texts, none of them blank, but got {list(texts)}; fill in.")
    twice = sorted({text for text in texts if texts.count(text) > 1})
    if twice:
        raise InputError(f"Expected every one of prompts.{what} once, but got {twice[0]!r} twice; leave one out.")
