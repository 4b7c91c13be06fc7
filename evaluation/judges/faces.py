"""Where the face is: detection, and the crop that a face parser reads."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoModelForObjectDetection

from evaluation.judges.preprocess import check_images, in_batches
from evaluation.judges.pretrained import load_pretrained
from slider_lightning.errors import InputError

BATCH_SIZE = 8


class FaceDetector(nn.Module):
    """Crop boxes of faces, by any transformers object detection model that knows faces.

    Args:
        source: Folder of the model and its image processor, or a name on the hub.
        labels: Labels of the model that are faces, in any case; none means all, for a model that detects only faces.
        threshold: Least score of a detection, in [0, 1].
        margin: What the crop adds on each side of the face, as a share of the face's longer side.

    Raises:
        InputError: If the model is missing or damaged, has none of the labels, or a number is out of range.
    """

    def __init__(
        self,
        source: str | Path,
        labels: tuple[str, ...] = ("face",),
        threshold: float = 0.5,
        margin: float = 0.25,
    ) -> None:
        super().__init__()
        if not 0 <= threshold <= 1 or margin < 0:
            raise InputError(
                f"Expected a detector's threshold in [0, 1] and a margin of at least 0, but got {threshold} and "
                f"{margin}; change them."
            )
        self.name = str(source) if not Path(source).is_dir() else Path(source).name
        self.threshold = threshold
        self.margin = margin
        self.model, self.processor = load_pretrained(AutoModelForObjectDetection, source, "face detector")
        names: dict[int, str] = self.model.config.id2label
        wanted = {label.lower() for label in labels}
        self.face_classes = [int(index) for index, label in names.items() if not wanted or label.lower() in wanted]
        if not self.face_classes:
            raise InputError(
                f"Expected a detector with one of the labels {sorted(wanted)}, but {source} has "
                f"{sorted(names.values())[:10]}; name its label of faces."
            )

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 4"]:
        """Square crop box (x0, y0, x1, y1) of the largest face of each image in [0, 1], in whole pixels inside it.

        A row is NaN where no face was found.
        """
        check_images(images)
        return in_batches(self._crop_boxes, images, batch_size=BATCH_SIZE)

    def _crop_boxes(self, images: Tensor) -> Float[Tensor, "n 4"]:
        size = (images.shape[-2], images.shape[-1])
        device = next(self.model.parameters()).device
        inputs = self.processor(images=list(images), do_rescale=False, return_tensors="pt").to(device)
        found = self.processor.post_process_object_detection(
            self.model(**inputs), threshold=self.threshold, target_sizes=[size] * len(images)
        )
        return torch.stack([self._crop_box(image["boxes"].cpu(), image["labels"].cpu(), size) for image in found])

    def _crop_box(self, boxes: Float[Tensor, "found 4"], labels: Tensor, size: tuple[int, int]) -> Float[Tensor, "4"]:
        faces = boxes[torch.isin(labels, torch.tensor(self.face_classes))]
        if not len(faces):
            return torch.full((4,), torch.nan)
        areas = (faces[:, 2] - faces[:, 0]) * (faces[:, 3] - faces[:, 1])
        return square_box(faces[areas.argmax()], self.margin, size)


def square_box(box: Float[Tensor, "4"], margin: float, size: tuple[int, int]) -> Float[Tensor, "4"]:
    """The square around a box with a margin on each side, moved and at need shrunk to lie inside the image.

    Args:
        box: (x0, y0, x1, y1) in pixels.
        margin: As a share of the box's longer side.
        size: Height and width of the image.

    Example:
        >>> square_box(torch.tensor([10.0, 20.0, 30.0, 60.0]), 0.25, (100, 100))
        tensor([ 0., 10., 60., 70.])
    """
    height, width = size
    longer = float(torch.maximum(box[2] - box[0], box[3] - box[1]))
    side = min(max(round(longer * (1 + 2 * margin)), 1), height, width)
    left = min(max(round(float(box[0] + box[2]) / 2 - side / 2), 0), width - side)
    top = min(max(round(float(box[1] + box[3]) / 2 - side / 2), 0), height - side)
    return torch.tensor([left, top, left + side, top + side], dtype=torch.float32)


def crop(
    images: Float[Tensor, "n 3 h w"], boxes: Float[Tensor, "n 4"], size: tuple[int, int]
) -> Float[Tensor, "n 3 out_height out_width"]:
    """Cuts each image at its box and resizes the piece (bilinear, antialiased).

    Args:
        images: In [0, 1].
        boxes: (x0, y0, x1, y1) in whole pixels inside the images.
        size: Height and width of the result.
    """
    pieces = []
    for image, (x0, y0, x1, y1) in zip(images, boxes.int().tolist(), strict=True):
        piece = image[None, :, y0:y1, x0:x1]
        pieces.append(F.interpolate(piece, size=size, mode="bilinear", antialias=True).clamp(0, 1))
    return torch.cat(pieces)
