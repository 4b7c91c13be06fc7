"""Transfer from StyleGAN: `python -m experiments.paper.transfer [experiment=stylegan_transfer]`."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from rich.console import Console

from evaluation.config import EvaluationConfig
from evaluation.grids import GridRow, SliderMethod
from evaluation.measurements import Measurements
from evaluation.measuring import EditPrompts, Examiner
from evaluation.report import save_figure
from evaluation.report.strips import slider_strip
from evaluation.statistics import to_record
from experiments.paper.stage import Stage
from experiments.paper.transfer_figure import transfer_figure
from experiments.paper.transfer_tables import by_prompts, similarities, similarity_table, summary, vector_table
from experiments.paper.transfer_vectors import effect_rows
from slider_lightning.config import build, typed
from slider_lightning.data.style_pairs import StyleGanPairs, WeightedChannel
from slider_lightning.entry import entry_point
from slider_lightning.errors import InputError
from slider_lightning.generation import ProgressCallback, draw_strip, save_image

METHOD = "stylegan_slider"
RENDERING = "StyleGAN rendering"
STRIP_ROWS = 6


@entry_point("paper/transfer")
def main(config: dict[str, Any]) -> None:
    """Trains the slider on the generator's pairs, measures what both do, and writes vectors, correlations, pictures."""
    stage = Stage(config, Console())
    experiment = typed(config["experiment"], str, "experiment")
    training = stage.compose("train", f"experiment={experiment}", *stage.overrides)
    settings: EvaluationConfig = build(training["evaluation"], "evaluation.")
    move = read_move(training["pairs"], typed(config["scales"], tuple[float, ...], "scales"))
    slider = stage.slider(experiment)
    examiner = stage.examiner(training["name"], EditPrompts(settings.edit_prompt, settings.opposite_prompt))
    first = typed(config["first_seed"], int, "first_seed")
    seeds = range(first, first + typed(config["faces"], int, "faces"))
    faces = move.measure(seeds, examiner)
    method = SliderMethod(METHOD, (str(slider.slider),))
    gallery = stage.gallery(typed(config["prompts"], str, "prompts"))
    images = gallery.measure(method, move.scales, examiner)
    target = settings.target
    tables = {
        "transfer": similarity_table(faces, images, target),
        "transfer_effects": vector_table(faces, images, move.words),
    }
    run = stage.publish(tables, [faces, images])
    gan = effect_rows(faces)
    found = {name: similarities(gan, effect_rows(some), target) for name, some in by_prompts(images).items()}
    run.update_summary(to_record(summary(found)))
    save_figure(run.path, "transfer", transfer_figure(faces, images, target))
    save_image(move.strip(seeds[:STRIP_ROWS]), run.path / "strip_stylegan.png")
    rows = range(0, len(images.rows), max(1, len(images.rows) // STRIP_ROWS))[:STRIP_ROWS]
    grid = gallery.grid(method, move.scales)
    strip = slider_strip(grid, gallery.base, rows, f"slider trained on pairs of {move.pairs.generator.name}")
    save_image(strip, run.path / "strip_slider.png")


class GeneratorMove:
    """What a training learned from: a generator, and how far some of its channels are moved at each slider scale.

    Args:
        pairs: the training's.
        scales: slider scales that are measured, each one of the pairs'.

    Raises:
        InputError: if the pairs have no images at a scale, the scales do not surround 0, or a channel does not exist.
    """

    def __init__(self, pairs: StyleGanPairs, scales: Sequence[float]) -> None:
        unknown = [scale for scale in scales if scale not in pairs.strengths]
        if unknown or not scales or not min(scales) < 0 < max(scales):
            raise InputError(
                f"Expected scales on both sides of 0 out of {sorted(pairs.strengths)}, those of pairs.strengths, but "
                f"got {list(scales)}; change scales."
            )
        self.pairs = pairs
        self.scales = tuple(sorted(scales))
        self.channels: tuple[WeightedChannel, ...] = pairs.channels.channels(pairs.generator)

    @property
    def words(self) -> str:
        """The channels and how far they go."""
        named = ", ".join(f"{channel.layer} {channel.channel} ({weight:+g})" for channel, weight in self.channels)
        strengths = ", ".join(f"{self.pairs.strengths[scale]:+g} at scale {scale:+g}" for scale in self.scales)
        return f"channel {named} by {strengths}, in deviations of the channel"

    def render(self, seeds: Sequence[int], scale: float) -> torch.Tensor:
        """Faces (n, 3, h, w) in [0, 1] at a slider scale; as they are at 0."""
        ws = self.pairs.generator.latents(seeds, self.pairs.truncation_psi)
        if scale == 0:
            return self.pairs.generator.render(ws)
        strength = self.pairs.strengths[scale]
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


def read_move(node: Any, scales: Sequence[float]) -> GeneratorMove:
    """The move of a training's node `pairs`.

    Raises:
        InputError: if the training learns from other images than a generator's, or as `GeneratorMove`.
    """
    pairs = build(node, "pairs.") if node else None
    if not isinstance(pairs, StyleGanPairs):
        raise InputError(
            "Expected an experiment that learns from pairs of a StyleGAN, but its pairs are others; choose "
            "experiment=stylegan_transfer or one like it."
        )
    return GeneratorMove(pairs, scales)


if __name__ == "__main__":
    main()
