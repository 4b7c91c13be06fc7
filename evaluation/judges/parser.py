"""The face parser: a semantic segmentation of faces, and from it the area of the eyes."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoModelForSemanticSegmentation

from evaluation.judges.faces import FaceDetector, crop
from evaluation.judges.preprocess import check_images, in_batches, normalize
from evaluation.judges.pretrained import load_pretrained
from evaluation.judges.probe import processor_size
from slider_lightning.errors import InputError

EYE_LABELS = frozenset({"eye", "eyes", "l_eye", "r_eye", "left_eye", "right_eye"})


class FaceParser(nn.Module):
    """Eye area by any transformers semantic segmentation model whose labels name the eyes.

    An eye is found in an image where an eye is the most probable class of at least `min_eye_pixels` pixels. Without a
    detector the face is taken to fill the image.

    Args:
        source: Folder of the model and its image processor, or a name on the hub.
        detector: Finds the face that is cropped and parsed.
        min_eye_pixels: Pixels of the parsed picture that make an eye; 0 finds one everywhere.
        name: What records and tables call the judge; made from the sources by default.

    Raises:
        InputError: If the model is missing or damaged, or no label of it is one of EYE_LABELS.
    """

    def __init__(
        self,
        source: str | Path,
        detector: FaceDetector | None = None,
        min_eye_pixels: int = 1,
        name: str | None = None,
    ) -> None:
        super().__init__()
        self.model, processor = load_pretrained(AutoModelForSemanticSegmentation, source, "face parser")
        self.detector = detector
        self.min_eye_pixels = min_eye_pixels
        own_name = Path(source).name if Path(source).is_dir() else str(source)
        self.name = name or (f"{own_name} on the face found by {detector.name}" if detector else own_name)
        self.size = processor_size(processor)
        self.image_mean = list(processor.image_mean)
        self.image_std = list(processor.image_std)
        labels: dict[int, str] = self.model.config.id2label
        self.eye_classes = [int(index) for index, label in labels.items() if label.lower() in EYE_LABELS]
        if not self.eye_classes:
            raise InputError(
                f"Expected a segmentation model in {source} with one of the labels {sorted(EYE_LABELS)}, but it has "
                f"{sorted(labels.values())}; give a face parser."
            )
        self.eval().requires_grad_(False)

    def probabilities(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n classes h w"]:
        """Class probabilities per pixel of images in [0, 1], at the images' own resolution."""
        check_images(images)
        return in_batches(self._probabilities, images)

    def face_boxes(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 4"] | None:
        """Crop boxes (x0, y0, x1, y1) in pixels, NaN where no face was found; None without a detector."""
        return None if self.detector is None else self.detector(images)

    def eye_area(
        self, images: Float[Tensor, "n 3 h w"], boxes: Float[Tensor, "n 4"] | None = None
    ) -> Float[Tensor, " n"]:
        """Area of the eyes of each image in [0, 1], in pixels of that image; NaN where no eye was found.

        It is the sum of the eyes' probability over the pixels: a pixel that an eye covers by half counts as half,
        so small changes of an eye are not lost to the pixel grid.

        Args:
            images: In [0, 1].
            boxes: Where to look, as `face_boxes` gives them; by default the images' own. To compare an edited image
                with its original, give both the boxes of the original. A box of NaN gives NaN.
        """
        check_images(images)
        boxes = self.face_boxes(images) if boxes is None else boxes
        if boxes is None:
            return in_batches(self._eye_area, images)
        areas = torch.full((len(images),), torch.nan, device=images.device)
        rows = boxes.isfinite().all(1)
        if rows.any():
            areas[rows] = in_batches(self._eye_area_in_boxes, images[rows], boxes[rows].to(images.device))
        return areas

    def _eye_area_in_boxes(self, images: Tensor, boxes: Float[Tensor, "n 4"]) -> Float[Tensor, " n"]:
        pixels = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        share = self._eye_area(crop(images, boxes, self.size)) / (self.size[0] * self.size[1])
        return share.to(pixels.device) * pixels

    def _eye_area(self, images: Tensor) -> Float[Tensor, " n"]:
        probabilities = self._probabilities(images)
        eye_classes = torch.tensor(self.eye_classes, device=probabilities.device)
        count = torch.isin(probabilities.argmax(1), eye_classes).sum((1, 2))
        area = probabilities[:, self.eye_classes].sum((1, 2, 3))
        return area.where(count >= self.min_eye_pixels, torch.nan)

    def _probabilities(self, images: Tensor) -> Tensor:
        device = next(self.model.parameters()).device
        logits = self.model(normalize(images.to(device), self.size, self.image_mean, self.image_std)).logits.float()
        if logits.shape[-2:] != images.shape[-2:]:
            logits = F.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)
        return logits.softmax(1)
