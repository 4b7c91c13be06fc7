"""The losses, as pure functions of tensors."""

from slider_lightning.objectives.text import PoleRows, TextObjective, slider_loss, slider_target

__all__ = ["PoleRows", "TextObjective", "slider_loss", "slider_target"]
