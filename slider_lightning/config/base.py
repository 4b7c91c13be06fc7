"""What every group of settings is: typed, frozen, documented, and refused in one sentence where it is wrong."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic._internal._model_construction import ModelMetaclass
from pydantic.fields import FieldInfo

from slider_lightning.errors import InputError

KIND = "kind"
_NUMBERS = {"int": "a whole number", "float": "a number", "decimal": "a number", "finite": "a finite number"}
_TYPES = _NUMBERS | {
    "bool": "true or false",
    "string": "a text",
    "tuple": "a list",
    "list": "a list",
    "dict": "a mapping",
    "mapping": "a mapping",
    "model": "a mapping of settings",
}
_LIMITS = {
    "greater_than_equal": ("ge", "{} or more"),
    "greater_than": ("gt", "above {}"),
    "less_than_equal": ("le", "at most {}"),
    "less_than": ("lt", "below {}"),
    "too_short": ("min_length", "a list of {} or more"),
    "string_too_short": ("min_length", "a text of {} or more characters"),
    "string_pattern_mismatch": ("pattern", "a text that matches {}"),
}


def setting(
    default: Any = ..., text: str = "", *, unit: str = "", hint: str = "", identity: bool = True, **limits: Any
) -> Any:
    """A field of `Settings`.

    Args:
        default: its value where none is given; `...` asks for one.
        text: what it is, one sentence.
        unit: of its numbers.
        hint: how to mend a value that is out of range.
        identity: whether it decides what a run holds, and so belongs to the run's identity.
        limits: pydantic's, e.g. ge=1.
    """
    made_anew = isinstance(default, type)
    chosen = {"default_factory": default} if made_anew else {"default": default}
    return Field(
        **chosen, description=text, json_schema_extra={"unit": unit, "hint": hint, "identity": identity}, **limits
    )


class _InOneSentence(ModelMetaclass):
    """Classes that take their fields by position too, and raise `InputError` when they are called with wrong ones."""

    def __call__(cls, *positional: Any, **named: Any) -> Any:
        fields: Mapping[str, FieldInfo] = cls.model_fields  # type: ignore[attr-defined]
        names = [name for name in fields if name != KIND]
        if len(positional) > len(names):
            raise InputError(f"Expected at most {len(names)} settings for {cls.__name__}, but got {len(positional)}.")
        by_place = dict(zip(names, positional, strict=False))
        if twice := sorted(by_place.keys() & named.keys()):
            raise InputError(f"Expected each setting of {cls.__name__} once, but got {', '.join(twice)} twice.")
        try:
            return super().__call__(**by_place, **named)
        except ValidationError as error:
            raise InputError(sentence(error, cls, f"{cls.__name__}.")) from error  # type: ignore[arg-type]


class Settings(BaseModel, metaclass=_InOneSentence):
    """A group of settings. Its fields are checked when it is made; it cannot be changed afterwards.

    Raises:
        InputError: if a value is unknown, missing, of the wrong type or out of range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True)

    def replace(self, **changes: Any) -> Self:
        """The same settings with some values changed; checked as new ones are."""
        return type(self)(**{**self.values(), **changes})

    def values(self) -> dict[str, Any]:
        """The fields by name, as they are; nested settings stay settings."""
        return {name: getattr(self, name) for name in type(self).model_fields}

    def plain(self, *, without: Iterable[str] = ()) -> dict[str, Any]:
        """The settings as plain Python values that YAML and JSON hold; tuples become lists."""
        return self.model_dump(mode="json", exclude=set(without))

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str = "") -> Self:
        """Settings from plain values.

        Args:
            values: as YAML and JSON hold them.
            where: the place of these settings, for messages, e.g. "adapter."

        Raises:
            InputError: naming the first value that is wrong.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise InputError(sentence(error, cls, where)) from error


def sentence(error: ValidationError, settings: type[BaseModel], where: str = "") -> str:
    """The first thing that a validation found wrong, as one sentence.

    Args:
        error: of the validation.
        settings: what was validated.
        where: the place of these settings, for messages, e.g. "adapter."
    """
    found = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in found["loc"])
    name, given, kind = f"{where}{place}", found["input"], found["type"]
    if kind == "extra_forbidden":
        return unknown(str(found["loc"][-1]), _known(settings, found["loc"][:-1]), name.rpartition(".")[0])
    if kind == "missing":
        return f"Expected a value for {name}, but none was given; set it."
    return f"Expected {name} to be {_expected(kind, found)}, but got {given!r}; {_hint(settings, found)}"


def unknown(name: str, known: Iterable[str], where: str = "") -> str:
    """The sentence for a name that nothing has, with the known one that resembles it.

    Args:
        name: as it was given.
        known: the names that there are.
        where: of which settings, e.g. "adapter".
    """
    names = sorted(set(known))
    prefix = f"{where}." if where else ""
    near = nearest(name, names)
    hint = f"did you mean {prefix}{near}?" if near else f"known are {', '.join(names) or 'none'}."
    return f"Unknown setting {prefix}{name}; {hint}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that resembles a misspelt one most; None where none does."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return found[0] if found else None


def _known(settings: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The names of the settings at a path."""
    if not path:
        return list(settings.model_fields)
    field = _field(settings, path)
    inner = settings_in(field.annotation) if field is not None else []
    return [name for each in inner for name in each.model_fields]


def _field(settings: type[BaseModel], path: tuple[int | str, ...]) -> FieldInfo | None:
    """The field that a place in settings belongs to, where one class of settings stands on the way."""
    field: FieldInfo | None = None
    for part in path:
        found = settings.model_fields.get(str(part))
        if found is None:
            return field
        field = found
        inner = settings_in(field.annotation)
        settings = inner[0] if inner else Settings
    return field


def settings_in(annotation: Any) -> list[type[Settings]]:
    """The classes of settings that a field's annotation names, however deep in unions and containers."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [found for part in get_args(annotation) for found in settings_in(part)]


def _expected(kind: str, found: Any) -> str:
    context = found.get("ctx", {})
    if kind in _LIMITS:
        key, text = _LIMITS[kind]
        limit = context.get(key)
        return text.format(f"{limit:g}" if isinstance(limit, float) else limit)
    if kind == "literal_error":
        return f"one of {', '.join(_choices(found))}"
    return _TYPES.get(kind.split("_")[0], str(found["msg"]).removeprefix("Input should be "))


def _choices(found: Any) -> list[str]:
    return [word.strip(" '") for word in found["ctx"]["expected"].replace(" or ", ",").split(",")]


def _hint(settings: type[BaseModel], found: Any) -> str:
    """How to mend a value."""
    if found["type"] == "literal_error" and (near := nearest(str(found["input"]), _choices(found))):
        return f"did you mean {near}?"
    field = _field(settings, found["loc"]) if found["type"] in _LIMITS else None
    extra = field.json_schema_extra if field is not None else None
    hint = extra.get("hint") if isinstance(extra, dict) else None
    return f"{hint}." if hint else "change it."
