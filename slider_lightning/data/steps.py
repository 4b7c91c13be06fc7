"""What every kind of training data shares: a loader that is a pure function of the step, and its data module."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import lightning as L
import torch
from torch import Tensor

from slider_lightning.backbone import Backbone
from slider_lightning.data.cost import Cost, measured_cost
from slider_lightning.errors import InputError

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Share:
    """The part of a step's rows that one process takes.

    Args:
        batch_size: rows of one process in one step.
        rank: number of this process.
        world_size: number of processes.
    """

    batch_size: int
    rank: int = 0
    world_size: int = 1

    @property
    def global_batch(self) -> int:
        """Rows of all processes together."""
        return self.batch_size * self.world_size

    @property
    def mine(self) -> slice:
        """This process's rows among them."""
        return slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)


class StepLoader(ABC, Generic[Batch]):
    """Yields the batches of steps 0, 1, ... and tells Lightning where it stands, so a resumed run takes the next one.

    Args:
        num_steps: batches of a whole run; the length, also when the run is resumed.
    """

    def __init__(self, num_steps: int) -> None:
        self.num_steps = num_steps
        self._next_step = 0

    def __len__(self) -> int:
        return self.num_steps

    def __iter__(self) -> Iterator[Batch]:
        while self._next_step < self.num_steps:
            self._next_step += 1
            yield self.batch(self._next_step - 1)

    def state_dict(self) -> dict[str, int]:
        """The step whose batch comes next."""
        return {"next_step": self._next_step}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Goes on where `state_dict` was taken."""
        self._next_step = state_dict["next_step"]

    @abstractmethod
    def batch(self, step: int) -> Batch:
        """The batch of a step, whatever was asked for before."""


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of a batch on a device; from main memory to a GPU through pinned memory, so that no step waits."""
    if (tensor.device.type, device.type) == ("cpu", "cuda"):
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def of_all_processes(cost: Cost, trainer: L.Trainer) -> Cost:
    """The cost with the sample-forwards of all processes together."""
    mine = torch.tensor(float(cost.sample_forwards), device=trainer.strategy.root_device)
    return replace(cost, sample_forwards=int(trainer.strategy.reduce(mine, reduce_op="sum")))


class StepDataModule(L.LightningDataModule, ABC):
    """Makes the data ready once per process, counts what that costs, and hands out the batches of the whole run.

    Args:
        backbone: the frozen model; `setup` moves it to the process's device.
        batch_size: states or pairs of one process in one step, at least 1.
        seed: seed of all draws, at least 0.

    Raises:
        InputError: if batch_size is below 1 or the seed below 0.
    """

    def __init__(self, backbone: Backbone, *, batch_size: int, seed: int) -> None:
        super().__init__()
        for name, value, least in (("batch_size", batch_size, 1), ("seed", seed, 0)):
            if value < least:
                raise InputError(f"Expected {name} to be {least} or more, but got {value}; raise it.")
        self.backbone = backbone
        self.batch_size = batch_size
        self.seed = seed
        self.cost = Cost()
        self._ready = False

    @abstractmethod
    def make_ready(self) -> None:
        """Reads or computes what the batches are drawn from."""

    @abstractmethod
    def loader(self, num_steps: int, share: Share) -> StepLoader:
        """The batches of a run for one process."""

    def setup(self, stage: str) -> None:
        """Makes the data ready on this process's device; `cost` then tells what it took."""
        if not self._ready:
            assert self.trainer is not None
            self.backbone.to(self.trainer.strategy.root_device)
            with measured_cost(self.backbone) as self.cost:
                self.make_ready()
            self.cost = of_all_processes(self.cost, self.trainer)
            self._ready = True

    def train_dataloader(self) -> StepLoader:
        """The batches of the whole run, `max_steps` optimizer steps.

        Raises:
            InputError: if the trainer has no `max_steps`.
        """
        trainer = self.trainer
        assert trainer is not None
        if trainer.max_steps < 1:
            raise InputError(f"Expected trainer.max_steps to be 1 or more, but got {trainer.max_steps}; set it.")
        num_steps = trainer.max_steps * trainer.accumulate_grad_batches
        return self.loader(num_steps, Share(self.batch_size, trainer.global_rank, trainer.world_size))


class JointLoader(StepLoader[tuple[Any, ...]]):
    """The batches of several trainings side by side.

    Args:
        loaders: one per training, of equal length.
    """

    def __init__(self, loaders: Sequence[StepLoader[Any]]) -> None:
        super().__init__(len(loaders[0]))
        self.loaders = tuple(loaders)

    def batch(self, step: int) -> tuple[Any, ...]:
        """The batch of every training at a step."""
        return tuple(loader.batch(step) for loader in self.loaders)


class JointDataModule(StepDataModule):
    """The data of trainings that share a process, a model and the number of steps; each draws as it would alone.

    Args:
        modules: one per training.
    """

    def __init__(self, modules: Sequence[StepDataModule]) -> None:
        rows = sum(module.batch_size for module in modules)
        super().__init__(modules[0].backbone, batch_size=rows, seed=modules[0].seed)
        self.modules = tuple(modules)

    def make_ready(self) -> None:
        """Makes the data of each ready; what they have in common is found in the cache by all but the first."""
        for module in self.modules:
            module.make_ready()

    def loader(self, num_steps: int, share: Share) -> JointLoader:
        """The batches of a run for one process."""
        return JointLoader(
            [module.loader(num_steps, replace(share, batch_size=module.batch_size)) for module in self.modules]
        )
