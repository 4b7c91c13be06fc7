"""The page over many runs: cards to sort, to filter and to compare two by two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evaluation.pages.document import render
from evaluation.pages.gallery_view import DISTANCE, TARGET_SHIFT, Card

# Shown on every card, and offered as filters where runs differ in them.
SETTINGS = (
    "concept.name",
    "adapter.rank",
    "adapter.alpha",
    "adapter.layers",
    "objective.eta",
    "seed",
)
# What follows from the concept rather than being chosen.
DERIVED = ("concept.", "evaluation.", "strip.", "pairs.")
KEY_FIGURES = (TARGET_SHIFT, "interference", "selectivity", "monotone share", DISTANCE)
MOST_CHOICES, MOST_FILTERS = 16, 8
DIGITS = 4


def gallery_page(cards: Sequence[Card]) -> str:
    """The page as text: the same for the same cards."""
    names = list(dict.fromkeys([*KEY_FIGURES, *(name for card in cards for name in card.figures)]))
    names = [name for name in names if any(name in card.figures for card in cards)]
    filters = filters_of(cards)
    return render(
        "gallery.html",
        title=f"{len(cards)} sliders",
        cards=cards,
        key_figures=[name for name in KEY_FIGURES if name in names],
        names=names,
        settings=[key for key in SETTINGS if key != "concept.name"],
        filters=filters,
        data={
            "figures": names,
            "varying": varying_keys(cards),
            "filters": list(filters),
            "cards": [card_record(card, names, varying_keys(cards)) for card in cards],
        },
    )


def varying_keys(cards: Sequence[Card]) -> list[str]:
    """The keys of the configs that have not the same value in all runs."""
    keys = dict.fromkeys(key for card in cards for key in card.config)
    return [key for key in keys if len({card.config.get(key) for card in cards}) > 1]


def filters_of(cards: Sequence[Card]) -> dict[str, list[str]]:
    """What runs can be filtered by: keys with few values, those that are always shown first, and sweeps."""
    varying = varying_keys(cards)
    keys = [key for key in SETTINGS if key in varying]
    keys += [key for key in varying if key not in keys and not key.startswith(DERIVED) and "_target_" not in key]
    choices = {key: sorted({card.config.get(key, "") for card in cards}, key=sort_key) for key in keys}
    few = {key: values for key, values in choices.items() if len(values) <= MOST_CHOICES}
    sweeps = sorted({sweep for card in cards for sweep in card.sweeps})
    return dict(list(few.items())[:MOST_FILTERS]) | ({"sweep": sweeps} if sweeps else {})


def card_record(card: Card, names: Sequence[str], keys: Sequence[str]) -> dict[str, Any]:
    """What the scripts need of a card: figures and values in the order of the shared lists of names."""
    found = [card.figures.get(name) for name in names]
    return {
        "place": card.place,
        "name": card.name,
        "figures": [[rounded(value) for value in (m.mean, *m.ci95)] if m else None for m in found],
        "config": [card.config.get(key) for key in keys],
        "sweeps": card.sweeps,
        "scales": card.sheet.scales if card.sheet else [],
        "seeds": card.sheet.seeds if card.sheet else [],
    }


def rounded(value: float) -> float:
    """A figure in as many digits as a page can show."""
    return float(f"{value:.{DIGITS}g}")


def sort_key(text: str) -> tuple[int, float, str]:
    """Numbers by size, then texts by their letters."""
    try:
        return (0, float(text), text)
    except ValueError:
        return (1, 0.0, text)
