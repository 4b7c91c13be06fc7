"""Batches of twins: the same noise and timestep on both sides, both signs in one batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from jaxtyping import Float, Int
from torch import Tensor

from slider_lightning.backbone import Backbone, ddim_scheduler, initial_noise
from slider_lightning.data.draws import shuffled
from slider_lightning.data.pairs.latents import LatentTwins, encode_twins
from slider_lightning.data.pairs.sources import Twins
from slider_lightning.data.steps import Share, StepDataModule, StepLoader, sent
from slider_lightning.errors import InputError
from slider_lightning.objectives import DifferenceMask, difference_weights

PREDICTED = ("epsilon", "v_prediction")
# Keep these draws apart from each other and from those of states where seed and number are the same.
_BUCKET_STREAM, _LEVEL_STREAM, _TIMESTEP_STREAM, _NOISE_STREAM, _LATENT_STREAM = 11, 12, 13, 14, 15


@dataclass(frozen=True)
class PairsConfig:
    """How twins become training rows.

    Args:
        first_timestep: lowest training timestep, 0..999.
        last_timestep: highest one, or 1000 for all; above the sampler's start_timestep the slider is off anyway.
        sample_latents: draw the latents from the VAE's posterior, the twins alike, instead of taking its mean.
        background: colour that transparent pictures are laid on, any that Pillow knows.

    Raises:
        InputError: unless 0 <= first_timestep <= last_timestep <= 1000 and first_timestep < 1000.
    """

    first_timestep: int = 0
    last_timestep: int = 750
    sample_latents: bool = False
    background: str = "white"

    def __post_init__(self) -> None:
        if not 0 <= self.first_timestep <= self.last_timestep <= 1000 or self.first_timestep == 1000:
            raise InputError(
                f"Expected 0 <= data.source.first_timestep <= data.source.last_timestep <= 1000, but got "
                f"{self.first_timestep} and {self.last_timestep}; change them."
            )


@dataclass(frozen=True)
class PairBatch:
    """Noised twins in rows: the first half of the batch the lower scales, the second half their twins of higher scale.

    Args:
        latents: x_t.
        target: what eq. 6 wants predicted there: the noise, or the velocity where the checkpoint predicts it.
        timestep: 0..999; twins share it, and the noise.
        scale: signed slider scale of every row, in main memory: the bank plans the forward by it.
        time_ids: SDXL's size conditioning.
        weights: of the loss's pixels; None where there is no mask.
    """

    latents: Float[Tensor, "rows 4 h w"]
    target: Float[Tensor, "rows 4 h w"]
    timestep: Int[Tensor, " rows"]
    scale: Float[Tensor, " rows"]
    time_ids: Float[Tensor, "rows 6"]
    weights: Float[Tensor, "rows 1 h w"] | None = None

    def __len__(self) -> int:
        return len(self.latents)

    def to(self, device: torch.device, **_: object) -> PairBatch:
        """The same batch on a device; Lightning calls it."""
        moved = {name: sent(tensor, device) for name, tensor in self._tensors().items() if name != "scale"}
        return replace(self, **moved)

    def active(self) -> PairBatch:
        """The rows whose scale is not 0: at 0 a slider changes nothing, so nothing can be learned there."""
        rows = self.scale.nonzero().flatten()
        if len(rows) == len(self):
            return self
        return replace(self, **{name: tensor[rows.to(tensor.device)] for name, tensor in self._tensors().items()})

    def _tensors(self) -> dict[str, Tensor]:
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in named.items() if tensor is not None}


def level_pairs(scales: Sequence[float]) -> tuple[tuple[int, int], ...]:
    """Which levels of one thing are trained together: those on two sides of 0 where there are any, else any two.

    Args:
        scales: ascending and distinct, at least 2.

    Returns:
        (index of the lower, index of the higher) of every choice.

    Example:
        >>> level_pairs((-2.0, -1.0, 1.0))
        ((0, 2), (1, 2))
    """
    choices = tuple(itertools.combinations(range(len(scales)), 2))
    across = tuple((low, high) for low, high in choices if scales[low] < 0 < scales[high])
    return across or choices


class PairLoader(StepLoader[PairBatch]):
    """The batches of a run. A batch holds twins of one size; sizes take turns by how many twins they have.

    Args:
        twins: encoded twins, at least one.
        scheduler: noises latents and knows what the checkpoint predicts.
        config: timesteps, drawn latents.
        mask: how the loss is weighed; None does not.
        num_steps: batches of a whole run.
        share: this process's part; its rows are pairs.
        seed: of all draws.

    Raises:
        InputError: if the checkpoint predicts neither noise nor velocity.
    """

    def __init__(
        self,
        twins: Sequence[LatentTwins],
        scheduler: DDIMScheduler,
        *,
        config: PairsConfig,
        mask: DifferenceMask | None,
        num_steps: int,
        share: Share,
        seed: int,
    ) -> None:
        super().__init__(num_steps)
        shapes = sorted({tuple(each.mean.shape[1:]) for each in twins})
        self.buckets = [[each for each in twins if tuple(each.mean.shape[1:]) == shape] for shape in shapes]
        self.scheduler: Any = scheduler
        if (predicted := self.scheduler.config.prediction_type) not in PREDICTED:
            raise InputError(
                f"Expected a model that predicts one of {', '.join(PREDICTED)}, but its scheduler says {predicted!r}; "
                "train on another checkpoint."
            )
        self.config = config
        self.mask = mask
        self.share = share
        self.seed = seed
        shares = np.array([len(bucket) for bucket in self.buckets]) / len(twins)
        generator = np.random.default_rng([seed, _BUCKET_STREAM])
        self._bucket_of = generator.choice(len(self.buckets), size=num_steps, p=shares)

    def batch(self, step: int) -> PairBatch:
        """The batch of a step, whatever was asked for before."""
        number = int(self._bucket_of[step])
        bucket = self.buckets[number]
        used = int((self._bucket_of[:step] == number).sum()) * self.share.global_batch
        draws = np.arange(used, used + self.share.global_batch)[self.share.mine]
        _, index = shuffled(draws, self.seed, len(bucket))
        chosen = [bucket[i] for i in index]
        levels = self._levels(step, chosen)
        clean = [self._clean(step, chosen, [pair[side] for pair in levels]) for side in (0, 1)]
        scale = [torch.stack([t.scales[p[side]] for t, p in zip(chosen, levels, strict=True)]) for side in (0, 1)]
        noise = initial_noise(clean[0].shape[1:], self._seeds(_NOISE_STREAM, step))
        rows = torch.cat(clean), noise.repeat(2, 1, 1, 1), self._timesteps(step).repeat(2)
        velocity = self.scheduler.config.prediction_type == "v_prediction"
        return PairBatch(
            latents=self.scheduler.add_noise(*rows),
            target=self.scheduler.get_velocity(*rows) if velocity else rows[1],
            timestep=rows[2],
            scale=torch.cat(scale),
            time_ids=torch.stack([twins.time_ids for twins in chosen]).repeat(2, 1),
            weights=self._weights(clean[0], clean[1]),
        )

    def _weights(self, low: Tensor, high: Tensor) -> Float[Tensor, "rows 1 h w"] | None:
        if self.mask is None:
            return None
        return difference_weights(low, high, floor=self.mask.floor, blur=self.mask.blur).repeat(2, 1, 1, 1)

    def _levels(self, step: int, chosen: Sequence[LatentTwins]) -> list[tuple[int, int]]:
        uniform = np.random.default_rng([self.seed, _LEVEL_STREAM, step]).random(self.share.global_batch)
        choices = [level_pairs(twins.scales.tolist()) for twins in chosen]
        return [pairs[int(u * len(pairs))] for pairs, u in zip(choices, uniform[self.share.mine], strict=True)]

    def _timesteps(self, step: int) -> Int[Tensor, " pairs"]:
        """One in every equal part of the range, in random order, so that each batch covers it."""
        generator = np.random.default_rng([self.seed, _TIMESTEP_STREAM, step])
        total = self.share.global_batch
        place = (generator.permutation(total) + generator.random(total)) / total
        first = self.config.first_timestep
        last = min(self.config.last_timestep, self.scheduler.config.num_train_timesteps - 1)
        return torch.from_numpy(first + (place * (last + 1 - first)).astype(np.int64))[self.share.mine]

    def _clean(self, step: int, chosen: Sequence[LatentTwins], levels: Sequence[int]) -> Float[Tensor, "pairs 4 h w"]:
        mean = torch.stack([twins.mean[level] for twins, level in zip(chosen, levels, strict=True)])
        if not self.config.sample_latents:
            return mean
        std = torch.stack([twins.std[level] for twins, level in zip(chosen, levels, strict=True)])
        return mean + std * initial_noise(mean.shape[1:], self._seeds(_LATENT_STREAM, step))

    def _seeds(self, stream: int, step: int) -> list[int]:
        state = np.random.SeedSequence([self.seed, stream, step]).generate_state(self.share.global_batch)
        return [int(seed) for seed in state[self.share.mine]]


class PairDataModule(StepDataModule):
    """`data=pairs`: twins, encoded once and cached on disk.

    Args:
        backbone: the frozen model; `setup` moves it to the process's device.
        twins: what is encoded.
        cache_dir: folder of all caches.
        config: timesteps, drawn latents, background.
        mask: how the loss is weighed; None does not.
        batch_size: pairs of one process in one step; each is two rows.
        seed: of all draws.
        progress: called with (done, total) twins while they are encoded.

    Raises:
        InputError: if batch_size is below 1 or the seed below 0.
    """

    encoded: tuple[LatentTwins, ...]

    def __init__(
        self,
        backbone: Backbone,
        twins: Sequence[Twins],
        cache_dir: Path,
        config: PairsConfig,
        *,
        mask: DifferenceMask | None,
        batch_size: int,
        seed: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        super().__init__(backbone, batch_size=batch_size, seed=seed)
        self.twins = tuple(twins)
        self.cache_dir = cache_dir
        self.config = config
        self.mask = mask
        self.progress = progress

    def make_ready(self) -> None:
        """Encodes the twins, or reads what an earlier run encoded."""
        self.encoded = encode_twins(self.backbone, self.twins, self.cache_dir, self.config.background, self.progress)

    def loader(self, num_steps: int, share: Share) -> PairLoader:
        """The batches of a run for one process."""
        return PairLoader(
            self.encoded,
            ddim_scheduler(self.backbone.scheduler),
            config=self.config,
            mask=self.mask,
            num_steps=num_steps,
            share=share,
            seed=self.seed,
        )
