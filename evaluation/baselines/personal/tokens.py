"""A placeholder token with vectors of its own in both text encoders, beside the frozen ones.

        input_ids --- id below first_id: frozen embedding (shared with the backbone) ---+
                  \\                                                                     + --- the frozen text encoder
                   --- id from first_id on: a learned vector ---------------------------+

Textual Inversion (Gal et al. 2022) trains these vectors and nothing else; Custom Diffusion (Kumari et al. 2023) trains
them beside the cross-attention's keys and values.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from slider_lightning.backbone import PromptEmbeds, PromptEncoder
from slider_lightning.errors import InputError

# Names of the two encoders' vectors in files, as loaders of SDXL embeddings know them.
ENCODER_KEYS = ("clip_l", "clip_g")
_TOKEN = re.compile(r"<[^<>\s]+>")
_TextEncoder = TypeVar("_TextEncoder", CLIPTextModel, CLIPTextModelWithProjection)


@dataclass(frozen=True)
class Placeholder:
    """The word that stands for what is learned, and how many vectors it takes.

    Args:
        token: in angle brackets, e.g. "<eyes>".
        num_vectors: at least 1.

    Raises:
        InputError: if the token has another form, or there is no vector.
    """

    token: str
    num_vectors: int = 1

    def __post_init__(self) -> None:
        if not _TOKEN.fullmatch(self.token):
            raise InputError(
                f"Expected a placeholder token such as <eyes>, but got {self.token!r}; put one word in angle brackets."
            )
        if self.num_vectors < 1:
            raise InputError(f"Expected num_vectors to be 1 or more, but got {self.num_vectors}; raise it.")

    @property
    def words(self) -> tuple[str, ...]:
        """One word per vector: "<eyes>", "<eyes>_1", ..., the names that diffusers gives them."""
        return (self.token, *(f"{self.token}_{number}" for number in range(1, self.num_vectors)))

    def expand(self, prompt: str) -> str:
        """The prompt with all words of the token wherever the token stands."""
        return prompt.replace(self.token, " ".join(self.words))


class LearnedVectors(nn.Module):
    """The fp32 vectors of a placeholder.

    Args:
        placeholder: the token.
        clip_l: its vectors in `text_encoder`.
        clip_g: its vectors in `text_encoder_2`.

    Raises:
        ValueError: if there is not one row per vector.
    """

    def __init__(
        self, placeholder: Placeholder, clip_l: Float[Tensor, "vectors dim"], clip_g: Float[Tensor, "vectors dim_2"]
    ) -> None:
        super().__init__()
        if {len(clip_l), len(clip_g)} != {placeholder.num_vectors}:
            raise ValueError(f"Expected {placeholder.num_vectors} rows, but got {len(clip_l)} and {len(clip_g)}.")
        self.placeholder = placeholder
        self.clip_l = nn.Parameter(clip_l.detach().float().clone())
        self.clip_g = nn.Parameter(clip_g.detach().float().clone())

    @classmethod
    def initial(
        cls, prompt_encoder: PromptEncoder, placeholder: Placeholder, initializer: str | None
    ) -> LearnedVectors:
        """Vectors that start as the embedding of a word, or as the mean of the vocabulary where `initializer` is None.

        Raises:
            InputError: if the text encoders were freed, or the word is no single token of both vocabularies.
        """
        rows = [
            _initial_vector(tokenizer, text_encoder.get_input_embeddings(), initializer)
            for tokenizer, text_encoder in zip(prompt_encoder.tokenizers, _held_encoders(prompt_encoder), strict=True)
        ]
        return cls(placeholder, *(row.expand(placeholder.num_vectors, -1) for row in rows))

    def pair(self) -> tuple[nn.Parameter, nn.Parameter]:
        """The vectors of `text_encoder` and of `text_encoder_2`."""
        return self.clip_l, self.clip_g


class ExtendedEmbedding(nn.Module):
    """A frozen embedding with learned rows behind it.

    Args:
        frozen: the embedding of the vocabulary.
        learned: one row per id from `first_id` on.
        first_id: the first id that is looked up in `learned`.
    """

    def __init__(self, frozen: nn.Embedding, learned: nn.Parameter, first_id: int) -> None:
        super().__init__()
        self.frozen = frozen
        self.learned = learned
        self.first_id = first_id

    def forward(self, input_ids: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens dim"]:
        """Embeddings in the frozen one's dtype."""
        is_learned = input_ids >= self.first_id
        embeds = self.frozen(input_ids.masked_fill(is_learned, 0))
        rows = self.learned.to(embeds.device, embeds.dtype)[(input_ids - self.first_id).clamp_min(0)]
        return torch.where(is_learned[..., None], rows, embeds)


class TokenPromptEncoder:
    """Tokenizers and text encoders that know a placeholder token; the backbone's own stay as they are.

    The encoders share every weight with the backbone's, so they cost no memory; only their embedding layer is another.

    Args:
        prompt_encoder: the backbone's, still holding its text encoders.
        vectors: the placeholder's vectors; what they become later counts.

    Raises:
        InputError: if the text encoders were freed, the vectors are of another width than they take, or a word of the
            placeholder is already in a vocabulary.
    """

    def __init__(self, prompt_encoder: PromptEncoder, vectors: LearnedVectors) -> None:
        self.placeholder = vectors.placeholder
        text_encoder, text_encoder_2 = _held_encoders(prompt_encoder)
        tokenizer, tokenizer_2 = (
            _extended_tokenizer(tokenizer, self.placeholder) for tokenizer in prompt_encoder.tokenizers
        )
        self.tokenizers = (tokenizer, tokenizer_2)
        self.text_encoders = (
            _extended_encoder(text_encoder, tokenizer, self.placeholder, vectors.clip_l),
            _extended_encoder(text_encoder_2, tokenizer_2, self.placeholder, vectors.clip_g),
        )

    def to(self, device: torch.device | str) -> None:
        """Move the encoders; the backbone's weights, which they share, move along."""
        for text_encoder in self.text_encoders:
            nn.Module.to(text_encoder, device)

    def encode(self, prompts: Sequence[str]) -> PromptEmbeds:
        """Embeddings of the prompts, one row each, in one batch and with gradients to the vectors.

        Equal to `frozen_embeds` up to rounding. Check the prompts' length with that first.
        """
        expanded = [self.placeholder.expand(prompt) for prompt in prompts]
        unique = list(dict.fromkeys(expanded))
        outputs = []
        for tokenizer, text_encoder in zip(self.tokenizers, self.text_encoders, strict=True):
            tokens = tokenizer(unique, padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt")
            outputs.append(text_encoder(tokens.input_ids.to(text_encoder.device), output_hidden_states=True))
        prompt_embeds = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        return PromptEmbeds(prompt_embeds, outputs[-1].text_embeds)[[unique.index(prompt) for prompt in expanded]]

    def frozen_embeds(self, prompts: Sequence[str]) -> PromptEmbeds:
        """Embeddings of the prompts with the vectors as they are now, each encoded alone, in main memory.

        Raises:
            InputError: if a prompt is too long.
        """
        # A new one each time: its cache would keep what older vectors gave.
        encoder = PromptEncoder(self.tokenizers, self.text_encoders)
        return encoder.encode([self.placeholder.expand(prompt) for prompt in prompts])


def _held_encoders(prompt_encoder: PromptEncoder) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    if prompt_encoder.text_encoders is None:
        raise InputError(
            "Expected a model that still holds its text encoders, but they were freed; load the model again to use a "
            "learned token."
        )
    return prompt_encoder.text_encoders


def _initial_vector(tokenizer: CLIPTokenizer, embedding: nn.Module, initializer: str | None) -> Float[Tensor, "1 dim"]:
    assert isinstance(embedding, nn.Embedding)
    vectors = embedding.weight.detach().float()
    if initializer is None:
        return vectors.mean(0, keepdim=True)
    ids = tokenizer(initializer, add_special_tokens=False).input_ids
    if len(ids) != 1:
        raise InputError(
            f"Expected an initializer that is one word of the model's vocabulary, but {initializer!r} is cut into "
            f"{len(ids)} tokens; choose another word, or null for the mean of all."
        )
    return vectors[ids]


def _extended_tokenizer(tokenizer: CLIPTokenizer, placeholder: Placeholder) -> CLIPTokenizer:
    known = [word for word in placeholder.words if word in tokenizer.get_vocab()]
    if known:
        raise InputError(
            f"Expected a placeholder token that the model does not know, but {known[0]} is in its vocabulary already; "
            "choose another."
        )
    extended = copy.deepcopy(tokenizer)
    extended.add_tokens(list(placeholder.words))
    return extended


def _extended_encoder(
    text_encoder: _TextEncoder, tokenizer: CLIPTokenizer, placeholder: Placeholder, vectors: nn.Parameter
) -> _TextEncoder:
    frozen = text_encoder.get_input_embeddings()
    assert isinstance(frozen, nn.Embedding)
    if vectors.shape[1] != frozen.embedding_dim:
        raise InputError(
            f"Expected vectors of {frozen.embedding_dim} numbers for {type(text_encoder).__name__}, but those of "
            f"{placeholder.token} have {vectors.shape[1]}; use it with the model it was trained on."
        )
    # Parameters named in the memo are taken as they are, so the copy holds the very same weights.
    shared = {id(parameter): parameter for parameter in text_encoder.parameters()}
    extended = copy.deepcopy(text_encoder, shared)
    first_id = tokenizer.get_vocab()[placeholder.token]
    extended.set_input_embeddings(ExtendedEmbedding(frozen, vectors, first_id))
    for module in extended.modules():
        if hasattr(module, "eos_token_id"):
            # SDXL's own configuration says 2; transformers then pools at the highest id, which is the placeholder's.
            module.eos_token_id = tokenizer.eos_token_id
    return extended
