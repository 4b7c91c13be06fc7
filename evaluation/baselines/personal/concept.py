"""What a personalisation has learned: a token's vectors, and for Custom Diffusion the keys' and values' deltas too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from torch import Tensor, nn

from evaluation.baselines.personal.deltas import KeyValueDeltas
from evaluation.baselines.personal.tokens import LearnedVectors

Kind = Literal["textual_inversion", "custom_diffusion"]


class LearnedConcept(nn.Module):
    """All trained parameters of a personalisation and nothing else, in fp32.

    Args:
        vectors: of the placeholder token.
        deltas: of the cross-attention's keys and values; None in Textual Inversion.
    """

    def __init__(self, vectors: LearnedVectors, deltas: KeyValueDeltas | None = None) -> None:
        super().__init__()
        self.vectors = vectors
        self.deltas = deltas

    @property
    def kind(self) -> Kind:
        """Which method this is."""
        return "textual_inversion" if self.deltas is None else "custom_diffusion"

    @property
    def token(self) -> str:
        """The placeholder token, e.g. "<eyes>"."""
        return self.vectors.placeholder.token

    def named_tensors(self) -> dict[str, Tensor]:
        """The parameters by the names they have in files, detached, in main memory."""
        named: dict[str, Tensor] = {"clip_l": self.vectors.clip_l, "clip_g": self.vectors.clip_g}
        named |= {} if self.deltas is None else self.deltas.weights()
        return {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}

    @contextmanager
    def applied(self, unet: nn.Module, scale: float = 1.0) -> Iterator[None]:
        """Forwards inside see the deltas, if there are any, times `scale`."""
        if self.deltas is None:
            yield
            return
        with self.deltas.applied(unet, scale):
            yield
