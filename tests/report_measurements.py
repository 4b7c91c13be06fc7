"""Measurements whose figures have closed forms, for the tests of tables and figures."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from evaluation.attributes import Attribute, schema_to_json
from evaluation.measurements import Measurements, MeasurementsHeader, read_measurements

FIXTURES = Path(__file__).parent / "fixtures"
SCHEMA = (
    Attribute("age", "continuous"),
    Attribute("gender", "class", ("man", "woman")),
    Attribute("hair", "class", ("black", "brown", "red")),
)
NOUNS = ("a man", "a woman")


def fixture(method: str) -> Measurements:
    """The stored measurements of "concept_slider" or "prompt_to_prompt": 4 rows at the scales -2, 0 and 2.

    Relative to the image at 0 and at +2, the slider gains 2 in CLIP score, 0.5 in age (2 standard deviations) at a
    distance of 0.0625, and flips no gender; Prompt-to-Prompt gains 1, 1, 0.5, 0.5, and 0.25 in age at a distance of
    0.125, and flips the gender of rows 2 and 3 at both scales. The eyes grow by a fifth, but in one image of
    Prompt-to-Prompt at +2 none is found.
    """
    return read_measurements(FIXTURES / f"measurements_{method}.jsonl")


def with_header(measurements: Measurements, **changes: Any) -> Measurements:
    """The same readings under another header."""
    return Measurements(replace(measurements.header, **changes), measurements.frame)


def linear_slider(
    age: float = 0.25,
    flip_from: float | None = None,
    rows: int = 8,
    scales: Sequence[float] = (-2.0, -1.0, 0.0, 1.0, 2.0),
) -> Measurements:
    """Age rises by `age` standard deviations per unit of scale in every row; the rest stands still.

    Args:
        age: slope.
        flip_from: |scale| from which the gender of every second row flips.
        rows: how many.
        scales: of the images.
    """
    lines = []
    for row in range(rows):
        for scale in scales:
            flips = flip_from is not None and row % 2 == 0 and abs(scale) >= flip_from
            woman = 0.9 if (row // 2 % 2 == 0) != flips else 0.1
            lines.append(
                {
                    **{"row": row, "id": f"{row}{scale:+g}", "prompt": NOUNS[row * 2 // rows], "seed": row},
                    **{"noun": NOUNS[row * 2 // rows], "scale": scale, "distance": 0.0625 * abs(scale)},
                    **{"clip/positive": 20 + row + scale, "clip/negative": 20 - row - scale},
                    **{"attribute/age": row + 0.5 * age * scale, "attribute/gender=man": 1 - woman},
                    **{"attribute/gender=woman": woman, "attribute/hair=black": 0.8},
                    **{"attribute/hair=brown": 0.1, "attribute/hair=red": 0.1},
                }
            )
    header = MeasurementsHeader(
        method="concept_slider",
        concept="age",
        model="tiny",
        judges={"clip": "test CLIP", "distance": "test distance", "classifier": "test probe"},
        scales=tuple(scales),
        schema=schema_to_json(SCHEMA),
        std={"age": [0.5], "gender": [0.5, 0.5], "hair": [0.4, 0.3, 0.2]},
        edit_prompts={"positive": "old", "negative": "young"},
    )
    return Measurements(header, pd.DataFrame(lines))
