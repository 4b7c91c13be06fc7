"""The batches of a personalisation: latents of the training images, encoded once, and of the prior's beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from evaluation.baselines.personal.draws import Examples, ImageSet, draw_examples
from slider_lightning.backbone import Backbone
from slider_lightning.data import Share, StepDataModule, StepLoader


@dataclass(frozen=True)
class PersonalBatch:
    """One step of one process.

    Args:
        concept: rows of the training images, prompted with the token.
        prior: as many rows of the prior's images, without it; None where no prior is kept.
    """

    concept: Examples
    prior: Examples | None = None

    def to(self, device: torch.device, non_blocking: bool = False) -> PersonalBatch:
        """The same batch on a device; Lightning calls it."""
        prior = None if self.prior is None else self.prior.to(device, non_blocking)
        return PersonalBatch(self.concept.to(device, non_blocking), prior)


@dataclass(frozen=True)
class PersonalImages:
    """What is trained on.

    Args:
        images: training images in [0, 1].
        prompts: with the token; one is drawn for every use of an image.
        flip: mirror every other image at random.
        prior: the prior's images in [0, 1]; never mirrored.
        prior_prompt: the class prompt.

    Raises:
        ValueError: if prior images lack their prompt.
    """

    images: Float[Tensor, "n 3 height width"]
    prompts: tuple[str, ...]
    flip: bool = False
    prior: Float[Tensor, "m 3 height width"] | None = None
    prior_prompt: str | None = None

    def __post_init__(self) -> None:
        if (self.prior is None) != (self.prior_prompt is None):
            raise ValueError("Expected the prior's images and its prompt together.")

    def encode(self, backbone: Backbone) -> list[ImageSet]:
        """Latents in main memory: of the training images, then of the prior's if there are any."""
        variants = [self.images, self.images.flip(-1)] if self.flip else [self.images]
        latents = torch.stack([backbone.encode_images(images).cpu() for images in variants], dim=1)
        sets = [ImageSet(latents, self.prompts)]
        if self.prior is not None and self.prior_prompt is not None:
            sets.append(ImageSet(backbone.encode_images(self.prior).cpu()[:, None], (self.prior_prompt,), stream=1))
        return sets


class ExampleLoader(StepLoader[PersonalBatch]):
    """The batches of a whole run: a pure function of (seed, step), so a resumed run goes on with the same ones.

    Args:
        sets: the concept's images, then the prior's if there are any.
        num_steps: how many batches.
        share: this process's part; its rows are of each set.
        seed: of all draws.
        num_train_timesteps: of the noise schedule.
    """

    def __init__(
        self, sets: Sequence[ImageSet], *, num_steps: int, share: Share, seed: int, num_train_timesteps: int
    ) -> None:
        super().__init__(num_steps)
        self.sets = tuple(sets)
        self.share = share
        self.seed = seed
        self.num_train_timesteps = num_train_timesteps

    def batch(self, step: int) -> PersonalBatch:
        """The batch of a step, whatever was asked for before."""
        draws = {
            "seed": self.seed,
            "rows": range(self.share.global_batch)[self.share.mine],
            "global_batch": self.share.global_batch,
            "num_train_timesteps": self.num_train_timesteps,
        }
        return PersonalBatch(*(draw_examples(images, step, **draws) for images in self.sets))  # type: ignore[arg-type]


class PersonalDataModule(StepDataModule):
    """Encodes the images once, on the process's device.

    Args:
        backbone: the frozen model.
        images: what is trained on.
        batch_size: rows of one process in one step; a prior adds as many.
        seed: of the order of images, of prompts, timesteps and noise.

    Raises:
        InputError: if batch_size is below 1 or the seed below 0.
    """

    sets: list[ImageSet]

    def __init__(self, backbone: Backbone, images: PersonalImages, *, batch_size: int, seed: int) -> None:
        super().__init__(backbone, batch_size=batch_size, seed=seed)
        self.images = images

    def make_ready(self) -> None:
        """Encodes the images."""
        self.sets = self.images.encode(self.backbone)

    def loader(self, num_steps: int, share: Share) -> ExampleLoader:
        """The batches of a run for one process."""
        steps = self.backbone.scheduler.config.num_train_timesteps
        return ExampleLoader(self.sets, num_steps=num_steps, share=share, seed=self.seed, num_train_timesteps=steps)
