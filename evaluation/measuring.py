"""From the images of a grid to measurements, once per grid and panel of judges."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from evaluation.attributes import schema_labels, schema_to_json
from evaluation.grids import GridRow, ImageGrid, check_same_rows
from evaluation.judges.panel import Judges
from evaluation.measurements import ATTRIBUTE, Measurements, MeasurementsHeader, read_measurements
from slider_lightning.config import ROOT

# Part of the key, so that files of another layout are never taken for these.
LAYOUT_VERSION = 1
# At 1024 px the images of 32 rows take 400 MB per scale.
ROWS_AT_ONCE = 32


@dataclass(frozen=True)
class EditPrompts:
    """The two texts of a concept that CLIP compares images with.

    Args:
        positive: what the upper pole should show, e.g. "image of a person, very old".
        negative: what the lower pole should show.
    """

    positive: str
    negative: str


@dataclass(frozen=True)
class Examiner:
    """A panel of judges, ready to measure grids of one concept.

    Args:
        judges: who measures.
        judge_settings: the config that they were built from, part of what decides the readings.
        concept: name of the concept that the images should show.
        edit_prompts: the concept's texts for CLIP.
        model: name or folder of the diffusion model, for the record.
    """

    judges: Judges
    judge_settings: Mapping[str, Any]
    concept: str
    edit_prompts: EditPrompts
    model: str

    def measure(
        self, grid: ImageGrid, base: ImageGrid, progress: Callable[[int, int], None] | None = None
    ) -> Measurements:
        """The readings of all images of a grid and of the base images; read from the grid's folder when they are there.

        Args:
            grid: the images of a method, at scales other than 0.
            base: the images of the model itself, with the same prompts and seeds.
            progress: called as (images measured, all images).

        Raises:
            InputError: if the grids differ in prompts or seeds, or an image is missing or damaged.
        """
        check_same_rows(grid, base)
        path = grid.folder / f"measurements-{self._key(grid, base)}.jsonl"
        if path.is_file():
            return read_measurements(path)
        scales = tuple(sorted({0.0, *grid.scales}))
        settings = {"grid": grid.folder.name, "base": base.folder.name, **grid.settings}
        measurements = self.examine(
            grid.method,
            grid.rows,
            scales,
            lambda scale, rows: (base if scale == 0 else grid).images(scale, rows),
            settings,
            progress,
        )
        ids = {(cell.row.seed, cell.scale): cell.id for some in (base, grid) for cell in some.cells}
        places = zip(measurements.frame["seed"], measurements.frame["scale"], strict=True)
        measurements = replace(measurements, frame=measurements.frame.assign(id=[ids[place] for place in places]))
        measurements.write(path)
        return measurements

    def examine(
        self,
        method: str,
        rows: Sequence[GridRow],
        scales: Sequence[float],
        images: Callable[[float, slice], Float[Tensor, "some 3 h w"]],
        settings: Mapping[str, Any],
        progress: Callable[[int, int], None] | None = None,
    ) -> Measurements:
        """The readings of images that need not lie in a grid, some rows at a time.

        Args:
            method: what made them.
            rows: prompt, noun and seed of every row.
            scales: increasing, with 0, what distances and eyes are compared with, among them.
            images: gives the images of some rows at a scale, in [0, 1].
            settings: what else decides the readings, for the record.
            progress: called as (images measured, all images).
        """
        frames, total = [], len(rows) * len(scales)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            some = slice(start, min(start + ROWS_AT_ONCE, len(rows)))
            original = images(0.0, some)
            boxes = self.judges.parser.face_boxes(original) if self.judges.parser else None
            for scale in scales:
                edited = original if scale == 0 else images(scale, some)
                frames.append(_frame(rows, some, scale, self._readings(edited, original, boxes)))
                if progress is not None:
                    progress(sum(map(len, frames)), total)
        frame = pd.concat(frames).sort_values(["row", "scale"], kind="stable").reset_index(drop=True)
        return Measurements(self._header(method, scales, settings), frame)

    def _key(self, grid: ImageGrid, base: ImageGrid) -> str:
        """A hash of all that decides the readings of a grid: images, judges, texts and names."""
        weights = {r: weights_hash(j) for r, j in vars(self.judges).items() if isinstance(j, nn.Module)}
        images = [sorted(some.hashes.items()) for some in (grid, base)]
        texts = [self.concept, self.model, asdict(self.edit_prompts)]
        content = [LAYOUT_VERSION, dict(self.judge_settings), weights, texts, images]
        # Without the place of the installation, so that every machine finds the same name.
        text = json.dumps(content, sort_keys=True).replace(f"{ROOT}/", "")
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def _readings(
        self,
        images: Float[Tensor, "rows 3 h w"],
        original: Float[Tensor, "rows 3 h w"],
        boxes: Float[Tensor, "rows 4"] | None,
    ) -> dict[str, Tensor]:
        """Column to one number per image."""
        judges = self.judges
        columns = {
            "clip/positive": judges.clip.score(images, [self.edit_prompts.positive]),
            "clip/negative": judges.clip.score(images, [self.edit_prompts.negative]),
            "distance": judges.distance(original, images),
        }
        if judges.distance_native is not None:
            columns["distance_native"] = judges.distance_native(original, images)
        if judges.parser is not None:
            columns["eye_area"] = judges.parser.eye_area(images, boxes)
        readings = judges.classifier(images)
        values = torch.cat([readings[a.name].reshape(len(images), -1) for a in judges.classifier.schema], dim=1)
        labels = schema_labels(judges.classifier.schema)
        return columns | {f"{ATTRIBUTE}{label}": values[:, i] for i, label in enumerate(labels)}

    def _header(self, method: str, scales: Sequence[float], settings: Mapping[str, Any]) -> MeasurementsHeader:
        classifier = self.judges.classifier
        return MeasurementsHeader(
            method=method,
            concept=self.concept,
            model=self.model,
            judges=judge_names(self.judges),
            scales=tuple(scales),
            schema=schema_to_json(classifier.schema),
            std={name: values.tolist() for name, values in classifier.standard_deviations().items()},
            edit_prompts=asdict(self.edit_prompts),
            settings=dict(settings),
        )


def _frame(rows: Sequence[GridRow], some: slice, scale: float, readings: Mapping[str, Tensor]) -> pd.DataFrame:
    lines = [
        {
            "row": number,
            "id": f"{number}{scale:+}",
            "prompt": row.prompt,
            "noun": row.noun,
            "seed": row.seed,
        }
        for number, row in enumerate(rows[some], start=some.start)
    ]
    columns = {name: values.double().cpu().numpy() for name, values in readings.items()}
    return pd.DataFrame(lines).assign(scale=scale, **columns)


def judge_names(judges: Judges) -> dict[str, str]:
    """Role to printed name of every judge of a panel."""
    return {role: judge.name for role, judge in vars(judges).items() if judge is not None}


def weights_hash(judge: nn.Module) -> str:
    """SHA-256 of names and values of a network's weights."""
    digest = hashlib.sha256()
    for name, tensor in judge.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
