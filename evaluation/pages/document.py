"""The shell of every page: templates with escaping, style and scripts inside, data as inert JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from slider_lightning.assets import atomic_path
from slider_lightning.training.run_folder import json_ready

TEMPLATES = Path(__file__).parent / "templates"
# What a parser of HTML could read as the end of a script, or as an entity, inside of JSON.
_ESCAPED = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
MINUS = "\u2212"


def render(template: str, **values: Any) -> str:
    """A page: the same text whenever the same values are given.

    Args:
        template: file in templates/.
        values: what it shows; texts are escaped wherever they stand.
    """
    return _environment().get_template(template).render(**values) + "\n"


def write_page(path: Path, page: str) -> Path:
    """Writes a page, whole or not at all.

    Raises:
        InputError: if the disk refuses.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def embedded(data: Mapping[str, Any]) -> Markup:
    """JSON that can stand in a script element, whatever its texts hold; numbers that are not finite become null."""
    text = json.dumps(json_ready(data), separators=(",", ":"), allow_nan=False)
    return Markup("".join(_ESCAPED.get(character, character) for character in text))


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign, as print sets it: a true minus; what rounds to nothing has no sign."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)


def scale_text(scale: float) -> str:
    """A scale with its sign, as short as it goes."""
    return f"{scale:+g}".replace("-", MINUS) if scale else "0"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"embedded": embedded, "signed": signed, "scale": scale_text, "words": _words}
    environment.globals["asset"] = _asset
    return environment


def _asset(name: str) -> Markup:
    """A style sheet or script of ours, as it is."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def _words(name: str) -> str:
    """An identifier as words."""
    return name.replace("_", " ")
