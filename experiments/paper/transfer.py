"""Transfer from StyleGAN: `python -m experiments.paper.transfer [experiment=stylegan_transfer]`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hydra.utils import get_object
from PIL import Image
from rich.console import Console

from evaluation.attributes import Schema
from evaluation.config import EvaluationConfig
from evaluation.grids import GridRow, SliderMethod
from evaluation.judges.panel import Judges
from evaluation.measurements import Measurements
from evaluation.measuring import EditPrompts, Examiner
from evaluation.report import save_figure
from evaluation.report.strips import slider_strip
from evaluation.statistics import to_record
from evaluation.style_channels.effects import target_column
from experiments.paper.stage import Stage
from experiments.paper.transfer_figure import transfer_figure
from experiments.paper.transfer_tables import by_prompts, similarities, similarity_table, summary, vector_table
from experiments.paper.transfer_vectors import FEWEST_ENTRIES, effect_rows, entries_of, others
from slider_lightning.assets import sha256_file
from slider_lightning.config import TARGET, build, typed
from slider_lightning.data.style_pairs import StyleGanPairs, WeightedChannel, strength_levels
from slider_lightning.entry import entry_point
from slider_lightning.errors import InputError
from slider_lightning.generation import ProgressCallback, draw_strip, save_image
from slider_lightning.training import RunFolder

METHOD = "stylegan_slider"
RENDERING = "StyleGAN rendering"
STRIP_ROWS = 6


@dataclass(frozen=True)
class TransferPlan:
    """What is measured, as far as it is known before anything is trained.

    Args:
        pairs: the config node that the training's pairs are built from.
        scales: slider scales that are compared, ascending.
        seeds: of the generator's faces.
        target: the attribute that should move; None where the judges do not read it.
    """

    pairs: Mapping[str, Any]
    scales: tuple[float, ...]
    seeds: range
    target: str | None


@dataclass(frozen=True)
class GeneratorFaces:
    """What is left of a generator when its faces are measured: nothing that lies on a GPU.

    Args:
        name: of the generator.
        fingerprint: of its weights.
        words: what was moved.
        measurements: of the faces.
        strip: some of them.
    """

    name: str
    fingerprint: str
    words: str
    measurements: Measurements
    strip: Image.Image


@entry_point("paper/transfer")
def main(config: dict[str, Any]) -> None:
    """Trains the slider on the generator's pairs, measures what both do, and writes vectors, correlations, pictures."""
    stage = Stage(config, Console())
    experiment = typed(config["experiment"], str, "experiment")
    training = stage.compose("train", f"experiment={experiment}", *stage.overrides)
    settings: EvaluationConfig = build(training["evaluation"], "evaluation.")
    plan = read_plan(config, training["pairs"], settings.target, judged_schema(config))
    if plan.target != settings.target:
        stage.console.print(f"The judges do not read the target '{settings.target}': nothing is said about it.")
    slider = stage.slider(experiment).slider
    examiner = stage.examiner(training["name"], EditPrompts(settings.edit_prompt, settings.opposite_prompt))
    faces = measured_faces(plan, examiner)
    method = SliderMethod(METHOD, (str(slider),))
    gallery = stage.gallery(typed(config["prompts"], str, "prompts"))
    images = gallery.measure(method, plan.scales, examiner)
    run = stage.publish(
        {
            "transfer": similarity_table(faces.measurements, images, plan.target),
            "transfer_effects": vector_table(faces.measurements, images, faces.words),
        },
        [faces.measurements, images],
        seeds={"faces of the StyleGAN": plan.seeds.start, "images": gallery.prompts.first_seed},
        assets={faces.name: faces.fingerprint, f"slider {training['name']}": sha256_file(slider)},
    )
    write_figures(run, faces, images, plan.target)
    rows = range(0, len(images.rows), max(1, len(images.rows) // STRIP_ROWS))[:STRIP_ROWS]
    grid = gallery.grid(method, plan.scales)
    strip = slider_strip(grid, gallery.base, rows, f"slider trained on pairs of {faces.name}")
    save_image(strip, run.path / "strip_slider.png")


def write_figures(run: RunFolder, faces: GeneratorFaces, images: Measurements, target: str | None) -> None:
    """Writes the correlations to the summary, the figure of the effects, and the faces."""
    gan = effect_rows(faces.measurements)
    found = {name: similarities(gan, effect_rows(some), target) for name, some in by_prompts(images).items()}
    run.update_summary(to_record(summary(found)), replace="transfer/")
    save_figure(run.path, "transfer", transfer_figure(faces.measurements, images, target))
    save_image(faces.strip, run.path / "strip_stylegan.png")


def judged_schema(config: Mapping[str, Any]) -> Schema:
    """What the judges' classifier reads; the judges themselves are let go, since a training needs the room."""
    judges: Judges = build(config["judges"], "judges.")
    return judges.classifier.schema


def read_plan(
    config: Mapping[str, Any], pairs: Mapping[str, Any] | None, target: str | None, schema: Schema
) -> TransferPlan:
    """What will be measured. Opens no generator.

    Args:
        config: of this command.
        pairs: the training's node.
        target: the experiment's.
        schema: the attributes that the judges read.

    Raises:
        InputError: if the training learns from other images than a generator's, it has none at a scale, the judges
            read too little beside the target, or the target is a class that its attribute has not.
    """
    node = generator_pairs(pairs)
    strengths = typed(node.get("strengths"), dict[float, float] | None, "pairs.strengths")
    scales = compared_scales(strength_levels(strengths), typed(config["scales"], tuple[float, ...], "scales"))
    first, count = typed(config["first_seed"], int, "first_seed"), typed(config["faces"], int, "faces")
    if first < 0 or count < 2:
        raise InputError(
            f"Expected first_seed of 0 or more and 2 or more faces, but got {first} and {count}; raise them."
        )
    read = target if target and target.partition("=")[0] in {a.name for a in schema} else None
    if read:
        target_column(schema, read)
    entries = others(entries_of(schema), read)
    if len(entries) < FEWEST_ENTRIES:
        raise InputError(
            f"Expected judges that read {FEWEST_ENTRIES} or more attributes or classes beside the target, but got "
            f"{', '.join(entries) or 'none'}; choose other judges."
        )
    return TransferPlan(node, scales, range(first, first + count), read)


def generator_pairs(node: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """A training's node `pairs`, if it is a generator's.

    Raises:
        InputError: if the training learns from other images.
    """
    if not node or get_object(node[TARGET]) is not StyleGanPairs:
        raise InputError(
            "Expected an experiment that learns from pairs of a StyleGAN, but its pairs are others; choose "
            "experiment=stylegan_transfer or one like it."
        )
    return node


def compared_scales(levels: Sequence[tuple[float, float]], scales: Sequence[float]) -> tuple[float, ...]:
    """The scales in ascending order.

    Args:
        levels: scale and strength of every level of the pairs.
        scales: that are asked for.

    Raises:
        InputError: if the pairs have no images at one, or they do not surround 0.
    """
    known = [scale for scale, _ in levels]
    if not set(scales) <= set(known) or not scales or not min(scales) < 0 < max(scales):
        raise InputError(
            f"Expected scales on both sides of 0 out of {known}, those of pairs.strengths, but got {list(scales)}; "
            "change scales."
        )
    return tuple(sorted(scales))


def measured_faces(plan: TransferPlan, examiner: Examiner) -> GeneratorFaces:
    """Opens the generator, has its faces measured, and lets go of it and of whoever ranked its channels."""
    pairs: StyleGanPairs = build(plan.pairs, "pairs.")
    move = GeneratorMove(pairs, plan.scales)
    return GeneratorFaces(
        pairs.generator.name,
        pairs.generator.fingerprint,
        move.words,
        move.measure(plan.seeds, examiner),
        move.strip(plan.seeds[:STRIP_ROWS]),
    )


class GeneratorMove:
    """What a training learned from: a generator, and how far some of its channels are moved at each slider scale.

    Args:
        pairs: the training's.
        scales: slider scales that are measured, each one of the pairs'.

    Raises:
        InputError: as `compared_scales`, or if a channel does not exist.
    """

    def __init__(self, pairs: StyleGanPairs, scales: Sequence[float]) -> None:
        self.pairs = pairs
        self.scales = compared_scales(pairs.levels, scales)
        self.strengths = dict(pairs.levels)
        self.channels: tuple[WeightedChannel, ...] = pairs.channels.channels(pairs.generator)

    @property
    def words(self) -> str:
        """The channels and how far they go."""
        named = ", ".join(f"{channel.layer} {channel.channel} ({weight:+g})" for channel, weight in self.channels)
        strengths = ", ".join(f"{self.strengths[scale]:+g} at scale {scale:+g}" for scale in self.scales)
        return f"channel {named} by {strengths}, in deviations of the channel"

    def render(self, seeds: Sequence[int], scale: float) -> torch.Tensor:
        """Faces (n, 3, h, w) in [0, 1] at a slider scale; as they are at 0."""
        ws = self.pairs.generator.latents(seeds, self.pairs.truncation_psi)
        if scale == 0:
            return self.pairs.generator.render(ws)
        strength = self.strengths[scale]
        return self.pairs.generator.render(ws, {channel: strength * weight for channel, weight in self.channels})

    def measure(self, seeds: Sequence[int], examiner: Examiner) -> Measurements:
        """The readings of faces at every scale and at 0."""
        rows = [GridRow(RENDERING, RENDERING, seed) for seed in seeds]
        scales = (*(s for s in self.scales if s < 0), 0.0, *(s for s in self.scales if s > 0))
        with ProgressCallback("judging faces of the StyleGAN") as progress:
            return examiner.examine(
                "stylegan",
                rows,
                scales,
                lambda scale, some: self.render(seeds[some], scale),
                {"moved": self.words, "truncation_psi": self.pairs.truncation_psi},
                progress,
            )

    def strip(self, seeds: Sequence[int]) -> Image.Image:
        """Some faces at every scale."""
        scales = sorted({0.0, *self.scales})
        images = torch.stack([self.render(seeds, scale) for scale in scales], dim=1).cpu()
        title = f"{self.pairs.generator.name}: {self.words}"
        return draw_strip(images, [f"seed {seed}" for seed in seeds], scales, title)


if __name__ == "__main__":
    main()
