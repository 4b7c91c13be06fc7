"""The losses, as pure functions of tensors."""

from slider_lightning.objectives.image_pairs import (
    DifferenceMask,
    ImagePairObjective,
    TextGuidance,
    difference_weights,
    odd_targets,
    weighted_loss,
)
from slider_lightning.objectives.posterior import posterior_weights
from slider_lightning.objectives.projection import Projection, least_squares_projection, symmetric_projection
from slider_lightning.objectives.text import PoleRows, TextObjective, slider_direction, slider_loss, slider_target

__all__ = [
    "DifferenceMask",
    "ImagePairObjective",
    "PoleRows",
    "Projection",
    "TextGuidance",
    "TextObjective",
    "difference_weights",
    "least_squares_projection",
    "odd_targets",
    "posterior_weights",
    "slider_direction",
    "slider_loss",
    "slider_target",
    "symmetric_projection",
    "weighted_loss",
]
