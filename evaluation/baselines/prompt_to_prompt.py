"""Prompt-to-Prompt with refinement and re-weighting (Hertz et al. 2022, arXiv 2208.01626)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from evaluation.baselines.alignment import TokenMap, token_map
from evaluation.baselines.attention import AttentionControl, controlled_attention
from evaluation.baselines.prompts import concept_prompts, edited_prompt
from evaluation.baselines.sampling import check_request, denoise, guided_noise
from evaluation.grids import GridRow
from slider_lightning.backbone import Backbone, SamplerConfig
from slider_lightning.concepts import Concept
from slider_lightning.errors import InputError


@dataclass(frozen=True)
class PromptToPrompt:
    """The edited prompt drawn beside the row's own from the same noise, under attention maps lent by the latter.

    The sign of a scale chooses the pole. Its size is the method's own knob: while cross-attention is controlled, the
    maps of the tokens that are new in the edited prompt are multiplied by |scale| (re-weighting as released; 1 is plain
    refinement). Only the conditional half of guidance is controlled, as released. `start_timestep` is not used.

    Args:
        concept: its target and poles.
        cross_replace_steps: share of the steps, from the first, in which tokens that both prompts hold take the
            source's cross-attention maps; in [0, 1].
        self_replace_steps: the same for self-attention maps.
        self_replace_side: the largest side of a self-attention map that is lent, in pixels of the map.

    Raises:
        InputError: if a setting is out of range.
    """

    concept: Concept
    cross_replace_steps: float = 0.8
    self_replace_steps: float = 0.4
    self_replace_side: int = 32

    def __post_init__(self) -> None:
        for field in ("cross_replace_steps", "self_replace_steps"):
            if not 0 <= getattr(self, field) <= 1:
                raise InputError(
                    f"Expected {field} to be a share of the steps in [0, 1], but got {getattr(self, field)}; change it."
                )
        if self.self_replace_side < 1:
            raise InputError(
                f"Expected self_replace_side to be 1 pixel or more, but got {self.self_replace_side}; raise it, or set "
                "self_replace_steps to 0."
            )

    @property
    def name(self) -> str:
        """`prompt_to_prompt`."""
        return "prompt_to_prompt"

    def depends_on(self) -> dict[str, Any]:
        """The concept's prompts and the settings."""
        return {
            "concept": concept_prompts(self.concept),
            "cross_replace_steps": self.cross_replace_steps,
            "self_replace_steps": self.self_replace_steps,
            "self_replace_side": self.self_replace_side,
        }

    def generate(
        self,
        backbone: Backbone,
        rows: Sequence[GridRow],
        scales: Sequence[float],
        sampler: SamplerConfig,
        *,
        batch_size: int,
    ) -> Float[Tensor, "rows scales 3 height width"]:
        """See `evaluation.grids.Method`; a row's source and edits share a UNet call, so one holds a row or more."""
        check_request(rows, scales, batch_size)
        size = max(1, batch_size // (1 + len(scales)))
        images = []
        for start in range(0, len(rows), size):
            edits = self.latents(backbone, rows[start : start + size], scales, sampler)[:, 1:]
            images.append(backbone.decode(edits.flatten(0, 1)).cpu().unflatten(0, edits.shape[:2]))
        return torch.cat(images)

    def latents(
        self, backbone: Backbone, rows: Sequence[GridRow], scales: Sequence[float], sampler: SamplerConfig
    ) -> Float[Tensor, "rows branches 4 h w"]:
        """Final latents: per row the source's, which is the model's own image, then one per scale."""
        sources = [row.prompt for row in rows]
        edits = [[edited_prompt(row, self.concept, scale) for scale in scales] for row in rows]
        branches = 1 + len(scales)
        prompts = [prompt for source, edited in zip(sources, edits, strict=True) for prompt in (source, *edited)]
        embeds, negative_embeds = backbone.encode_prompts(prompts), backbone.encode_negative_prompt()
        tokens = token_map(backbone, sources, edits, [abs(scale) for scale in scales])
        unconditional = len(prompts) if sampler.guidance_scale > 1 else 0

        def predict(model_input: Tensor, timestep: Tensor, done: float) -> Tensor:
            control = self._control(done, branches, unconditional, tokens)
            with nullcontext() if control is None else controlled_attention(backbone.unet, control):
                return guided_noise(backbone, model_input, timestep, embeds, negative_embeds, sampler.guidance_scale)

        seeds = [row.seed for row in rows for _ in range(branches)]
        latents = denoise(backbone, seeds, sampler, predict)
        return latents.unflatten(0, (len(rows), branches))

    def _control(self, done: float, branches: int, unconditional: int, tokens: TokenMap) -> AttentionControl | None:
        """What is lent when a share `done` of the steps is behind; None when nothing is."""
        cross, own = done < self.cross_replace_steps, done < self.self_replace_steps
        if not cross and not own:
            return None
        side = self.self_replace_side if own else 0
        return AttentionControl(branches, unconditional, tokens if cross else None, side)
