"""The page of one run: `page.html` in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluation.pages.curves import picture
from evaluation.pages.document import render, write_page
from evaluation.pages.loading import loading_steps
from evaluation.pages.run_view import PAGE_FILE, RunView, read_run
from evaluation.pages.verdict import tiles, verdict
from evaluation.statistics import Measure
from slider_lightning.training import RunFolder

# Values of a config that tell runs apart, by what they are called on a page.
SETTINGS = {
    "rank": "adapter.rank",
    "alpha": "adapter.alpha",
    "layers": "adapter.layers",
    "eta": "objective.eta",
    "steps": "trainer.max_steps",
    "learning rate": "optimizer.lr",
    "seed": "seed",
}


def write_run_page(run: RunFolder) -> Path:
    """Writes the page of an evaluated run into its folder.

    Raises:
        InputError: if the run was not evaluated, a file of it is damaged, or the disk refuses.
    """
    return write_page(run.path / PAGE_FILE, run_page(read_run(run)))


def run_page(view: RunView) -> str:
    """The page as text: the same for the same view."""
    drawn = picture(view)
    return render(
        "run.html",
        title=f"{view.name}: what the slider does",
        view=view,
        picture=drawn,
        verdict=verdict(view),
        tiles=tiles(view),
        settings=settings_of(view.config),
        groups=figure_groups(view.figures),
        costs=cost_rows(view.costs),
        facts=manifest_facts(view.manifest),
        steps=loading_steps(view),
        data=page_data(view, drawn.target.dots),
    )


def page_data(view: RunView, dots: tuple[tuple[float, float], ...]) -> dict[str, Any]:
    """What the scripts of the page need."""
    return {
        "scales": view.scales,
        "unit": view.unit,
        "target": view.target.record(),
        "others": [curve.record() for curve in view.others],
        "flips": [curve.record() for curve in view.flips],
        "dots": dots,
        "effects": [example.effects for example in view.examples],
    }


def settings_of(config: Mapping[str, Any]) -> dict[str, str]:
    """The values that tell runs apart, as far as a config has them."""
    found = {name: value_at(config, key) for name, key in SETTINGS.items()}
    return {name: str(value) for name, value in found.items() if value is not None}


def value_at(config: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key; None where there is none."""
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def figure_groups(figures: Mapping[str, Measure]) -> dict[str, list[tuple[str, Measure]]]:
    """The figures by the first word of their names, in the order of the summary: {"distance": [("+1", ...)]}."""
    groups: dict[str, list[tuple[str, Measure]]] = {}
    for key, measure in figures.items():
        group, _, rest = key.removeprefix("eval/").partition("/")
        groups.setdefault(group, []).append((rest.replace("/", ", "), measure))
    return groups


def cost_rows(costs: Mapping[str, float]) -> list[tuple[str, str, str]]:
    """Stage, seconds and sample-forwards."""
    stages = [key.rpartition("/")[2] for key in costs if key.startswith("cost/seconds/")]
    return [
        (stage, f"{costs[f'cost/seconds/{stage}']:.1f}", f"{costs.get(f'cost/sample_forwards/{stage}', 0):,}")
        for stage in stages
    ]


def manifest_facts(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Commit, versions, seeds and machine of a run, one line each."""
    git = manifest.get("git") or {}
    facts = [("commit", f"{git['commit']}{' with changes' if git.get('changed') else ''}")] if git else []
    facts += [(name, str(manifest[name])) for name in ("device", "platform") if name in manifest]
    facts += [("training", f"{manifest['seconds']:.1f} s")] if manifest.get("seconds") is not None else []
    for section, label in (("seeds", "seed of {}"), ("assets", "{}"), ("versions", "{}")):
        facts += [(label.format(name), str(value)) for name, value in (manifest.get(section) or {}).items()]
    return facts
