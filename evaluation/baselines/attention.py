"""Attention processors that lend a source image's attention maps to its edits (Hertz et al. 2022, arXiv 2208.01626).

The conditional rows of a UNet call come in groups: a source, then its edits. Unconditional rows, where there are any,
come before them and stay with the layer's own processor, as do the layers that are not controlled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from jaxtyping import Float
from torch import Tensor

from evaluation.baselines.alignment import TokenMap

Processor = Callable[..., Tensor]


@dataclass(frozen=True)
class AttentionControl:
    """What one UNet call lends.

    Args:
        branches: rows of a group, the source first.
        unconditional: leading rows of the call that are left alone.
        tokens: how the edits' cross-attention maps are refined; None leaves them alone.
        self_replace_side: self-attention maps of at most this side, in pixels of the map, are the source's; 0: none.
    """

    branches: int
    unconditional: int
    tokens: TokenMap | None
    self_replace_side: int


@contextmanager
def controlled_attention(unet: UNet2DConditionModel, control: AttentionControl) -> Iterator[None]:
    """Run the UNet's calls inside under `control`; its own processors come back at the end, on exceptions too."""
    own = unet.attn_processors
    unet.set_attn_processor({name: _controlled(name, processor, control) for name, processor in own.items()})
    try:
        yield
    finally:
        unet.set_attn_processor(dict(own))


def refine_maps(
    maps: Float[Tensor, "rows branches heads pixels tokens"], tokens: TokenMap
) -> Float[Tensor, "rows branches heads pixels tokens"]:
    """The source's maps, then its edits': for token j the source's map of A(j), the own one if new, times its weight.

    Refinement and re-weighting of Hertz et al. 2022, section 3.2. As there, maps are not normalized again.
    """
    source, own = maps[:, :1], maps[:, 1:]
    index, shared, weight = (part[:, :, None, None, :] for part in (tokens.source, tokens.shared, tokens.weight))
    lent = source.expand_as(own).gather(-1, index.expand_as(own))
    return torch.cat([source, torch.where(shared, lent, own) * weight.to(maps.dtype)], dim=1)


def _controlled(name: str, own: Processor, control: AttentionControl) -> Processor:
    """The processor of a layer under control: attn1 is self-attention, attn2 cross-attention."""
    if name.endswith("attn2.processor"):
        return own if control.tokens is None else _CrossAttention(own, control, control.tokens)
    return _SelfAttention(own, control) if control.self_replace_side else own


@dataclass(frozen=True)
class _CrossAttention:
    """Cross-attention with explicit maps, refined for the edits."""

    own: Processor
    control: AttentionControl
    tokens: TokenMap

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        assert encoder_hidden_states is not None
        count = self.control.unconditional
        conditional = self._attend(attn, hidden_states[count:], encoder_hidden_states[count:])
        if not count:
            return conditional
        return torch.cat([self.own(attn, hidden_states[:count], encoder_hidden_states[:count]), conditional])

    def _attend(self, attn: Attention, hidden_states: Tensor, context: Tensor) -> Tensor:
        query, key, value = (
            attn.head_to_batch_dim(part) for part in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        maps = attn.get_attention_scores(query, key).unflatten(0, (-1, self.control.branches, attn.heads))
        maps = refine_maps(maps, self.tokens).flatten(0, 2)
        return _output(attn, attn.batch_to_head_dim(torch.bmm(maps, value)))


@dataclass(frozen=True)
class _SelfAttention:
    """Self-attention of a group under the source's query and key: its maps, read with each branch's own values."""

    own: Processor
    control: AttentionControl

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        if hidden_states.shape[1] > self.control.self_replace_side**2:
            return self.own(attn, hidden_states)
        count = self.control.unconditional
        conditional = self._attend(attn, hidden_states[count:])
        return torch.cat([self.own(attn, hidden_states[:count]), conditional]) if count else conditional

    def _attend(self, attn: Attention, hidden_states: Tensor) -> Tensor:
        branches = self.control.branches
        source = hidden_states[::branches]
        query, key = (part.repeat_interleave(branches, 0) for part in (attn.to_q(source), attn.to_k(source)))
        query, key, value = (
            part.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for part in (query, key, attn.to_v(hidden_states))
        )
        attended = F.scaled_dot_product_attention(query, key, value, scale=attn.scale)
        return _output(attn, attended.transpose(1, 2).flatten(2))


def _output(attn: Attention, attended: Tensor) -> Tensor:
    """The layer's projection after the heads are joined."""
    projection, dropout = attn.to_out
    return dropout(projection(attended))
