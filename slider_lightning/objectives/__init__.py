"""The losses, as pure functions of tensors."""

from slider_lightning.objectives.posterior import posterior_weights
from slider_lightning.objectives.projection import Projection, least_squares_projection, symmetric_projection
from slider_lightning.objectives.text import PoleRows, TextObjective, slider_direction, slider_loss, slider_target

__all__ = [
    "PoleRows",
    "Projection",
    "TextObjective",
    "least_squares_projection",
    "posterior_weights",
    "slider_direction",
    "slider_loss",
    "slider_target",
    "symmetric_projection",
]
