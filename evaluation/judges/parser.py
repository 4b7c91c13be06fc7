"""The face parser: a semantic segmentation of faces, and from it the area of the eyes."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

from evaluation.judges.preprocess import check_images, in_batches, normalize
from evaluation.judges.probe import processor_size
from slider_lightning.assets import verify_folder
from slider_lightning.errors import InputError

EYE_LABELS = frozenset({"eye", "eyes", "l_eye", "r_eye", "left_eye", "right_eye"})


class FaceParser(nn.Module):
    """Eye area by any transformers semantic segmentation model whose labels name the eyes.

    Args:
        folder: Folder of the model and its image processor.

    Raises:
        InputError: If the folder is missing or damaged, or no label of the model is one of EYE_LABELS.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        folder = Path(folder)
        verify_folder(folder)
        self.model = AutoModelForSemanticSegmentation.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32
        )
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        self.size = processor_size(processor)
        self.image_mean = list(processor.image_mean)
        self.image_std = list(processor.image_std)
        labels: dict[int, str] = self.model.config.id2label
        self.eye_classes = [int(index) for index, label in labels.items() if label.lower() in EYE_LABELS]
        if not self.eye_classes:
            raise InputError(
                f"Expected a segmentation model in {folder} with one of the labels {sorted(EYE_LABELS)}, but it has "
                f"{sorted(labels.values())}; give a face parser."
            )
        self.eval().requires_grad_(False)

    def probabilities(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n classes h w"]:
        """Class probabilities per pixel of images in [0, 1], at the images' own resolution."""
        check_images(images)
        return in_batches(self._probabilities, images)

    def eye_area(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
        """Area of the eyes of each image in [0, 1], in pixels of that image.

        It is the sum of the eyes' probability over the pixels: a pixel that an eye covers by half counts as half,
        so small changes of an eye are not lost to the pixel grid.
        """
        check_images(images)
        return in_batches(lambda rows: self._probabilities(rows)[:, self.eye_classes].sum((1, 2, 3)), images)

    def _probabilities(self, images: Tensor) -> Tensor:
        device = next(self.model.parameters()).device
        logits = self.model(normalize(images.to(device), self.size, self.image_mean, self.image_std)).logits.float()
        if logits.shape[-2:] != images.shape[-2:]:
            logits = F.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)
        return logits.softmax(1)
