"""Do sliders keep their effects together? `python -m experiments.paper.composition`: all pairs, then up to fifty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from evaluation.gallery import Gallery
from evaluation.grids import SliderMethod
from evaluation.measurements import Measurements
from evaluation.measuring import EditPrompts, Examiner
from evaluation.report import Table, save_figure
from evaluation.statistics import Measure, to_record
from experiments.paper.composition_many import (
    ManyConfig,
    Member,
    drawn_order,
    kept_effect,
    poorly_drawn,
    set_changes,
)
from experiments.paper.composition_pairs import (
    PairRule,
    PairVerdict,
    Strength,
    pair_verdict,
    pairs_of,
    strength_of,
)
from experiments.paper.composition_tables import (
    fault_table,
    many_table,
    pair_figure,
    pair_table,
    strength_table,
    summary_of,
)
from experiments.paper.repair_images import image_features
from experiments.paper.stage import Stage
from slider_lightning.config import build, known_keys, typed
from slider_lightning.entry import entry_point
from slider_lightning.errors import InputError
from slider_lightning.generation import draw_strip, save_image
from slider_lightning.training import RunFolder

STRIP_ROWS = 6
KINDS = ("text", "visual")


@dataclass(frozen=True)
class Trained:
    """A slider that is composed.

    Args:
        run: its run folder.
        target: what it should move, an attribute of the judges.
        kind: "text" or "visual".
    """

    run: RunFolder
    target: str
    kind: str


class Composition:
    """Sliders and the images of any of them together, made when they are asked for.

    Args:
        stage: model, judges and trainings.
        config: the plain, checked config of conf/paper/composition.yaml.
    """

    def __init__(self, stage: Stage, config: Mapping[str, Any]) -> None:
        self.stage = stage
        members = typed(config["members"], dict[str, tuple[str, ...]], "members")
        only = typed(config["only"], tuple[str, ...] | None, "only")
        known_keys(only or (), members, "only.")
        self.members = {name: how for name, how in members.items() if only is None or name in only}
        self.variants = typed(config["variants"], dict[str, tuple[tuple[str, ...], ...]], "variants")
        self.prompts = typed(config["prompts"], str, "prompts")
        known_keys(self.variants, KINDS, "variants.")
        if not self.members or not all(self.variants.get(kind) for kind in KINDS):
            raise InputError(
                "Expected members, and variants of text and of visual sliders, but some are empty; name some."
            )

    @cached_property
    def sliders(self) -> dict[str, Trained]:
        """All sliders, trained where they are not yet; those of later variants are numbered."""
        found = {}
        for name, overrides in self.members.items():
            config = self.stage.compose("train", *overrides)
            kind, target = KINDS[bool(config["pairs"])], config["evaluation"]["target"]
            for number, variant in enumerate(self.variants[kind]):
                run = self.stage.slider_of(*overrides, *variant)
                found[f"{name}-{number + 1}" if number else name] = Trained(run, target, kind)
        return found

    @property
    def paired(self) -> dict[str, Trained]:
        """The sliders that pairs are made of, in the first variant."""
        return {name: self.sliders[name] for name in self.members}

    @cached_property
    def gallery(self) -> Gallery:
        """The images of the verdicts."""
        return self.stage.gallery(self.prompts)

    @cached_property
    def other_gallery(self) -> Gallery:
        """As many images of other seeds, on which scales are found."""
        rows = self.gallery.prompts
        return replace(self.gallery, prompts=replace(rows, first_seed=rows.first_seed + len(rows.rows)))

    @cached_property
    def examiner(self) -> Examiner:
        """The judges; no text is asked for, since attributes decide."""
        prompt = self.gallery.prompts.rows[0].prompt
        return self.stage.examiner("composition", EditPrompts(prompt, prompt))

    def method(self, scales: Mapping[str, float]) -> SliderMethod:
        """Some sliders, each at a scale of its own, as a method of scale 1."""
        files = tuple(str(self.sliders[name].run.slider) for name in scales)
        return SliderMethod("composition", files, tuple(scales.values()))

    def measured(self, scales: Mapping[str, float]) -> Measurements:
        """The measurements of images with some sliders on, each at a scale of its own."""
        return self.gallery.measure(self.method(scales), (0.0, 1.0), self.examiner)

    def strengths(self, rule: PairRule) -> dict[str, Strength | None]:
        """The scale of every paired slider."""
        found = {}
        for name, slider in self.paired.items():
            method = SliderMethod("composition", (str(slider.run.slider),))
            found[name] = strength_of(
                self.other_gallery.measure(method, rule.scales, self.examiner), slider.target, rule
            )
        return found


def pair_verdicts(
    composition: Composition, strengths: Mapping[str, Strength | None], rule: PairRule
) -> list[PairVerdict]:
    """The verdict on every pair of sliders that act and move different attributes."""
    acting = {name: strength for name, strength in strengths.items() if strength is not None}
    targets = {name: composition.sliders[name].target for name in acting}
    alone = {name: composition.measured({name: strength.scale}) for name, strength in acting.items()}
    verdicts, pairs = [], pairs_of(targets)
    for number, (a, b) in enumerate(pairs, start=1):
        composition.stage.console.print(f"Pair {number} of {len(pairs)}: {a} + {b}.")
        pair = composition.measured({name: acting[name].scale for name in (a, b)})
        verdicts.append(pair_verdict((a, b), (targets[a], targets[b]), (alone[a], alone[b]), pair, rule))
    return verdicts


def many_figures(composition: Composition, config: ManyConfig, reference: Any) -> dict[int, dict[str, Measure]]:
    """What composing more and more sliders does, by their number."""
    stage = composition.stage
    order, signs = drawn_order(list(composition.sliders), config.seed)
    scales = {name: sign * config.scale for name, sign in zip(order, signs, strict=True)}
    judge = stage.judges.required_features if reference is not None else None
    original = None if judge is None else image_features(composition.gallery.base, 0.0, judge)
    target = None if judge is None else judge(build(reference, "reference.")).cpu()
    found: dict[int, dict[str, Measure]] = {}
    for count in config.counts:
        if count > len(order):
            raise InputError(f"Expected many.counts up to {len(order)}, the number of sliders, but got {count}.")
        chosen = {name: scales[name] for name in order[:count]}
        together = composition.measured(chosen)
        members = [
            _member(composition, chosen, name, signs[place])
            for place, name in enumerate(order[: config.measured])
            if name in chosen
        ]
        figures = {"own effect kept": kept_effect(members, together)}
        if (poor := poorly_drawn(together)) is not None:
            figures["share poorly drawn"] = poor
        if judge is not None and original is not None and target is not None:
            grid = composition.gallery.grid(composition.method(chosen), (1.0,))
            changes = set_changes(image_features(grid, 1.0, judge), original, target)
            figures |= {f"{name}, change": change for name, change in changes.items()}
        found[count] = figures
    return found


def _member(composition: Composition, chosen: Mapping[str, float], name: str, sign: int) -> Member:
    others = {other: scale for other, scale in chosen.items() if other != name}
    return Member(
        composition.sliders[name].target,
        sign,
        composition.measured({name: chosen[name]}),
        composition.measured(others) if others else None,
    )


def draw_many(composition: Composition, config: ManyConfig, folder: Path) -> None:
    """A strip: the same seeds under more and more sliders."""
    order, signs = drawn_order(list(composition.sliders), config.seed)
    columns = [composition.gallery.base.images(0.0, slice(STRIP_ROWS))]
    for count in config.counts:
        chosen = {name: sign * config.scale for name, sign in zip(order[:count], signs[:count], strict=True)}
        columns.append(composition.gallery.grid(composition.method(chosen), (1.0,)).images(1.0, slice(STRIP_ROWS)))
    rows = [f"seed {row.seed}" for row in composition.gallery.prompts.rows[:STRIP_ROWS]]
    labels = ["none", *(f"{count} sliders" for count in config.counts)]
    title = f"sliders of a drawn order, each at +{config.scale:g} or -{config.scale:g}"
    save_image(draw_strip(torch.stack(columns, dim=1), rows, labels, title), folder / "many.png")


@entry_point("paper/composition")
def main(config: dict[str, Any]) -> None:
    """Trains the sliders, composes them, and writes tables and figures; goes on where it was stopped."""
    stage = Stage(config, Console())
    composition = Composition(stage, config)
    rule: PairRule = build(config["pairs"], "pairs.")
    many: ManyConfig = build(config["many"], "many.")
    targets = {name: slider.target for name, slider in composition.paired.items()}
    kinds = {name: slider.kind for name, slider in composition.paired.items()}
    strengths = composition.strengths(rule)
    verdicts = pair_verdicts(composition, strengths, rule)
    tables: dict[str, Table] = {
        "strengths": strength_table(strengths, targets, rule),
        "pairs": pair_table(verdicts, kinds, rule),
        "faults": fault_table(verdicts),
    }
    found = many_figures(composition, many, config["reference"])
    features = stage.judges.required_features.name if config["reference"] is not None else "no features"
    tables["many"] = many_table(found, many.scale, features)
    run = stage.publish(tables, [], seeds={"images": composition.gallery.prompts.first_seed, "order": many.seed})
    records = {f"{count}/{name}": m for count, figures in found.items() for name, m in to_record(figures).items()}
    run.update_summary({**summary_of(verdicts), **records})
    save_figure(run.path, "pairs", pair_figure(verdicts, list(targets)))
    draw_many(composition, many, run.path)


if __name__ == "__main__":
    main()
