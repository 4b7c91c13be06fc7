"""What a teacher cache holds."""

from dataclasses import dataclass, field

import torch

from slider_lightning.data.states import RolloutConfig
from slider_lightning.errors import InputError

DTYPES = {"float16": torch.float16, "float32": torch.float32}
TRAJECTORY, NOISED = "trajectory", "noised"


@dataclass(frozen=True)
class TeacherConfig:
    """What the cache holds.

    Args:
        num_rollouts: rollouts used; a cache with fewer is extended, one with more is used in part.
        rollout: how they are drawn.
        dtype: "float32" or "float16" on disk. With float16 the rollouts themselves pass through rounded latents, so
            that every score belongs to the latents that are stored; a score then is off by half a unit in its last
            place, 2^-11 of itself.
        rollouts_per_shard: rollouts drawn side by side and stored in one file.
        states: "trajectory" trains on the states that rollouts pass; "noised" on their last latents, noised anew as in
            the training of diffusion models.
        first_timestep: lowest timestep that is scored and trained, 0..999.
        last_timestep: highest one, or 1000 for all. Steps outside the range cost their rollout only.
        noised_states: states made of all rollouts together, equally many of each. Rollouts are added to a cache of
            noised states without any loss if this grows with them.

    Raises:
        InputError: if a count is below 1, a name unknown, the range of timesteps empty, or noised_states no multiple of
            num_rollouts where it is used.
    """

    num_rollouts: int = 16
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    dtype: str = "float32"
    rollouts_per_shard: int = 4
    states: str = TRAJECTORY
    first_timestep: int = 0
    last_timestep: int = 1000
    noised_states: int = 400

    def __post_init__(self) -> None:
        for name in ("num_rollouts", "rollouts_per_shard", "noised_states"):
            if (value := getattr(self, name)) < 1:
                raise InputError(f"Expected data.source.{name} to be 1 or more, but got {value}; raise it.")
        for name, known in (("dtype", tuple(DTYPES)), ("states", (TRAJECTORY, NOISED))):
            if (value := getattr(self, name)) not in known:
                names = ", ".join(known)
                raise InputError(f"Expected data.source.{name} to be one of {names}, but got {value!r}; choose one.")
        if not 0 <= self.first_timestep <= self.last_timestep <= 1000 or self.first_timestep == 1000:
            raise InputError(
                f"Expected 0 <= data.source.first_timestep <= data.source.last_timestep <= 1000, but got "
                f"{self.first_timestep} and {self.last_timestep}; change them."
            )
        if self.states == NOISED and self.noised_states % self.num_rollouts:
            raise InputError(
                f"Expected data.source.noised_states to be a multiple of data.source.num_rollouts, but got "
                f"{self.noised_states} and {self.num_rollouts}; change one."
            )

    @property
    def noised_per_rollout(self) -> int:
        """Noised states of one rollout."""
        return self.noised_states // self.num_rollouts

    def range_within(self, num_train_timesteps: int) -> tuple[int, int]:
        """Lowest and highest timestep that is scored, of those that a model has."""
        return self.first_timestep, min(self.last_timestep, num_train_timesteps - 1)
