"""The attributes of drawn faces: what they are, how they are distributed, which combinations are held out."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from evaluation.attributes import Attribute

GENDERS = ("man", "woman")
SKIN_TONES = ("pale", "tan", "dark")
HAIR_COLORS = ("black", "brown", "blond", "red", "grey")
BACKGROUNDS = ("blue", "green", "yellow", "pink", "white")

SCHEMA: tuple[Attribute, ...] = (
    Attribute("age", "continuous"),
    Attribute("gender", "class", GENDERS),
    Attribute("skin_tone", "class", SKIN_TONES),
    Attribute("hair_color", "class", HAIR_COLORS),
    Attribute("curl", "class", ("straight", "curly")),
    Attribute("glasses", "class", ("none", "glasses")),
    Attribute("smile", "continuous"),
    Attribute("background", "class", BACKGROUNDS),
    Attribute("quality", "class", ("well drawn", "poorly drawn")),
    Attribute("eye_size", "continuous", captioned=False),
    Attribute("brow_shape", "continuous", captioned=False),
    Attribute("face_width", "continuous", captioned=False),
)
"""Every attribute that a judge reads; continuous ones lie in [0, 1], classes are indices."""

HELD_OUT: tuple[dict[str, str], ...] = (
    {"gender": "woman", "glasses": "glasses", "hair_color": "red"},
    {"gender": "man", "curl": "curly", "hair_color": "blond"},
    {"skin_tone": "dark", "glasses": "glasses", "background": "pink"},
    {"gender": "woman", "skin_tone": "pale", "background": "green"},
)
"""Combinations that never occur in training data, so that prompting them tests composition."""

POOR_SHARE = 0.15
GREY_BLEND_GAP = (0.25, 0.8)  # hair is either hardly grey or plainly grey, so that its colour is unambiguous
CURL_GAP = (0.15, 0.75)


@dataclass(frozen=True)
class Faces:
    """A batch of faces: attributes of SCHEMA and what is drawn but never named.

    Args:
        values: attribute name -> (n,) float in [0, 1] for continuous ones, (n,) long class index for classes.
        hidden: drawing parameter -> (n, ...) float: pose, colour jitter, clothes, and the displacements of bad drawing.
    """

    values: dict[str, Tensor]
    hidden: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.values["age"])

    def __getitem__(self, rows: slice | Tensor) -> "Faces":
        return Faces({k: v[rows] for k, v in self.values.items()}, {k: v[rows] for k, v in self.hidden.items()})

    def with_values(self, **values: float | int) -> "Faces":
        """The same faces with some attributes set to one value, and what draws hair to fit it (its colour does not
        follow age here).
        """
        changed = {k: torch.full_like(self.values[k], v) for k, v in values.items()}
        return Faces({**self.values, **changed}, {**self.hidden, **self._hair(values)})

    def _hair(self, values: Mapping[str, float | int]) -> dict[str, Tensor]:
        """Hidden parameters that show a hair colour or curls: the middle of what is drawn for the class."""
        fitting: dict[str, float | int] = {}
        if "hair_color" in values:
            grey = values["hair_color"] == HAIR_COLORS.index("grey")
            fitting["grey_blend"] = (1 + GREY_BLEND_GAP[1]) / 2 if grey else 0.0
            fitting |= {} if grey else {"base_hair_color": values["hair_color"]}
        if "curl" in values:
            fitting["curl_amount"] = (1 + CURL_GAP[1]) / 2 if values["curl"] else CURL_GAP[0] / 2
        return {name: torch.full_like(self.hidden[name], value) for name, value in fitting.items()}


def class_index(name: str, label: str) -> int:
    """Index of a class label of attribute `name`."""
    return next(a for a in SCHEMA if a.name == name).classes.index(label)


def is_held_out(values: dict[str, Tensor]) -> Tensor:
    """Rows (n,) bool whose attributes match a combination of HELD_OUT."""
    rows = [
        torch.stack([values[k] == class_index(k, v) for k, v in combination.items()]).all(0) for combination in HELD_OUT
    ]
    return torch.stack(rows).any(0)


def sample_faces(n: int, seed: int, *, held_out: bool = False) -> Faces:
    """Draw n faces from the world's distribution: age correlates with gender and with glasses.

    Args:
        n: number of faces.
        seed: the faces are a function of (n, seed).
        held_out: keep the combinations of HELD_OUT (for judges); otherwise others are drawn in their place (for the
            generator).
    """
    generator = torch.Generator().manual_seed(seed)
    values = _sample_values(n, generator)
    while not held_out and bool((rows := is_held_out(values)).any()):
        fresh = _sample_values(n, generator)
        values = {k: torch.where(rows, fresh[k], v) for k, v in values.items()}
    return Faces(values, _sample_hidden(values, generator))


def _sample_values(n: int, generator: torch.Generator) -> dict[str, Tensor]:
    def uniform() -> Float[Tensor, " n"]:
        return torch.rand(n, generator=generator)

    def classes(count: int) -> Int[Tensor, " n"]:
        return torch.randint(count, (n,), generator=generator)

    age = uniform()
    grey = uniform() < ((age - 0.5) * 2.5).clamp(0.0, 0.9)
    return {
        "age": age,
        "gender": (uniform() > 0.3 + 0.4 * age).long(),
        "skin_tone": classes(len(SKIN_TONES)),
        "hair_color": torch.where(grey, HAIR_COLORS.index("grey"), classes(len(HAIR_COLORS) - 1)),
        "curl": classes(2),
        "glasses": (uniform() < 0.2 + 0.6 * age).long(),
        "smile": uniform(),
        "background": classes(len(BACKGROUNDS)),
        "quality": (uniform() < POOR_SHARE).long(),
        "eye_size": uniform(),
        "brow_shape": uniform(),
        "face_width": uniform(),
    }


def _sample_hidden(values: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    n = len(values["age"])

    def uniform(*shape: int) -> Tensor:
        return torch.rand(n, *shape, generator=generator)

    grey_low, grey_high = GREY_BLEND_GAP
    curl_low, curl_high = CURL_GAP
    poor_amount = (0.5 + 0.5 * uniform()) * values["quality"]
    is_grey = values["hair_color"] == HAIR_COLORS.index("grey")
    grey = torch.where(is_grey, grey_high + (1 - grey_high) * uniform(), grey_low * uniform() * (values["age"] > 0.4))
    return {
        "base_hair_color": torch.where(is_grey, torch.randint(4, (n,), generator=generator), values["hair_color"]),
        "grey_blend": grey,
        "curl_amount": torch.where(values["curl"] == 1, curl_high + (1 - curl_high) * uniform(), curl_low * uniform()),
        "color_jitter": uniform(4, 3) * 2 - 1,
        "clothes": uniform(3),
        "shift": (uniform(2) * 2 - 1) * 0.06,
        "turn": (uniform() * 2 - 1) * 0.05,
        "phase": uniform(4) * 6.2832,
        "poor_amount": poor_amount,
        "poor_shift": (uniform(4, 2) * 2 - 1) * poor_amount[:, None, None],
        "poor_kind": uniform(3),
    }
