"""Which sliders run on which rows of a batch: worked out once for a matrix of scales, before any forward runs.

One stack of all active sliders on all rows does rows x (work of all sliders) multiply-adds, most of them times zero
where rows use few of the sliders each, as in a training of many sliders at once. Rows are then grouped by the set of
sliders that they use, and every group runs its own sliders alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor

from slider_lightning.adapters.base import SliderBase

# The share of the one stack's multiply-adds up to which groups are worth their own products: where the rows of every
# group stand together (they are then views, at the cost of one more write of the output), and where they do not.
_WORTH_SPLITTING = 0.75
_WORTH_GATHERING = 0.5


@dataclass(frozen=True)
class Term:
    """The sliders of one kind that some rows use on a layer, and their strengths for those rows (rows, columns)."""

    kind: type[SliderBase]
    sliders: tuple[SliderBase, ...]
    strengths: Tensor


@dataclass(frozen=True)
class Group:
    """Rows of a batch that use the same sliders.

    Args:
        runs: which runs of neighbouring rows they are, in the order of the batch.
        terms: the products to add up on them, one for each kind of slider.
    """

    runs: tuple[int, ...]
    terms: tuple[Term, ...]


@dataclass(frozen=True)
class Layout:
    """How the rows of a batch are cut for the layers that one set of sliders shares.

    Args:
        sizes: rows of every run of neighbouring rows; their sum is the batch.
        groups: the runs that use sliders, each in one group; none where no row does.
    """

    sizes: tuple[int, ...]
    groups: tuple[Group, ...]


class ScalePlan:
    """What a scale matrix asks for, so that no forward waits for the device to learn it.

    Args:
        sliders: all K sliders.
        work: multiply-adds of each slider per row, in any unit.
        scales: (batch, K), CPU, fp32.
        holders: the sets of sliders that share a layer, as their column numbers.
        device: where the strengths are needed.
    """

    def __init__(
        self,
        sliders: Sequence[SliderBase],
        work: Sequence[float],
        scales: Float[Tensor, "batch sliders"],
        holders: Iterable[tuple[int, ...]],
        device: torch.device,
    ) -> None:
        self.batch = scales.shape[0]
        self._sliders = sliders
        self._work = work
        self._scales = scales
        self._device = device
        self._used = [frozenset(k for k, scale in enumerate(row) if scale) for row in scales.tolist()]
        self.layouts = {columns: self._layout(frozenset(columns)) for columns in holders}
        terms = (term for layout in self.layouts.values() for group in layout.groups for term in group.terms)
        self.stacks = frozenset(term.sliders for term in terms)

    def _layout(self, columns: frozenset[int]) -> Layout:
        """The cut that does the least work: one stack on all rows, or each set of sliders on its own."""
        sets = [tuple(sorted(used & columns)) for used in self._used]
        union = tuple(sorted(frozenset().union(*sets)))
        if not union:
            return Layout((self.batch,), ())
        runs = [(chosen, len(list(run))) for chosen, run in groupby(sets)]
        share = sum(map(self._work_of, sets)) / (self.batch * self._work_of(union))
        used = set(sets) - {()}
        together = len(runs) == len(set(sets))
        # Sliders in training never meet in a row: they are kept apart, or one that diverged (nan * 0) would take the
        # others along.
        apart = len(used) > 1 and sum(map(len, used)) == len(union)
        if not apart and share > (_WORTH_SPLITTING if together else _WORTH_GATHERING):
            runs = [(union, self.batch)]
        return self._cut(runs)

    def _work_of(self, columns: Iterable[int]) -> float:
        return sum(self._work[k] for k in columns)

    def _cut(self, runs: Sequence[tuple[tuple[int, ...], int]]) -> Layout:
        """Runs of neighbouring rows, given as (sliders, rows), and the groups that they make."""
        sizes = tuple(size for _, size in runs)
        scales, groups = self._scales.split(sizes), []
        for columns in dict.fromkeys(chosen for chosen, _ in runs if chosen):
            members = tuple(i for i, (chosen, _) in enumerate(runs) if chosen == columns)
            groups.append(Group(members, self._terms(columns, torch.cat([scales[i] for i in members]))))
        return Layout(sizes, tuple(groups))

    def _terms(self, columns: Sequence[int], scales: Tensor) -> tuple[Term, ...]:
        kinds = dict.fromkeys(type(self._sliders[k]) for k in columns)
        return tuple(self._term(kind, [k for k in columns if type(self._sliders[k]) is kind], scales) for kind in kinds)

    def _term(self, kind: type[SliderBase], columns: Sequence[int], scales: Tensor) -> Term:
        sliders = tuple(self._sliders[k] for k in columns)
        return Term(kind, sliders, kind.strengths(sliders, scales[:, columns]).to(self._device, non_blocking=True))
