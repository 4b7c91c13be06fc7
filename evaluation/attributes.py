"""What a judge can say about an image: a schema of named attributes, continuous ones and classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from slider_lightning.errors import InputError


@dataclass(frozen=True)
class Attribute:
    """One property of an image that a judge measures.

    Args:
        name: Its name, as records and tables print it, e.g. "age".
        kind: "continuous" (one real number) or "class" (exactly one of `classes`).
        classes: The names of the classes, ordered where an order exists; empty for a continuous attribute.
        captioned: Whether captions of the training data ever mention it.

    Raises:
        InputError: If the classes do not fit the kind.
    """

    name: str
    kind: Literal["continuous", "class"]
    classes: tuple[str, ...] = ()
    captioned: bool = True

    def __post_init__(self) -> None:
        if self.kind not in ("continuous", "class"):
            raise InputError(
                f"Expected the kind of attribute '{self.name}' to be 'continuous' or 'class', but got '{self.kind}'."
            )
        if self.kind == "class" and len(set(self.classes)) < 2:
            raise InputError(f"Expected attribute '{self.name}' to have at least two different classes.")
        if self.kind == "continuous" and self.classes:
            raise InputError(f"Expected the continuous attribute '{self.name}' to have no classes.")

    @property
    def labels(self) -> tuple[str, ...]:
        """One label per output of a judge: "age", or "gender=man", "gender=woman"."""
        if self.kind == "continuous":
            return (self.name,)
        return tuple(f"{self.name}={name}" for name in self.classes)

    @property
    def width(self) -> int:
        """How many outputs of a judge the attribute takes."""
        return len(self.labels)


Schema = tuple[Attribute, ...]


def schema_labels(schema: Sequence[Attribute]) -> tuple[str, ...]:
    """The labels of all attributes in order: the label names of a probe's outputs."""
    return tuple(label for attribute in schema for label in attribute.labels)


def schema_slices(schema: Sequence[Attribute]) -> dict[str, slice]:
    """Where each attribute stands among the outputs that `schema_labels` names."""
    slices: dict[str, slice] = {}
    start = 0
    for attribute in schema:
        slices[attribute.name] = slice(start, start + attribute.width)
        start += attribute.width
    return slices


def schema_to_json(schema: Sequence[Attribute]) -> list[dict[str, Any]]:
    """The schema as plain JSON values, for a model's config."""
    return [{**asdict(attribute), "classes": list(attribute.classes)} for attribute in schema]


def schema_from_json(entries: Sequence[dict[str, Any]]) -> Schema:
    """The inverse of `schema_to_json`.

    Raises:
        InputError: If an entry lacks a field or has an unknown one.
    """
    try:
        return tuple(Attribute(**{**entry, "classes": tuple(entry["classes"])}) for entry in entries)
    except (KeyError, TypeError) as error:
        raise InputError(f"Expected a schema of attributes (name, kind, classes, captioned): {error}.") from error
