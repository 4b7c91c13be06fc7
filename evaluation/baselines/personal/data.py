"""The batches of a personalisation: latents of the training images, encoded once, and of the prior's beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor

from evaluation.baselines.personal.draws import Examples, ImageSet, draw_examples
from slider_lightning.backbone import Backbone
from slider_lightning.data import Cost, measured_cost
from slider_lightning.errors import InputError


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


class ExampleLoader:
    """The batches of a whole run: a pure function of (seed, step), so a resumed run goes on with the same ones.

    Args:
        sets: the concept's images, then the prior's if there are any.
        num_steps: how many batches.
        batch_size: rows of each set, of this process.
        seed: of all draws.
        num_train_timesteps: of the noise schedule.
        rank: number of this process.
        world_size: number of processes.
    """

    def __init__(
        self,
        sets: Sequence[ImageSet],
        *,
        num_steps: int,
        batch_size: int,
        seed: int,
        num_train_timesteps: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.sets = tuple(sets)
        self.num_steps = num_steps
        self.rows = range(rank * batch_size, (rank + 1) * batch_size)
        self.global_batch = batch_size * world_size
        self.seed = seed
        self.num_train_timesteps = num_train_timesteps
        self._next_step = 0

    def __len__(self) -> int:
        return self.num_steps

    def __iter__(self) -> Iterator[PersonalBatch]:
        while self._next_step < self.num_steps:
            self._next_step += 1
            yield self.batch(self._next_step - 1)

    def state_dict(self) -> dict[str, int]:
        """The step whose batch comes next."""
        return {"next_step": self._next_step}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Goes on where `state_dict` was taken."""
        self._next_step = state_dict["next_step"]

    def batch(self, step: int) -> PersonalBatch:
        """The batch of a step, whatever was asked for before."""
        draws = {
            "seed": self.seed,
            "rows": self.rows,
            "global_batch": self.global_batch,
            "num_train_timesteps": self.num_train_timesteps,
        }
        return PersonalBatch(*(draw_examples(images, step, **draws) for images in self.sets))  # type: ignore[arg-type]


class PersonalDataModule(L.LightningDataModule):
    """Encodes the images once, on the process's device.

    Args:
        backbone: the frozen model.
        images: what is trained on.
        batch_size: rows of one process in one step; a prior adds as many.
        seed: of the order of images, of prompts, timesteps and noise.

    Raises:
        InputError: if batch_size is below 1 or the seed below 0.
    """

    def __init__(self, backbone: Backbone, images: PersonalImages, *, batch_size: int, seed: int) -> None:
        super().__init__()
        for name, value, least in (("batch_size", batch_size, 1), ("seed", seed, 0)):
            if value < least:
                raise InputError(f"Expected {name} to be {least} or more, but got {value}; raise it.")
        self.backbone = backbone
        self.images = images
        self.batch_size = batch_size
        self.seed = seed
        self.sets: list[ImageSet] = []
        self.cost = Cost()

    def setup(self, stage: str) -> None:
        """Encodes the images; `cost` then tells what it took."""
        if not self.sets:
            assert self.trainer is not None
            self.backbone.to(self.trainer.strategy.root_device)
            with measured_cost(self.backbone) as self.cost:
                self.sets = self.images.encode(self.backbone)

    def train_dataloader(self) -> ExampleLoader:
        """The batches of the whole run, `max_steps` optimizer steps."""
        trainer = self.trainer
        assert trainer is not None
        return ExampleLoader(
            self.sets,
            num_steps=trainer.max_steps * trainer.accumulate_grad_batches,
            batch_size=self.batch_size,
            seed=self.seed,
            num_train_timesteps=self.backbone.scheduler.config.num_train_timesteps,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )
