"""The edit prompts of a concept: what a baseline that edits by words asks for."""

import re
from typing import Any

from evaluation.grids import GridRow
from slider_lightning.concepts import Concept
from slider_lightning.errors import InputError


def edited_prompt(row: GridRow, concept: Concept, scale: float) -> str:
    """The row's prompt with its noun turned into a pole of the concept: the positive one for scales above 0.

    Where the pole begins with the concept's target, the row's noun takes the target's place, so that
    "image of a man" becomes "image of a man, very old" under the pole "a person, very old" of "a person". Any other
    pole replaces the noun as it stands ("a marble sculpture of a person"). Scale 0 leaves the prompt alone.

    Raises:
        InputError: if the prompt does not hold the noun.
    """
    noun = re.compile(rf"(?<!\w){re.escape(row.noun)}(?!\w)")
    if not noun.search(row.prompt):
        raise InputError(
            f"Expected the prompt {row.prompt!r} to hold its noun {row.noun!r}, where the edit goes, but it does not; "
            "write the noun into the template."
        )
    if scale == 0:
        return row.prompt
    pole = concept.positive if scale > 0 else concept.negative
    phrase = re.sub(rf"^{re.escape(concept.target)}(?!\w)", lambda _: row.noun, pole)
    return noun.sub(lambda _: phrase, row.prompt, count=1)


def concept_prompts(concept: Concept) -> dict[str, Any]:
    """What `edited_prompt` reads of a concept, as plain JSON for a method's `depends_on`."""
    return {"target": concept.target, "positive": concept.positive, "negative": concept.negative}
