"""The attribute probe: an image classifier whose outputs are the labels of a schema of attributes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, PretrainedConfig

from evaluation.attributes import Schema, schema_from_json, schema_labels, schema_slices, schema_to_json
from evaluation.judges.preprocess import check_images, in_batches, normalize
from slider_lightning.assets import verify_folder
from slider_lightning.errors import InputError


class AttributeProbe(nn.Module):
    """Reads every attribute of an image.

    The model is any transformers image classifier with one output per label of the schema: a continuous attribute
    is regressed in standard units of the world, a class attribute is a softmax over its labels.

    Args:
        model: The classifier; called with normalized images, its `.logits` are (n, labels).
        schema: What the outputs mean.
        mean: Mean of each label over the world; for a class its share.
        std: Standard deviation of each label over the world; for a class that of its indicator.
        size: Height and width in pixels that the model reads.
        image_mean: Mean per colour channel that the model was trained with.
        image_std: Standard deviation per colour channel that the model was trained with.
        name: What records and tables call it.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        schema: Schema,
        mean: Tensor,
        std: Tensor,
        size: tuple[int, int],
        image_mean: list[float],
        image_std: list[float],
        name: str,
    ) -> None:
        super().__init__()
        self.model = model
        self.name = name
        self.schema = schema
        self.size = size
        self.image_mean = image_mean
        self.image_std = image_std
        self.register_buffer("mean", mean.float())
        self.register_buffer("std", std.float())

    def standard_deviations(self) -> dict[str, Tensor]:
        """Per attribute the world's standard deviation of each of its labels, (1,) or (classes,)."""
        return {name: self.std[columns] for name, columns in schema_slices(self.schema).items()}

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> dict[str, Tensor]:
        """Measures images.

        Args:
            images: In [0, 1], of any size.

        Returns:
            Per attribute (n,) values in the world's units if it is continuous, (n, classes) probabilities if not.
        """
        check_images(images)
        logits = in_batches(self._logits, images)
        return decode_logits(logits, self.schema, self.mean.to(logits.device), self.std.to(logits.device))

    def _logits(self, images: Tensor) -> Tensor:
        pixels = normalize(images.to(self.mean.device), self.size, self.image_mean, self.image_std)
        logits: Tensor = self.model(pixels).logits
        return logits.float()


def decode_logits(logits: Float[Tensor, "n labels"], schema: Schema, mean: Tensor, std: Tensor) -> dict[str, Tensor]:
    """Outputs of the network as values (continuous attributes) and probabilities (classes)."""
    readings: dict[str, Tensor] = {}
    slices = schema_slices(schema)
    for attribute in schema:
        columns = slices[attribute.name]
        if attribute.kind == "continuous":
            readings[attribute.name] = (logits[:, columns] * std[columns] + mean[columns])[:, 0]
        else:
            readings[attribute.name] = logits[:, columns].softmax(-1)
    return readings


def set_probe_config(config: PretrainedConfig, schema: Schema, mean: Tensor, std: Tensor) -> None:
    """Writes the meaning of the outputs into a classifier's config: label names, schema, the world's statistics."""
    labels = schema_labels(schema)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    config.update(
        {
            "attributes": schema_to_json(schema),
            "label_mean": [round(float(value), 6) for value in mean],
            "label_std": [round(float(value), 6) for value in std],
        }
    )


def load_probe(folder: str | Path, name: str) -> AttributeProbe:
    """Loads a probe from a transformers folder, in fp32 and frozen.

    Args:
        folder: Folder of the model and its image processor, with a `hashes.json`.
        name: What records and tables call the judge.

    Raises:
        InputError: If the folder is missing or damaged or its config does not describe the outputs.
    """
    folder = Path(folder)
    verify_folder(folder)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    entries = getattr(config, "attributes", None)
    if not entries:
        raise InputError(
            f"Expected {folder / 'config.json'} to list its attributes, but it is the config of another model; "
            "give the folder of an attribute probe."
        )
    schema = schema_from_json(entries)
    labels = tuple(config.id2label[index] for index in sorted(config.id2label))
    if labels != schema_labels(schema) or not len(labels) == len(config.label_mean) == len(config.label_std):
        raise InputError(
            f"Expected the labels in {folder / 'config.json'} to follow its attributes; rebuild the probe."
        )
    model = AutoModelForImageClassification.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    probe = AttributeProbe(
        model,
        schema,
        torch.tensor(config.label_mean),
        torch.tensor(config.label_std),
        processor_size(processor),
        list(processor.image_mean),
        list(processor.image_std),
        name,
    )
    return probe.eval().requires_grad_(False)


def processor_size(processor: Any) -> tuple[int, int]:
    """Height and width that a transformers image processor resizes to."""
    size = processor.size
    edge = size.get("shortest_edge")
    return (int(size.get("height", edge)), int(size.get("width", edge)))
