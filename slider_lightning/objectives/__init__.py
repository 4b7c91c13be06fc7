"""The losses, as pure functions of tensors."""

from slider_lightning.config.objective import (
    DifferenceMask,
    ImagePairObjective,
    Projection,
    TextGuidance,
    TextObjective,
)
from slider_lightning.objectives.image_pairs import difference_weights, odd_targets, weighted_loss
from slider_lightning.objectives.posterior import posterior_weights
from slider_lightning.objectives.projection import least_squares_projection, project_out, symmetric_projection
from slider_lightning.objectives.text import PoleRows, both_poles, slider_direction, slider_target, text_direction

__all__ = [
    "DifferenceMask",
    "ImagePairObjective",
    "PoleRows",
    "Projection",
    "TextGuidance",
    "TextObjective",
    "both_poles",
    "difference_weights",
    "least_squares_projection",
    "odd_targets",
    "posterior_weights",
    "project_out",
    "slider_direction",
    "slider_target",
    "symmetric_projection",
    "text_direction",
    "weighted_loss",
]
