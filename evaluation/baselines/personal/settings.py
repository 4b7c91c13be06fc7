"""What a researcher chooses of Textual Inversion and of Custom Diffusion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from evaluation.baselines.personal.concept import Kind, LearnedConcept
from evaluation.baselines.personal.deltas import KeyValueDeltas
from evaluation.baselines.personal.files import ConceptMetadata
from evaluation.baselines.personal.images import PriorConfig
from evaluation.baselines.personal.tokens import LearnedVectors, Placeholder
from slider_lightning.backbone import Backbone
from slider_lightning.errors import InputError


@dataclass(frozen=True)
class PersonalConfig:
    """What is learned, and under which prompts.

    Args:
        kind: "textual_inversion" trains the token's vectors, "custom_diffusion" the keys and values too.
        token: the placeholder, in angle brackets.
        initializer: word of the vocabulary that its vectors begin as; None is the mean of all.
        templates: training prompts with "{}" for the token; one is drawn for every use of an image.
        num_vectors: vectors per text encoder, at least 1.
        batch_size: images per step of one process; a prior adds as many of its own.
        flip: mirror images at random.
        prior: images of the class that custom_diffusion may keep, None for none.

    Raises:
        InputError: if a value is out of range, or textual_inversion is given a prior.
    """

    kind: Kind
    token: str
    initializer: str | None
    templates: tuple[str, ...]
    num_vectors: int = 1
    batch_size: int = 4
    flip: bool = False
    prior: PriorConfig | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise InputError(f"Expected kind to be one of {', '.join(get_args(Kind))}, but got {self.kind!r}.")
        if not self.templates or not all(template.count("{}") == 1 for template in self.templates):
            raise InputError(
                f"Expected templates that hold {{}} once, for the token, but got {list(self.templates)}; write it in."
            )
        if self.batch_size < 1:
            raise InputError(f"Expected batch_size to be 1 or more, but got {self.batch_size}; raise it.")
        if self.kind == "textual_inversion" and self.prior is not None:
            raise InputError(
                "Expected no prior for textual_inversion, which changes nothing that other prompts use, but got one; "
                "set it to null."
            )
        Placeholder(self.token, self.num_vectors)  # refuses what is no token

    @property
    def placeholder(self) -> Placeholder:
        """The token and its number of vectors."""
        return Placeholder(self.token, self.num_vectors)

    @property
    def prompts(self) -> tuple[str, ...]:
        """The training prompts."""
        return tuple(template.replace("{}", self.token) for template in self.templates)

    def initial_concept(self, backbone: Backbone) -> LearnedConcept:
        """The concept before training: it changes no image of a prompt without the token.

        Raises:
            InputError: if the initializer is no word of the vocabulary, or the text encoders were freed.
        """
        vectors = LearnedVectors.initial(backbone.prompt_encoder, self.placeholder, self.initializer)
        deltas = KeyValueDeltas.zero(backbone.unet) if self.kind == "custom_diffusion" else None
        return LearnedConcept(vectors, deltas)

    def metadata(self, base_model: str, base_model_hash: str) -> ConceptMetadata:
        """What the file will say about itself."""
        return ConceptMetadata(
            kind=self.kind,
            token=self.token,
            num_vectors=self.num_vectors,
            base_model=base_model,
            base_model_hash=base_model_hash,
            initializer=self.initializer,
            templates=self.templates,
        )
