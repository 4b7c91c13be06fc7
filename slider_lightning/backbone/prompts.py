"""Prompt embeddings of SDXL's two text encoders, as `StableDiffusionXLPipeline.encode_prompt` makes them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from slider_lightning.errors import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PromptEmbeds:
    """What the UNet is told of a batch of prompts.

    Args:
        prompt_embeds: penultimate hidden states of both encoders, concatenated.
        pooled_prompt_embeds: projected pooled output of the second encoder.
    """

    prompt_embeds: Float[Tensor, "batch tokens dim"]
    pooled_prompt_embeds: Float[Tensor, "batch pooled"]

    def __len__(self) -> int:
        return len(self.prompt_embeds)

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> PromptEmbeds:
        """The chosen rows; an integer keeps the batch dimension."""
        rows = [index] if isinstance(index, int) else index
        return PromptEmbeds(self.prompt_embeds[rows], self.pooled_prompt_embeds[rows])

    def repeat_interleave(self, repeats: int) -> PromptEmbeds:
        """Every row `repeats` times, copies side by side."""
        return PromptEmbeds(
            self.prompt_embeds.repeat_interleave(repeats, 0), self.pooled_prompt_embeds.repeat_interleave(repeats, 0)
        )

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> PromptEmbeds:
        """The same rows on another device or in another dtype."""
        return PromptEmbeds(self.prompt_embeds.to(device, dtype), self.pooled_prompt_embeds.to(device, dtype))

    @staticmethod
    def cat(parts: Sequence[PromptEmbeds]) -> PromptEmbeds:
        """Rows of several batches, one after the other."""
        return PromptEmbeds(
            torch.cat([part.prompt_embeds for part in parts]), torch.cat([part.pooled_prompt_embeds for part in parts])
        )


class PromptEncoder:
    """Two tokenizers and two frozen text encoders behind a cache of prompts.

    Each prompt is encoded alone, so its embedding does not depend on what else was asked for, or when. The cache lies
    in main memory; it keeps answering after `free()`.

    Args:
        tokenizers: SDXL's `tokenizer` and `tokenizer_2`.
        text_encoders: SDXL's `text_encoder` and `text_encoder_2`.
        force_zeros_for_empty_prompt: the pipeline's setting; without a negative prompt the unconditional embedding is
            then zero instead of the embedding of "".
    """

    def __init__(
        self,
        tokenizers: tuple[CLIPTokenizer, CLIPTokenizer],
        text_encoders: tuple[CLIPTextModel, CLIPTextModelWithProjection],
        force_zeros_for_empty_prompt: bool = True,
    ) -> None:
        self.tokenizers = tokenizers
        self.text_encoders: tuple[CLIPTextModel, CLIPTextModelWithProjection] | None = text_encoders
        self.force_zeros_for_empty_prompt = force_zeros_for_empty_prompt
        self._cache: dict[str, PromptEmbeds] = {}

    def encode(self, prompts: Sequence[str]) -> PromptEmbeds:
        """Embeddings of the prompts, one row each, in main memory.

        Raises:
            InputError: if a prompt has more tokens than the encoders take (the message names the words that do not
                fit), or was never encoded before `free()`.
        """
        if isinstance(prompts, str):
            raise TypeError(f"Expected a sequence of prompts, but got the single text {prompts!r}.")
        if not prompts:
            raise InputError("Expected at least one prompt, but got none; name one.")
        for prompt in prompts:
            if prompt not in self._cache:
                self._cache[prompt] = self._encode_one(prompt)
        return PromptEmbeds.cat([self._cache[prompt] for prompt in prompts])

    def encode_negative(self, negative_prompt: str | None) -> PromptEmbeds:
        """The unconditional row of guidance; None means the pipeline's own default (zeros, or the embedding of "")."""
        if negative_prompt is None and self.force_zeros_for_empty_prompt:
            # Any row tells the shape; after `free()` one is at hand unless nothing was ever encoded.
            like = next(iter(self._cache.values()), None) or self.encode([""])
            return PromptEmbeds(torch.zeros_like(like.prompt_embeds), torch.zeros_like(like.pooled_prompt_embeds))
        return self.encode([negative_prompt or ""])

    def free(self) -> None:
        """Drop the text encoders; cached prompts still answer."""
        self.text_encoders = None
        logger.info("Freed the text encoders; %d prompts stay cached.", len(self._cache))

    def to(self, device: torch.device | str) -> None:
        """Move the text encoders, if they are still held."""
        for text_encoder in self.text_encoders or ():
            nn.Module.to(text_encoder, device)

    @torch.no_grad()
    def _encode_one(self, prompt: str) -> PromptEmbeds:
        if self.text_encoders is None:
            raise InputError(
                f"Expected a prompt encoded before the text encoders were freed, but got {prompt!r}; encode it first."
            )
        outputs = []
        for tokenizer, text_encoder in zip(self.tokenizers, self.text_encoders, strict=True):
            _check_length(prompt, tokenizer)
            tokens = tokenizer(
                [prompt], padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt"
            )
            outputs.append(text_encoder(tokens.input_ids.to(text_encoder.device), output_hidden_states=True))
        prompt_embeds = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        return PromptEmbeds(prompt_embeds.cpu(), outputs[-1].text_embeds.cpu())


def _check_length(prompt: str, tokenizer: CLIPTokenizer) -> None:
    """Raise if the tokenizer would cut the prompt, naming the words from the first that does not fit."""
    limit = tokenizer.model_max_length
    if len(tokenizer(prompt).input_ids) <= limit:
        return
    words = prompt.split()
    lengths = (len(tokenizer(" ".join(words[: count + 1])).input_ids) for count in range(len(words)))
    fitting = next((count for count, length in enumerate(lengths) if length > limit), len(words))
    raise InputError(
        f"Expected a prompt of at most {limit} tokens, but these words do not fit: {' '.join(words[fitting:])!r} "
        f"(in {prompt!r}); shorten it."
    )
