"""Which token of the source prompt each token of an edited prompt stands for (Prompt-to-Prompt's A(j))."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from slider_lightning.backbone import Backbone
from slider_lightning.errors import InputError


@dataclass(frozen=True)
class TokenMap:
    """How the maps of edited prompts are refined, per row, edit and token of the edited prompt.

    Args:
        source: the source prompt's token whose map is taken; 0 where none is.
        shared: whether the source has such a token; a new one keeps its own map.
        weight: factor on the token's map: |scale| for new tokens, 1 for shared ones and padding.
    """

    source: Int[Tensor, "rows edits tokens"]
    shared: Bool[Tensor, "rows edits tokens"]
    weight: Float[Tensor, "rows edits tokens"]


def align(source: Sequence[int], edited: Sequence[int]) -> list[int | None]:
    """For each edited token its partner in the source, None for new ones, by the longest common subsequence.

    It is the alignment of the released Prompt-to-Prompt (Needleman-Wunsch with 1 for a match, -1 for a mismatch and 0
    for a gap), which among equally long ones takes the partner that stands first in the edited prompt.

    Example:
        >>> align([1, 2, 9], [1, 2, 5, 6, 9])
        [0, 1, None, None, 2]
    """
    lengths = [[0] * (len(edited) + 1) for _ in range(len(source) + 1)]
    for i, token in enumerate(source):
        for j, other in enumerate(edited):
            lengths[i + 1][j + 1] = lengths[i][j] + 1 if token == other else max(lengths[i][j + 1], lengths[i + 1][j])
    partners: list[int | None] = [None] * len(edited)
    i, j = len(source), len(edited)
    while i and j:
        if lengths[i][j] == lengths[i][j - 1]:
            j -= 1
        elif lengths[i][j] == lengths[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            partners[j] = i
    return partners


def token_map(
    backbone: Backbone, sources: Sequence[str], edits: Sequence[Sequence[str]], weights: Sequence[float]
) -> TokenMap:
    """The token map of a batch, on the backbone's device.

    Padding takes the source's map of the same position where the source is padded there too, as released.

    Args:
        backbone: whose tokenizers cut the prompts.
        sources: one prompt per row.
        edits: per row one edited prompt per scale.
        weights: per scale the factor on the maps of new tokens.

    Raises:
        InputError: if the checkpoint's two tokenizers cut a prompt differently.
    """
    tokens = backbone.prompt_encoder.tokenizers[0].model_max_length
    source, shared, weight = [], [], []
    for prompt, prompts in zip(sources, edits, strict=True):
        ids = token_ids(backbone, prompt)
        for edited, factor in zip(prompts, weights, strict=True):
            partners = align(ids, token_ids(backbone, edited))
            padding = [position if position >= len(ids) else None for position in range(len(partners), tokens)]
            source.append([position or 0 for position in partners + padding])
            shared.append([position is not None for position in partners + padding])
            weight.append([factor if partner is None else 1.0 for partner in partners] + [1.0] * len(padding))
    shape, device = (len(sources), len(weights), tokens), backbone.device
    return TokenMap(
        torch.tensor(source, device=device).view(shape),
        torch.tensor(shared, device=device).view(shape),
        torch.tensor(weight, device=device).view(shape),
    )


def token_ids(backbone: Backbone, prompt: str) -> list[int]:
    """The prompt's tokens with their begin and end, as SDXL's first tokenizer cuts them.

    A position of `prompt_embeds` holds what both text encoders say of one token, so both tokenizers must agree.

    Raises:
        InputError: if they do not.
    """
    first, second = (list(tokenizer(prompt).input_ids) for tokenizer in backbone.prompt_encoder.tokenizers)
    if first != second:
        raise InputError(
            f"Expected both tokenizers of {backbone.name} to cut a prompt into the same tokens, but they differ on "
            f"{prompt!r}; Prompt-to-Prompt needs a checkpoint with one vocabulary."
        )
    return first
