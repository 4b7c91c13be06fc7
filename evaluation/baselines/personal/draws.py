"""Which images a training step uses, under which prompts, at which noise: pure functions of (seed, step, row)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

# Keep these draws apart from each other, and the prior's from the concept's.
_ORDER_STREAM, _ROW_STREAM = 11, 12


@dataclass(frozen=True)
class ImageSet:
    """Images that are trained on, and what the prompts say of them.

    Args:
        latents: as the backbone encodes them; the second variant, where there is one, is of the mirrored images.
        prompts: one is drawn for every use of an image.
        stream: tells the draws of several sets of one training apart.
    """

    latents: Float[Tensor, "images variants 4 h w"]
    prompts: tuple[str, ...]
    stream: int = 0


@dataclass(frozen=True)
class Examples:
    """Rows of one training step.

    Args:
        latents: clean.
        noise: standard normal.
        timestep: 0 .. num_train_timesteps - 1.
        prompts: one per row.
    """

    latents: Float[Tensor, "batch 4 h w"]
    noise: Float[Tensor, "batch 4 h w"]
    timestep: Int[Tensor, " batch"]
    prompts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.latents)

    def to(self, device: torch.device, non_blocking: bool = False) -> Examples:
        """The same rows on a device."""
        tensors = (self.latents, self.noise, self.timestep)
        latents, noise, timestep = (tensor.to(device, non_blocking=non_blocking) for tensor in tensors)
        return Examples(latents, noise, timestep, self.prompts)

    @staticmethod
    def cat(parts: Sequence[Examples]) -> Examples:
        """Rows of several batches, one after the other."""
        latents, noise, timestep = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("latents", "noise", "timestep")
        )
        return Examples(latents, noise, timestep, tuple(prompt for part in parts for prompt in part.prompts))


def draw_examples(
    images: ImageSet, step: int, *, seed: int, rows: range, global_batch: int, num_train_timesteps: int
) -> Examples:
    """Some rows of a step's global batch.

    Joined over processes, a step's rows are those of one process with the whole batch. Images come in a new random
    order every epoch, so each is used once before any is used again; timestep, prompt, mirroring and noise of a row are
    drawn from (seed, step, row).

    Args:
        images: what is drawn from.
        step: number of the batch, from 0.
        seed: of everything.
        rows: which rows of the global batch.
        global_batch: rows of the batch over all processes.
        num_train_timesteps: of the model's noise schedule.
    """
    drawn = []
    for row in rows:
        rng = np.random.default_rng([seed, _ROW_STREAM, images.stream, step, row])
        index = _image_index(images, step * global_batch + row, seed)
        latents = images.latents[index, int(rng.integers(images.latents.shape[1]))]
        prompt = images.prompts[int(rng.integers(len(images.prompts)))]
        timestep = torch.tensor([int(rng.integers(num_train_timesteps))])
        noise = torch.from_numpy(rng.standard_normal(latents.shape, dtype=np.float32))
        drawn.append(Examples(latents[None], noise[None], timestep, (prompt,)))
    return Examples.cat(drawn)


def _image_index(images: ImageSet, use: int, seed: int) -> int:
    epoch, place = divmod(use, len(images.latents))
    order = np.random.default_rng([seed, _ORDER_STREAM, images.stream, epoch]).permutation(len(images.latents))
    return int(order[place])
