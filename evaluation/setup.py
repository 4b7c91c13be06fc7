"""From a checked config to what measures: the settings, the grids and the judges of one evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.config import EvaluationConfig
from evaluation.gallery import Gallery
from evaluation.grids import Method
from evaluation.judges.panel import Judges
from evaluation.measurements import Measurements
from evaluation.measures import check_request
from evaluation.measuring import EditPrompts, Examiner
from slider_lightning.backbone import Backbone
from slider_lightning.config import build


@dataclass(frozen=True)
class Setup:
    """One evaluation, ready to run.

    Args:
        settings: what is measured.
        gallery: the image grids.
        examiner: the judges.
    """

    settings: EvaluationConfig
    gallery: Gallery
    examiner: Examiner

    def measure(self, method: Method) -> Measurements:
        """The readings of a method's images at the settings' scales.

        Raises:
            InputError: if the method cannot make the images, or one is missing or damaged.
        """
        return self.gallery.measure(method, self.settings.scales, self.examiner)


def build_setup(config: Mapping[str, Any]) -> Setup:
    """The evaluation that the sections "model", "sampler", "evaluation", "judges" and "concept" of a config describe.

    Raises:
        InputError: if the model or a judge is missing or damaged, or the judges cannot measure what is asked for.
    """
    settings: EvaluationConfig = build(config["evaluation"], "evaluation.")
    judges: Judges = build(config["judges"], "judges.")
    check_request(judges.classifier.schema, settings.scales, settings.target, settings.protected)
    backbone: Backbone = build(config["model"], "model.")
    sampler = build(config["sampler"], "sampler.")
    gallery = Gallery(backbone, settings.prompts, sampler, Path(settings.grids), settings.batch_size)
    texts = EditPrompts(settings.edit_prompt, settings.opposite_prompt)
    judges.to(backbone.device)
    return Setup(settings, gallery, Examiner(judges, config["judges"], config["concept"]["name"], texts, backbone.name))
