"""On-policy states: rollouts drawn with the slider on, as the paper's code does, but every state of one is used."""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from slider_lightning.adapters import SliderBank
from slider_lightning.backbone import Backbone
from slider_lightning.data.draws import ScaleRange
from slider_lightning.data.states import (
    ConceptEmbeds,
    RolloutConfig,
    SliderPolicy,
    TeacherStates,
    rollout_noise,
    rollout_states,
)
from slider_lightning.errors import InputError

# Keeps these draws apart from other draws of the same (seed, number).
_SCALE_STREAM = 3


@dataclass(frozen=True)
class OnPolicyConfig:
    """How on-policy states are drawn.

    Args:
        num_rollouts: rollouts drawn side by side; their states are used up before the next are drawn.
        rollout: steps, guidance, rows per forward and seed.

    Raises:
        InputError: if num_rollouts is below 1.
    """

    num_rollouts: int = 4
    rollout: RolloutConfig = field(default_factory=RolloutConfig)

    def __post_init__(self) -> None:
        if self.num_rollouts < 1:
            raise InputError(f"Expected data.num_rollouts to be 1 or more, but got {self.num_rollouts}; raise it.")


class OnPolicyStates:
    """A buffer of states, drawn anew with the slider as it is whenever an epoch (one use of every state) begins.

    Noise and scales are pure functions of (seed, rollout number). The states also depend on the slider's weights at the
    time, so a run resumed in the middle of a buffer draws that buffer again with later weights: it trains on, but is
    bit-equal to an uninterrupted run only if its checkpoint was written where a buffer ends.

    Args:
        backbone: the frozen model.
        embeds: the prompts of concept and contrasts.
        bank: bank of one slider, the one in training.
        config: how states are drawn.
        scale_range: absolute slider scales of the rollouts; the sign alternates between rollouts.
    """

    def __init__(
        self,
        backbone: Backbone,
        embeds: ConceptEmbeds,
        bank: SliderBank,
        config: OnPolicyConfig,
        scale_range: ScaleRange,
    ) -> None:
        self.backbone = backbone
        self.embeds = embeds
        self.bank = bank
        self.config = config
        self.scale_range = scale_range
        self._buffer: tuple[int, TeacherStates] | None = None

    @property
    def num_states(self) -> int:
        """States in a buffer."""
        return self.config.num_rollouts * self.config.rollout.num_inference_steps

    def rows(self, epoch: int, index: Int[Tensor, " rows"]) -> TeacherStates:
        """States of the buffer of an epoch, on the backbone's device."""
        if self._buffer is None or self._buffer[0] != epoch:
            self._buffer = (epoch, self._draw(epoch))
        return self._buffer[1][index]

    def _draw(self, epoch: int) -> TeacherStates:
        first = epoch * self.config.num_rollouts
        rollouts = range(first, first + self.config.num_rollouts)
        seed = self.config.rollout.seed
        policy = SliderPolicy(self.bank, rollout_scales(seed, rollouts, self.scale_range))
        return rollout_states(
            self.backbone, self.embeds, rollout_noise(self.backbone, seed, rollouts), self.config.rollout, policy
        )


def rollout_scales(seed: int, rollouts: range, scale_range: ScaleRange) -> Float[Tensor, " rollouts"]:
    """The signed slider scale of rollouts: even numbers lie in [low, high], odd ones in [-high, -low]."""
    uniform = np.array([np.random.default_rng([seed, _SCALE_STREAM, rollout]).random() for rollout in rollouts])
    sign = np.where(np.arange(rollouts.start, rollouts.stop) % 2, -1.0, 1.0)
    return torch.from_numpy(sign * scale_range.spread(uniform)).float()
