"""Teacher states that stay on disk until a batch asks for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields

import torch
from jaxtyping import Int
from torch import Tensor

from slider_lightning.data.states import TeacherStates

# A field of `TeacherStates` in one shard: one tensor, or one per prompt; the first two dimensions are rollouts, states.
Column = Tensor | tuple[Tensor, ...]


class MappedStates:
    """Teacher states whose tensors are mapped files: the system reads the pages that a batch needs, and drops them.

    Args:
        shards: the fields of `TeacherStates` in every shard, in the dtype on disk; equally many states per rollout.
        num_rollouts: how many of their rollouts are used.
    """

    def __init__(self, shards: Sequence[Mapping[str, Column]], num_rollouts: int) -> None:
        self.shards = shards
        counts = torch.tensor([len(_first(shard["latents"])) for shard in shards])
        self._starts = counts.cumsum(0) - counts
        self._per_rollout = _first(shards[0]["latents"]).shape[1]
        self._num_states = num_rollouts * self._per_rollout

    def __len__(self) -> int:
        return self._num_states

    def __getitem__(self, index: slice | Int[Tensor, " rows"]) -> TeacherStates:
        """The states `index` as float32 rows in main memory."""
        number = torch.arange(len(self))[index]
        rollout, state = number // self._per_rollout, number % self._per_rollout
        shard = torch.searchsorted(self._starts, rollout, right=True) - 1
        rows = {each: (shard == each).nonzero().flatten() for each in shard.unique().tolist()}
        gathered = {}
        for name in (field.name for field in fields(TeacherStates)):
            out = self._empty(name, len(number))
            for each, at in rows.items():
                _fill(out, self.shards[each][name], at, rollout[at] - self._starts[each], state[at])
            gathered[name] = out
        return TeacherStates(**gathered)

    def _empty(self, name: str, rows: int) -> Tensor:
        column = self.shards[0][name]
        if isinstance(column, tuple):
            return torch.empty(rows, len(column), *_first(self.shards[0]["latents"]).shape[2:])
        return torch.empty(rows, *column.shape[2:], dtype=torch.float32 if column.is_floating_point() else column.dtype)


def _fill(out: Tensor, column: Column, at: Tensor, rollout: Tensor, state: Tensor) -> None:
    if isinstance(column, tuple):
        for prompt, tensor in enumerate(column):
            out[at, prompt] = tensor[rollout, state].to(out.dtype)
    else:
        out[at] = column[rollout, state].to(out.dtype)


def _first(column: Column) -> Tensor:
    return column[0] if isinstance(column, tuple) else column
