"""Batches for the training step: a loader that is a pure function of (seed, step), and the data modules around it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from slider_lightning.adapters import SliderBank
from slider_lightning.backbone import Backbone
from slider_lightning.data.draws import Draw, ScaleRange, draw_rows
from slider_lightning.data.rollout import OnPolicyConfig, OnPolicyStates
from slider_lightning.data.states import ConceptEmbeds, TeacherStates
from slider_lightning.data.steps import Share, StepDataModule, StepLoader, sent
from slider_lightning.data.teacher import MappedStates, Progress, TeacherCache, TeacherConfig


@dataclass(frozen=True)
class TeacherBatch:
    """States with the frozen scores at them, and the slider scale (at least 0) that both poles are trained at.

    `scale` stays in main memory: the bank plans the forward by it, and reading it from a device would wait for that.
    """

    latents: Float[Tensor, "batch 4 h w"]
    timestep: Int[Tensor, " batch"]
    eps_target: Float[Tensor, "batch 4 h w"]
    eps_positive: Float[Tensor, "batch preserved 4 h w"]
    eps_negative: Float[Tensor, "batch preserved 4 h w"]
    eps_contrast_positive: Float[Tensor, "batch contrasts 4 h w"]
    eps_contrast_negative: Float[Tensor, "batch contrasts 4 h w"]
    scale: Float[Tensor, " batch"]

    def to(self, device: torch.device, **_: object) -> TeacherBatch:
        """The same batch on a device; Lightning calls it."""
        moved = {field.name: sent(getattr(self, field.name), device) for field in fields(TeacherStates)}
        return TeacherBatch(**moved, scale=self.scale)


class StateSource(Protocol):
    """Where states come from."""

    @property
    def num_states(self) -> int:
        """States of one epoch."""

    def rows(self, epoch: int, index: Int[Tensor, " rows"]) -> TeacherStates:
        """The states `index` of an epoch."""


@dataclass(frozen=True)
class CachedStates:
    """States that are the same in every epoch: those of the teacher cache, on disk, or others in main memory."""

    states: TeacherStates | MappedStates

    @property
    def num_states(self) -> int:
        """All states."""
        return len(self.states)

    def rows(self, epoch: int, index: Int[Tensor, " rows"]) -> TeacherStates:
        """The states `index`."""
        return self.states[index]


class StateLoader(StepLoader[TeacherBatch]):
    """The batches of states.

    Args:
        source: where states come from.
        num_steps: batches of a whole run.
        share: this process's part.
        scale_range: where slider scales are drawn.
        seed: seed of order and scales.
    """

    def __init__(
        self, source: StateSource, *, num_steps: int, share: Share, scale_range: ScaleRange, seed: int
    ) -> None:
        super().__init__(num_steps)
        self.source = source
        self.share = share
        self.scale_range = scale_range
        self.seed = seed

    def batch(self, step: int) -> TeacherBatch:
        """The batch of a step, whatever was asked for before."""
        draw = draw_rows(
            step, seed=self.seed, num_states=self.source.num_states, share=self.share, scale_range=self.scale_range
        )
        states = TeacherStates.cat(self._states(draw))
        return TeacherBatch(**states.tensors(), scale=torch.from_numpy(draw.scale).float())

    def _states(self, draw: Draw) -> Sequence[TeacherStates]:
        """Rows epoch by epoch: a batch may lie on the border of two."""
        drawn = zip(draw.epoch.tolist(), draw.index.tolist(), strict=True)
        return [
            self.source.rows(epoch, torch.tensor([index for _, index in rows]))
            for epoch, rows in groupby(drawn, key=itemgetter(0))
        ]


class StateDataModule(StepDataModule):
    """What the two data modules of a text slider share: batches of states from a source.

    Args:
        backbone: the frozen model; `setup` moves it to the process's device.
        batch_size: states of one process in one step; both poles make it twice as many rows.
        scale_range: where slider scales are drawn.
        seed: seed of the order of states and of the scales.

    Raises:
        InputError: if batch_size is below 1 or the seed below 0.
    """

    source: StateSource

    def __init__(self, backbone: Backbone, *, batch_size: int, scale_range: ScaleRange, seed: int) -> None:
        super().__init__(backbone, batch_size=batch_size, seed=seed)
        self.scale_range = scale_range

    @abstractmethod
    def open_source(self) -> StateSource:
        """Makes the states ready."""

    def make_ready(self) -> None:
        """Opens the source."""
        self.source = self.open_source()

    def loader(self, num_steps: int, share: Share) -> StateLoader:
        """The batches of a run for one process."""
        return StateLoader(self.source, num_steps=num_steps, share=share, scale_range=self.scale_range, seed=self.seed)


class TeacherDataModule(StateDataModule):
    """`data=teacher`: states and frozen scores from the cache on disk, built when needed.

    Args:
        backbone: the frozen model.
        embeds: the prompts of concept and contrasts.
        cache_dir: folder of all caches.
        config: what the cache holds.
        batch_size: states of one process in one step.
        scale_range: where slider scales are drawn.
        seed: seed of the order of states and of the scales.
        progress: told of the sample-forwards done while the cache is built.
    """

    def __init__(
        self,
        backbone: Backbone,
        embeds: ConceptEmbeds,
        cache_dir: Path,
        config: TeacherConfig,
        *,
        batch_size: int,
        scale_range: ScaleRange,
        seed: int,
        progress: Progress | None = None,
    ) -> None:
        super().__init__(backbone, batch_size=batch_size, scale_range=scale_range, seed=seed)
        self.embeds = embeds
        self.cache_dir = cache_dir
        self.config = config
        self.progress = progress

    def open_source(self) -> StateSource:
        """Reads or builds the cache."""
        cache = TeacherCache(self.cache_dir, self.backbone, self.embeds, self.config)
        return CachedStates(cache.states(self.progress))


class RolloutDataModule(StateDataModule):
    """`data=rollout`: on-policy states, drawn with the slider on; see `OnPolicyStates` for what resuming keeps.

    Args:
        backbone: the frozen model.
        embeds: the prompts of concept and contrasts.
        bank: bank of the slider in training.
        config: how states are drawn.
        batch_size: states of one process in one step.
        scale_range: where slider scales are drawn, those of the rollouts too.
        seed: seed of the order of states and of the scales.
    """

    def __init__(
        self,
        backbone: Backbone,
        embeds: ConceptEmbeds,
        bank: SliderBank,
        config: OnPolicyConfig,
        *,
        batch_size: int,
        scale_range: ScaleRange,
        seed: int,
    ) -> None:
        super().__init__(backbone, batch_size=batch_size, scale_range=scale_range, seed=seed)
        self.embeds = embeds
        self.bank = bank
        self.config = config

    def open_source(self) -> StateSource:
        """An empty buffer: the first batch draws the first rollouts."""
        return OnPolicyStates(self.backbone, self.embeds, self.bank, self.config, self.scale_range)
