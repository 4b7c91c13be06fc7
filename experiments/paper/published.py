"""What is published about Concept Sliders, with a mark for where each figure was read, and what compares with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.measurements import Measurements
from evaluation.report.table import Published, PublishedFigure
from slider_lightning.config import portable_path

CITED = "Concept Sliders (ECCV 2024)"
ROWS = 500


def figures(*texts: str) -> tuple[PublishedFigure | None, ...]:
    """Published figures as they are noted, e.g. "3.93 2" for a figure with the mark 2, "" for none."""
    return tuple(_figure(*text.split()) if text else None for text in texts)


def _figure(value: str, mark: str) -> PublishedFigure:
    return PublishedFigure(float(value), mark, digits=len(value.partition(".")[2]))


TABLE1 = Published(
    f"{CITED}, table 1, SDXL",
    tuple(f"{concept}, {figure}" for concept in ("age", "hair", "sky", "rusty") for figure in ("dCLIP", "LPIPS")),
    {
        "Prompt-to-Prompt": figures("1.10 2", "0.15 2", "3.45 2", "0.15 M", "0.43 2", "0.15 M", "7.67 2", "0.25 M"),
        "Composition": figures("3.14 M", "0.13 M", "5.14 M", "0.15 M", "1.55 M", "0.14 M", "6.67 M", "0.18 M"),
        "Concept Sliders": figures("3.93 2", "0.06 2", "5.59 2", "0.10 M", "1.56 2", "0.13 M", "7.60 2", "0.09 M"),
    },
)

TABLE2 = Published(
    f"{CITED}, table 2, eye size, SDXL",
    ("change of eye area", "LPIPS"),
    {
        "training pairs": figures("1.84 M", "0.03 M"),
        "Textual Inversion": figures("0.81 2", "0.21 2"),
        "Custom Diffusion": figures("0.97 2", "0.23 2"),
        "Concept Sliders": figures("1.75 2", "0.06 2"),
    },
)

TABLE3 = Published(
    f"{CITED}, table 3, age, SDXL",
    ("dCLIP", "LPIPS", "interference (race, gender)"),
    {
        "Concept Sliders": figures("3.93 2", "0.06 2", "0.10 2"),
        "w/o disentanglement (eq. 3)": figures("3.39 2", "0.17 2", "0.36 2"),
        "w/o low rank (full fine-tune)": figures("3.18 2", "0.23 2", "0.19 2"),
        "Prompt-to-Prompt": figures("", "", "0.33 2"),
        "Composition": figures("", "", "0.38 2"),
    },
)

DOSE_RESPONSE = Published(
    "benchmarks that score Concept Sliders on SDXL",
    ("share of monotone sweeps", "Spearman rho", "R2", "selectivity"),
    {
        "Measured Sliders (2609.05234)": figures("0.989 2", "0.995 2", "", "1.76 2"),
        "best baseline of Measured Sliders": figures("", "", "", "0.54 2"),
        "Concept Sliders, by CNS-Bench (ICCV 2025)": figures("0.73 2", "", "", ""),
        "Concept Sliders, by All-in-One Slider": figures("", "", "0.966 2", ""),
    },
    notes=(
        "Which attributes, scales and judges stand behind these figures differs from paper to paper and from ours: "
        "they tell what is good, not who is better.",
    ),
)


@dataclass(frozen=True)
class Condition:
    """One circumstance of the published figures.

    Args:
        name: what it is, e.g. "CLIP".
        published: how it was there.
        ours: how it is in measurements, as text.
        agrees: whether that text says the same.
    """

    name: str
    published: str
    ours: Callable[[Measurements], str]
    agrees: Callable[[str], bool]


def model_name(measurements: Measurements) -> str:
    """The diffusion model, without the place of the installation; an embedded one by the name of its folder."""
    return portable_path(measurements.header.model).removeprefix("assets/").removesuffix("/pipeline")


def _judge(role: str) -> Callable[[Measurements], str]:
    return lambda measurements: measurements.header.judges.get(role, "none")


def _holds(*words: str) -> Callable[[str], bool]:
    """Whether a text holds all the words, in any spelling of capitals and joints."""
    return lambda text: all(word in text.lower().replace("/", "-").replace("_", "-") for word in words)


def _sampler(measurements: Measurements) -> str:
    sampler: Mapping[str, Any] = measurements.header.settings.get("sampler", {})
    names = {"num_inference_steps": "steps", "guidance_scale": "guidance", "start_timestep": "start_timestep"}
    return ", ".join(f"{name} {float(sampler[key]):g}" for key, name in names.items() if key in sampler) or "unknown"


def _size(measurements: Measurements) -> str:
    size = measurements.header.settings.get("model", {}).get("resolution")
    return f"{size} px" if size else "unknown"


SETTING = (
    Condition(
        "model",
        "SDXL base 1.0",
        model_name,
        _holds("stable-diffusion-xl-base-1.0"),
    ),
    Condition("image size", "1024 px", _size, lambda text: text == "1024 px"),
    Condition(
        "sampling",
        "steps 50, guidance 5, start_timestep 750",
        _sampler,
        lambda text: text == "steps 50, guidance 5, start_timestep 750",
    ),
    Condition(
        "n", f"{ROWS} rows", lambda measurements: f"{len(measurements.rows)} rows", lambda text: text == f"{ROWS} rows"
    ),
)
JUDGES = {
    "clip": Condition("CLIP", "ViT-B/32 of openai", _judge("clip"), _holds("vit-b-32", "openai")),
    "distance": Condition("distance", "LPIPS (AlexNet, 64 px)", _judge("distance"), _holds("lpips", "alex", "64")),
    "classifier": Condition("classifier", "not named in the paper", _judge("classifier"), lambda _: False),
    "parser": Condition("eye parser", "not named in the paper", _judge("parser"), lambda _: False),
}


def comparability(measurements: Measurements, roles: Sequence[str]) -> str:
    """One line on what of the published figures may be held against ours, by the names in the header.

    Args:
        measurements: any of the table's.
        roles: the judges that its figures rest on, e.g. ("clip", "distance").
    """
    same, other = [], []
    for condition in (*SETTING, *(JUDGES[role] for role in roles)):
        ours = condition.ours(measurements)
        if condition.agrees(ours):
            same.append(f"{condition.name} ({ours})")
        else:
            other.append(f"{condition.name} (ours: {ours}; published: {condition.published})")
    if not other:
        return f"Comparable with the published figures where the trainings are: the same {', '.join(same)}."
    likewise = f" The same: {', '.join(same)}." if same else ""
    return (
        "Not comparable in size with the published figures, only in the order of the methods and in signs. "
        f"Different: {'; '.join(other)}.{likewise}"
    )
