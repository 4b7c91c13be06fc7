"""Which states a training step uses, and at which slider scale: pure functions of (seed, global step, row)."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

from slider_lightning.data.steps import Share
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


def draw_rows(step: int, *, seed: int, num_states: int, share: Share, scale_range: ScaleRange) -> Draw:
    """The rows of a process in a step.

    Joined over the processes, a step's rows are those of one process with the whole batch. States come in a new random
    order every epoch, so each is used once before any is used again.

    Args:
        step: number of the batch, from 0.
        seed: seed of order and scales.
        num_states: states to choose from.
        share: which rows of the step.
        scale_range: where scales are drawn, uniformly.
    """
    first = step * share.global_batch
    epoch, index = shuffled(np.arange(first, first + share.global_batch)[share.mine], seed, num_states)
    uniform = np.random.default_rng([seed, _SCALE_STREAM, step]).random(share.global_batch)[share.mine]
    return Draw(epoch, index, scale_range.spread(uniform))


def shuffled(
    number: Int[np.ndarray, " rows"], seed: int, count: int
) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " rows"]]:
    """(epoch, index) of the draws `number`: `count` things in a new random order every epoch."""
    epoch, place = np.divmod(number, count)
    index = np.array([_order(seed, int(e), count)[p] for e, p in zip(epoch, place, strict=True)], dtype=int)
    return epoch, index


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, num_states: int) -> Int[np.ndarray, " states"]:
    return np.random.default_rng([seed, _ORDER_STREAM, epoch]).permutation(num_states)
