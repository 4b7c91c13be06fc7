"""How good the judges are, measured on rendered faces that no training has seen."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from evaluation.judges.panel import AttributeJudge, EyeJudge, ImageDistance, Judges
from experiments.tiny_faces.captions import tags
from experiments.tiny_faces.faces import Faces, class_index, sample_faces
from experiments.tiny_faces.judges.perceptual import make_triplet
from experiments.tiny_faces.render import render

HELD_OUT_SEED = 987_654_321
FACES = 1024


@torch.no_grad()
def measure_judges(
    judges: Judges, *, count: int = FACES, size: int = 64, reconstruct: Callable[[Tensor], Tensor] | None = None
) -> dict[str, float]:
    """The quality of the judges on `count` held-out faces.

    Args:
        judges: Whom to measure.
        count: Number of faces.
        size: Side of the images in pixels.
        reconstruct: Images in [0, 1] -> images in [0, 1], e.g. VAE encode-decode; every figure is then given again
            for reconstructed images, under "judges/reconstructed/".

    Returns:
        Flat figures: `judges/probe/r2/<attribute>`, `judges/probe/r2_well_drawn/<attribute>`,
        `judges/probe/accuracy/<attribute>`, `judges/parser/eye_area_error` (mean of |measured - true| / true),
        `judges/parser/eye_area_bias` (mean measured over mean true, minus 1), `judges/clip/caption_choice` (share of
        images whose own caption scores above the same caption with one tag changed), `judges/perceptual/order` (share
        of triplets in the right order).
    """
    faces = sample_faces(count, HELD_OUT_SEED, held_out=True)
    rendering = render(faces, size)
    figures = {"judges/faces": float(count)}
    figures |= measure_images(judges, faces, rendering.images, rendering.eye_area, "judges")
    if reconstruct is not None:
        rebuilt = torch.cat([reconstruct(rows) for rows in rendering.images.split(64)]).clamp(0, 1)
        figures |= measure_images(judges, faces, rebuilt, rendering.eye_area, "judges/reconstructed")
    return figures


def measure_images(judges: Judges, faces: Faces, images: Tensor, eye_area: Tensor, prefix: str) -> dict[str, float]:
    """All figures of one set of images, named below `prefix`."""
    figures = {f"probe/{name}": value for name, value in probe_quality(judges.classifier, faces, images).items()}
    if judges.parser is not None:
        quality = parser_quality(judges.parser, images, eye_area)
        figures |= {f"parser/{name}": value for name, value in quality.items()}
    figures["clip/caption_choice"] = caption_choice(judges, faces, images)
    figures["perceptual/order"] = perceptual_order(judges.distance, images)
    return {f"{prefix}/{name}": round(value, 5) for name, value in figures.items()}


def probe_quality(probe: AttributeJudge, faces: Faces, images: Tensor) -> dict[str, float]:
    """Accuracy of every class attribute; R2 of every continuous one, over all faces and over the well drawn alone.

    Bad drawing smears and displaces features, so part of their truth cannot be seen there.
    """
    readings = probe(images)
    well_drawn = faces.values["quality"] == class_index("quality", "well drawn")
    figures: dict[str, float] = {}
    for attribute in probe.schema:
        truth, reading = faces.values[attribute.name], readings[attribute.name]
        if attribute.kind == "class":
            figures[f"accuracy/{attribute.name}"] = float((reading.argmax(-1) == truth).float().mean())
        else:
            error = (reading - truth).square() / truth.var(unbiased=False)
            figures[f"r2/{attribute.name}"] = float(1 - error.mean())
            figures[f"r2_well_drawn/{attribute.name}"] = float(1 - error[well_drawn].mean())
    return figures


def parser_quality(parser: EyeJudge, images: Tensor, eye_area: Float[Tensor, " n"]) -> dict[str, float]:
    """Relative error and bias of the eye area."""
    measured = parser.eye_area(images)
    return {
        "eye_area_error": float(((measured - eye_area).abs() / eye_area).mean()),
        "eye_area_bias": float(measured.mean() / eye_area.mean() - 1),
    }


def caption_choice(judges: Judges, faces: Faces, images: Tensor) -> float:
    """Share of images that score higher with their own tags than with one tag taken from a different face."""
    columns = {name: values.tolist() for name, values in faces.values.items()}
    every = [tags({name: column[row] for name, column in columns.items()}) for row in range(len(faces))]
    own_texts, other_texts = [], []
    for row, own in enumerate(every):
        names = sorted(own)
        name = names[row % len(names)]
        other = next(t[name] for t in every[row + 1 :] + every[:row] if t.get(name, own[name]) != own[name])
        own_texts.append(", ".join(["a person", *own.values()]))
        other_texts.append(", ".join(["a person", *{**own, name: other}.values()]))
    own_scores = judges.clip.score(images, own_texts)
    return float((own_scores > judges.clip.score(images, other_texts)).float().mean())


def perceptual_order(perceptual: ImageDistance, images: Tensor) -> float:
    """Share of held-out triplets whose nearer image gets the smaller distance."""
    generator = torch.Generator().manual_seed(HELD_OUT_SEED)
    triplet = make_triplet(images, images.roll(1, 0), torch.zeros(len(images), 1), generator)
    near = perceptual(triplet.reference, triplet.near)
    return float((near < perceptual(triplet.reference, triplet.far)).float().mean())
