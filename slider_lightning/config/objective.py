"""What a slider learns: the text objective (eq. 3 and 4) and the image-pair objective (eq. 6), with their settings."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from slider_lightning.config.base import Settings, setting
from slider_lightning.errors import InputError

Reduction = Literal["sum", "mean", "posterior"]
Mode = Literal["enhance", "erase"]


class Projection(Settings):
    """Which concepts are taken out of the direction eps(c+) - eps(c-), and how."""

    contrasts: tuple[tuple[str, str], ...] = setting(
        ..., 'Pairs of prompts that differ in a protected concept alone, e.g. ["a person, male", "a person, female"].'
    )
    method: Literal["symmetric", "least_squares"] = setting(
        "symmetric", "Loewdin's orthogonalisation, or least squares."
    )
    strength: float = setting(1.0, "Share of the component that least squares takes out; 1 with symmetric.", ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Projection:
        if not self.contrasts:
            raise InputError(
                "Expected at least one pair in objective.project.contrasts, but got none; set project=null."
            )
        for positive, negative in self.contrasts:
            if not positive.strip() or not negative.strip() or positive == negative:
                raise InputError(
                    f"Expected two different prompts in every pair of objective.project.contrasts, but got "
                    f"{positive!r} and {negative!r}; change one."
                )
        if self.method == "symmetric" and self.strength != 1:
            raise InputError(
                f"Expected objective.project.strength to be 1 with the symmetric method, but got {self.strength}; "
                "leave it out, or set objective.project.method=least_squares."
            )
        return self


class TextObjective(Settings):
    """Eq. 4 (eq. 3 where the concept preserves nothing) at both poles, and the projection that goes beyond it."""

    kind: Literal["text"] = "text"
    eta: float = setting(
        1.0,
        "Strength of the edit in the training target.",
        gt=0,
        hint="to turn the concept down, keep eta above 0 and set objective.mode=erase",
    )
    reduction: Reduction = setting(
        "mean",
        'Over the preserved phrases: "sum" as published, "mean", or "posterior", weighted by what a state shows.',
    )
    mode: Mode = setting("enhance", '"erase" turns the direction round.')
    project: Projection | None = setting(None, "What is taken out of the direction; null leaves it as eq. 4 has it.")

    @property
    def contrasts(self) -> tuple[tuple[str, str], ...]:
        """The pairs of prompts whose scores the direction needs beside those of the concept."""
        return self.project.contrasts if self.project else ()


class DifferenceMask(Settings):
    """Weights of the loss by where the images of a pair differ."""

    floor: float = setting(0.1, "Weight where the images agree, against 1 where they differ most.", gt=0, le=1)
    blur: float = setting(1.0, "Deviation of the Gaussian that spreads the difference.", unit="latent pixels", ge=0)


class TextGuidance(Settings):
    """Eq. 4 at the pairs' own states, beside eq. 6."""

    weight: float = setting(1.0, "Weight of its loss beside that of the pairs.", gt=0)
    objective: TextObjective = setting(TextObjective, "Settings of eq. 4.")

    @model_validator(mode="after")
    def _consistent(self) -> TextGuidance:
        if self.objective.project is not None:
            raise InputError("Expected objective.text without a projection, but it names contrasts; set project=null.")
        return self


class ImagePairObjective(Settings):
    """Eq. 6: pairs at both signs, two trained predictions per pair and nothing else unless asked for."""

    kind: Literal["image_pairs"] = "image_pairs"
    prompt: str | None = setting(None, "What the model is told in training; null is its unconditional embedding.")
    anchor: bool = setting(
        False, "Train towards the part of the noise that a slider can answer; costs a frozen prediction per row."
    )
    mask: DifferenceMask | None = setting(None, "Weigh the loss by where the pairs differ; null weighs all alike.")
    text: TextGuidance | None = setting(None, "Eq. 4 beside eq. 6; null leaves it out.")
