"""Which states a training step uses, and at which slider scale: pure functions of (seed, global step, row)."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

from slider_lightning.errors import InputError

# Keep these draws apart from each other where seed and number are the same.
_ORDER_STREAM, _SCALE_STREAM = 1, 2


@dataclass(frozen=True)
class ScaleRange:
    """Absolute slider scales that a slider is trained at, both poles.

    Raises:
        InputError: unless 0 <= low <= high and high > 0.
    """

    low: float = 0.0
    high: float = 2.0

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high or self.high == 0:
            raise InputError(
                f"Expected the range of training scales as 0 <= low <= high with high above 0, but got "
                f"{self.low}..{self.high}; both poles are trained anyway, so give absolute values."
            )

    def spread(self, uniform: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
        """Maps numbers in [0, 1) to [low, high)."""
        return self.low + (self.high - self.low) * uniform


@dataclass(frozen=True)
class Draw:
    """The rows of one process in one step.

    Args:
        epoch: how often every state was used before, per row.
        index: the state, per row.
        scale: slider scale, at least 0, per row.
    """

    epoch: Int[np.ndarray, " rows"]
    index: Int[np.ndarray, " rows"]
    scale: Float[np.ndarray, " rows"]


def draw_rows(
    step: int,
    *,
    seed: int,
    num_states: int,
    batch_size: int,
    scale_range: ScaleRange,
    rank: int = 0,
    world_size: int = 1,
) -> Draw:
    """The rows of process `rank`: rows rank * batch_size .. of a global batch of world_size * batch_size.

    Joined over the processes, a step's rows are those of one process with the whole batch. States come in a new random
    order every epoch, so each is used once before any is used again.

    Args:
        step: number of the batch, from 0.
        seed: seed of order and scales.
        num_states: states to choose from.
        batch_size: rows of one process.
        scale_range: where scales are drawn, uniformly.
        rank: number of the process.
        world_size: number of processes.
    """
    global_batch = batch_size * world_size
    mine = slice(rank * batch_size, (rank + 1) * batch_size)
    epoch, place = np.divmod(np.arange(step * global_batch, (step + 1) * global_batch)[mine], num_states)
    index = np.array([_order(seed, int(e), num_states)[p] for e, p in zip(epoch, place, strict=True)])
    uniform = np.random.default_rng([seed, _SCALE_STREAM, step]).random(global_batch)[mine]
    return Draw(epoch, index, scale_range.spread(uniform))


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, num_states: int) -> Int[np.ndarray, " states"]:
    return np.random.default_rng([seed, _ORDER_STREAM, epoch]).permutation(num_states)
