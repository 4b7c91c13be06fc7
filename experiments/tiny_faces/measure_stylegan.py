"""How good the world's StyleGAN generator is: G(z) beside the faces that z stands for, by the world's judges."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from evaluation.attributes import Attribute, Schema
from evaluation.judges.panel import EyeJudge, FeatureJudge, Judges
from evaluation.judges.perceptual import PerceptualDistance
from evaluation.judges.preprocess import check_images, in_batches
from evaluation.metrics.distribution import frechet_distance, kernel_distance
from experiments.tiny_faces.faces import Faces
from experiments.tiny_faces.measure_judges import HELD_OUT_SEED
from experiments.tiny_faces.render import render
from experiments.tiny_faces.stylegan.latent import faces_of
from experiments.tiny_faces.stylegan.networks import Generator

FACES = 1024
TRUNCATIONS = (1.0, 0.7)
BINS = 10
SHEET_COLUMNS, SHEET_ROWS = 12, 4


class PooledPerceptual:
    """The perceptual distance's unit-length activations, each stage's mean over its pixels, side by side.

    Each stage is scaled to a mean square of 1 over a pixel's channels, so that KID's kernel is not almost linear.
    Unlike CLIP's embeddings, which keep what captions name, they were trained on every attribute, on blur and on noise.

    Args:
        distance: whose activations.
    """

    def __init__(self, distance: PerceptualDistance) -> None:
        self.name = f"{distance.name} features"
        self.distance = distance

    def __call__(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n dim"]:
        """Features of images in [0, 1]."""
        check_images(images)
        return in_batches(self._pooled, images)

    def _pooled(self, images: Tensor) -> Tensor:
        stages = self.distance.features(images)
        return torch.cat([stage.mean((2, 3)) * math.sqrt(stage.shape[1]) for stage in stages], 1)


@dataclass(frozen=True)
class DrawnFaces:
    """Random z with the faces that they stand for, well drawn.

    Args:
        z: standard normal.
        faces: what z means.
        images: the rendered faces in [0, 1].
        eye_area: visible area of both eyes in pixels.
    """

    z: Float[Tensor, "n z_dim"]
    faces: Faces
    images: Float[Tensor, "n 3 size size"]
    eye_area: Float[Tensor, " n"]

    @classmethod
    def draw(cls, generator: Generator, count: int, seed: int) -> DrawnFaces:
        """`count` faces of the generator's size, a function of (count, seed)."""
        z = torch.randn(count, generator.z_dim, generator=torch.Generator().manual_seed(seed))
        faces = faces_of(z)
        rendering = render(faces, generator.img_resolution)
        return cls(z, faces, rendering.images, rendering.eye_area)


@torch.no_grad()
def measure_stylegan(
    generator: Generator, judges: Judges, reconstruct: Callable[[Tensor], Tensor], count: int = FACES
) -> tuple[dict[str, float], Float[Tensor, "images 3 size size"]]:
    """Measure G on `count` fresh z at truncation 1 and 0.7, the stored noise added.

    Every set of images meets the same `count` rendered faces of other z, so that its distances have three marks:
    `generated/psi_1` and `generated/psi_0.7`, `rendered` (the rendered faces of the same z: what a perfect generator
    would reach at truncation 1), and `reconstructed` (those after the VAE: what the diffusion model could reach).

    Args:
        generator: to measure.
        judges: of the world, with CLIP features.
        reconstruct: images in [0, 1] -> what the VAE gives back for them.
        count: faces of each set. FID and KID are only comparable over equal counts.

    Returns:
        Flat figures and the sheet. Below `stylegan/<set>/`: `<clip or perceptual>/fid` and `/kid`;
        `histogram/<attribute>`, see `histogram_distances`; `r2/<attribute>` and `accuracy/<attribute>` of the probe's
        readings against the meaning of z; `eye_area_error`, `eye_area_bias` and `eyes_found`, see `eye_figures`. The
        sheet has rows of `SHEET_COLUMNS` generated faces (truncation 1), each above the rendered faces of the same z.
    """
    drawn, others = (DrawnFaces.draw(generator, count, HELD_OUT_SEED + offset) for offset in (1, 2))
    sets = {f"generated/psi_{psi:g}": generated_images(generator, drawn.z, psi) for psi in TRUNCATIONS}
    first = next(iter(sets.values()))
    sets["rendered"] = drawn.images
    sets["reconstructed"] = in_batches(reconstruct, drawn.images).clamp(0, 1)
    reference = judges.classifier(others.images)
    figures: dict[str, float] = {"stylegan/faces": float(count)}
    for name, images in sets.items():
        found = set_distances(judges, images, others.images)
        readings = judges.classifier(images)
        distances = histogram_distances(judges.classifier.schema, readings, reference)
        found |= {f"histogram/{attribute}": value for attribute, value in distances.items()}
        found |= meaning_figures(judges.classifier.schema, readings, drawn.faces)
        if judges.parser is not None:
            found |= eye_figures(judges.parser, images, drawn.eye_area)
        figures |= {f"stylegan/{name}/{key}": float(f"{value:.5g}") for key, value in found.items()}
    return figures, sample_sheet(first, drawn.images)


@torch.no_grad()
def generated_images(
    generator: Generator, z: Float[Tensor, "n z_dim"], truncation_psi: float
) -> Float[Tensor, "n 3 size size"]:
    """G(z) in [0, 1] with the stored noise, as the style space renders it."""

    def images(z: Tensor) -> Tensor:
        return ((generator(z, truncation_psi=truncation_psi, noise_mode="const") + 1) / 2).clamp(0, 1)

    return in_batches(images, z)


def set_distances(judges: Judges, images: Tensor, reference: Tensor) -> dict[str, float]:
    """FID and KID of two sets of images in CLIP's features, and in the perceptual distance's where it is this one."""
    features: dict[str, FeatureJudge] = {"clip": judges.required_features}
    if isinstance(judges.distance, PerceptualDistance):
        features["perceptual"] = PooledPerceptual(judges.distance)
    figures: dict[str, float] = {}
    for name, read in features.items():
        sets = read(images), read(reference)
        figures[f"{name}/fid"] = float(frechet_distance(*sets))
        figures[f"{name}/kid"] = float(kernel_distance(*sets))
    return figures


def histogram_distances(
    schema: Schema, first: dict[str, Tensor], second: dict[str, Tensor], bins: int = BINS
) -> dict[str, float]:
    """Total variation between the histograms of two sets of readings, in [0, 1], per attribute.

    A continuous attribute has `bins` equal bins on [0, 1], the outer ones open; a class counts where it is the most
    probable. Two samples of one distribution differ too: by about sqrt(bins / (pi n)) at n readings each.
    """

    def shares(attribute: Attribute, reading: Tensor) -> Tensor:
        if attribute.kind == "class":
            counts = torch.bincount(reading.argmax(-1), minlength=attribute.width)
        else:
            counts = torch.bincount((reading * bins).long().clamp(0, bins - 1), minlength=bins)
        return counts.double() / len(reading)

    return {a.name: float((shares(a, first[a.name]) - shares(a, second[a.name])).abs().sum() / 2) for a in schema}


def meaning_figures(schema: Schema, readings: dict[str, Tensor], faces: Faces) -> dict[str, float]:
    """Accuracy of the most probable class and R2 of the continuous readings, against what z means."""
    figures: dict[str, float] = {}
    for attribute in schema:
        truth, reading = faces.values[attribute.name], readings[attribute.name]
        if attribute.kind == "class":
            figures[f"accuracy/{attribute.name}"] = float((reading.argmax(-1) == truth).float().mean())
        else:
            error = (reading - truth).square().mean() / truth.var(unbiased=False)
            figures[f"r2/{attribute.name}"] = float(1 - error)
    return figures


def eye_figures(parser: EyeJudge, images: Tensor, eye_area: Float[Tensor, " n"]) -> dict[str, float]:
    """Share of images with eyes and, over those, the relative error and bias of their area against the drawn one."""
    measured = parser.eye_area(images)
    found = measured.isfinite()
    figures = {"eyes_found": float(found.float().mean())}
    if found.any():
        measured, eye_area = measured[found], eye_area[found]
        figures["eye_area_error"] = float(((measured - eye_area).abs() / eye_area).mean())
        figures["eye_area_bias"] = float(measured.mean() / eye_area.mean() - 1)
    return figures


def sample_sheet(
    generated: Float[Tensor, "n 3 size size"], rendered: Float[Tensor, "n 3 size size"]
) -> Float[Tensor, "images 3 size size"]:
    """Rows of generated faces, each above the rendered faces of the same z."""
    count = min(len(generated), SHEET_COLUMNS * SHEET_ROWS)
    rows = zip(generated[:count].split(SHEET_COLUMNS), rendered[:count].split(SHEET_COLUMNS), strict=True)
    return torch.cat([images for row in rows for images in row])
