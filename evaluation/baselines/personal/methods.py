"""Textual Inversion and Custom Diffusion as methods of an image grid: the token in the row's prompt."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from evaluation.baselines.personal.concept import Kind, LearnedConcept
from evaluation.baselines.personal.files import ConceptMetadata, load_concept, tensors_digest
from evaluation.baselines.personal.tokens import TokenPromptEncoder
from evaluation.baselines.sampling import check_request
from evaluation.grids import GridRow
from slider_lightning.backbone import Backbone, PromptEmbeds, SamplerConfig, initial_noise, sample, step_generators
from slider_lightning.errors import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _PersonalMethod:
    """What both methods share: the file, the prompt, one image per seed.

    Args:
        source: run folder of train_baseline, or its file.
        template: what becomes of a row's prompt; holds "{prompt}" and "{token}".

    Raises:
        InputError: if the file is missing, damaged or of the other method, or the template lacks a field.
    """

    source: str
    template: str = "{prompt}, {token}"
    kind: ClassVar[Kind]

    def __post_init__(self) -> None:
        if "{prompt}" not in self.template or "{token}" not in self.template:
            raise InputError(
                f"Expected a template with {{prompt}} and {{token}}, but got {self.template!r}; write both into it."
            )
        if self.metadata.kind != self.kind:
            raise InputError(f"Expected {self.source} to hold a {self.kind}, but it holds a {self.metadata.kind}.")

    @property
    def name(self) -> str:
        """The method's identifier."""
        return self.kind

    @property
    def concept(self) -> LearnedConcept:
        """What was learned."""
        return self._loaded[0]

    @property
    def metadata(self) -> ConceptMetadata:
        """What its file says."""
        return self._loaded[1]

    def depends_on(self) -> dict[str, Any]:
        """The learned values, the token and the template."""
        digest = tensors_digest(self.concept.named_tensors())
        return {"learned_sha256": digest, "token": self.concept.token, "template": self.template}

    def prompt(self, row: GridRow) -> str:
        """The row's prompt with the token in it."""
        return self.template.replace("{token}", self.concept.token).replace("{prompt}", row.prompt)

    @cached_property
    def _loaded(self) -> tuple[LearnedConcept, ConceptMetadata]:
        return load_concept(self.source)

    def _embeds(self, backbone: Backbone, rows: Sequence[GridRow], scales: Sequence[float]) -> PromptEmbeds:
        """Embeddings of the rows' prompts, after all checks."""
        _check_positive(scales, self.name)
        if self.metadata.base_model_hash != backbone.fingerprint:
            logger.warning(
                "%s was trained on %s, not on %s: check its effect.",
                self.source,
                self.metadata.base_model,
                backbone.name,
            )
        encoder = TokenPromptEncoder(backbone.prompt_encoder, self.concept.vectors)
        return encoder.frozen_embeds([self.prompt(row) for row in rows]).to(backbone.device, backbone.dtype)


@dataclass(frozen=True)
class TextualInversion(_PersonalMethod):
    """Gal et al. 2022 for both of SDXL's text encoders: the learned token is put into the row's prompt.

    The method has no knob and no opposite: every positive scale gives the same image, negative ones are refused.
    `start_timestep` is not used, the prompt holds from the first step on.
    """

    kind: ClassVar[Kind] = "textual_inversion"

    def generate(
        self,
        backbone: Backbone,
        rows: Sequence[GridRow],
        scales: Sequence[float],
        sampler: SamplerConfig,
        *,
        batch_size: int,
    ) -> Float[Tensor, "rows scales 3 height width"]:
        """See `evaluation.grids.Method`; a row is drawn once for all scales."""
        check_request(rows, scales, batch_size)
        embeds = self._embeds(backbone, rows, scales)
        images = images_of(backbone, embeds, [row.seed for row in rows], sampler, batch_size)
        return images[:, None].repeat(1, len(scales), 1, 1, 1)


@dataclass(frozen=True)
class CustomDiffusion(_PersonalMethod):
    """Kumari et al. 2023: the learned token in the row's prompt, and the changed keys and values in the UNet.

    The published method has no knob. Here the scale multiplies the change of keys and values, 1 being as trained; the
    token is in the prompt at any scale, and negative scales are refused. `start_timestep` is not used.
    """

    kind: ClassVar[Kind] = "custom_diffusion"

    def generate(
        self,
        backbone: Backbone,
        rows: Sequence[GridRow],
        scales: Sequence[float],
        sampler: SamplerConfig,
        *,
        batch_size: int,
    ) -> Float[Tensor, "rows scales 3 height width"]:
        """See `evaluation.grids.Method`; the UNet's weights are never touched."""
        check_request(rows, scales, batch_size)
        embeds = self._embeds(backbone, rows, scales)
        assert self.concept.deltas is not None
        self.concept.deltas.check_fits(backbone.unet)
        columns = []
        for scale in scales:
            with torch.no_grad(), self.concept.applied(backbone.unet, scale):
                columns.append(images_of(backbone, embeds, [row.seed for row in rows], sampler, batch_size))
        return torch.stack(columns, dim=1)


def images_of(
    backbone: Backbone, embeds: PromptEmbeds, seeds: Sequence[int], sampler: SamplerConfig, batch_size: int
) -> Float[Tensor, "rows 3 height width"]:
    """One image per row of embeddings in [0, 1], in main memory; the frozen model's own sampling loop."""
    negative_embeds = backbone.encode_negative_prompt()
    images = []
    for start in range(0, len(seeds), batch_size):
        group = list(range(start, min(start + batch_size, len(seeds))))
        group_seeds = [seeds[position] for position in group]
        latents = sample(
            backbone,
            None,
            embeds[group],
            negative_embeds,
            initial_noise(backbone.latent_shape, group_seeds),
            None,
            sampler,
            generators=step_generators(backbone.latent_shape, group_seeds),
        )
        images.append(backbone.decode(latents).cpu())
    return torch.cat(images)


def _check_positive(scales: Sequence[float], name: str) -> None:
    if not all(scale > 0 for scale in scales):
        raise InputError(
            f"Expected scales above 0 for {name}, which learns one direction only, but got {list(scales)}; leave out "
            "the others."
        )
