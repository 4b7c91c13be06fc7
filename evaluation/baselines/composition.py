"""Score composition with a delayed start: the slider's target score, composed anew at every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from evaluation.baselines.prompts import concept_prompts, edited_prompt
from evaluation.baselines.sampling import check_request, denoise, guided_noise
from evaluation.grids import GridRow
from slider_lightning.backbone import Backbone, PromptEmbeds, SamplerConfig, classifier_free_guidance
from slider_lightning.concepts import Concept


@dataclass(frozen=True)
class Composition:
    """Scores composed at inference (Liu et al. 2022, arXiv 2206.01714) after a common start (SDEdit, arXiv 2108.01073).

    Above start_timestep the row's prompt alone draws the structure; from there eq. 2 steers, with eta = the scale s:
    eps = eps(uncond) + guidance_scale (eps(c_t) + s (eps(c+) - eps(c-)) - eps(uncond)). The prompt of the row is c_t,
    its edits to both poles are c+ and c-. The weights sum to one, so the same holds for models that predict v.

    An image costs four UNet samples a step where the concept acts; the start is computed once per row for all scales.

    Args:
        concept: its target and poles.
    """

    concept: Concept

    @property
    def name(self) -> str:
        """`composition`."""
        return "composition"

    def depends_on(self) -> dict[str, Any]:
        """The concept's prompts."""
        return {"concept": concept_prompts(self.concept)}

    def generate(
        self,
        backbone: Backbone,
        rows: Sequence[GridRow],
        scales: Sequence[float],
        sampler: SamplerConfig,
        *,
        batch_size: int,
    ) -> Float[Tensor, "rows scales 3 height width"]:
        """See `evaluation.grids.Method`; `batch_size` rows take a step together, `batch_size` images a UNet call."""
        check_request(rows, scales, batch_size)
        images = []
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            latents = self._latents(backbone, part, scales, sampler, batch_size)
            images.append(backbone.decode(latents).cpu().unflatten(0, (len(part), len(scales))))
        return torch.cat(images)

    def _latents(
        self,
        backbone: Backbone,
        rows: Sequence[GridRow],
        scales: Sequence[float],
        sampler: SamplerConfig,
        batch_size: int,
    ) -> Float[Tensor, "images 4 h w"]:
        """Final latents, the scales of a row side by side."""
        branches = len(scales)
        strengths = (
            torch.tensor(scales, dtype=torch.float32, device=backbone.device).repeat(len(rows)).view(-1, 1, 1, 1)
        )
        prompts = [[edited_prompt(row, self.concept, scale) for row in rows] for scale in (0, 1, -1)]
        target, positive, negative = (backbone.encode_prompts(texts) for texts in prompts)
        uncond = backbone.encode_negative_prompt()
        triples = [embeds.repeat_interleave(branches) for embeds in (target, positive, negative)]

        def predict(model_input: Tensor, timestep: Tensor, _: float) -> Tensor:
            if timestep > sampler.start_timestep:
                start = model_input[::branches]
                noise_pred = guided_noise(backbone, start, timestep, target, uncond, sampler.guidance_scale)
                return noise_pred.repeat_interleave(branches, 0)
            parts = [
                composed_noise(
                    backbone,
                    model_input[images],
                    timestep,
                    [embeds[images] for embeds in triples],
                    uncond,
                    strengths[images].view(-1, 1, 1, 1),
                    sampler.guidance_scale,
                )
                for images in torch.arange(len(model_input)).split(batch_size)
            ]
            return torch.cat(parts)

        seeds = [row.seed for row in rows for _ in scales]
        return denoise(backbone, seeds, sampler, predict)


def composed_noise(
    backbone: Backbone,
    model_input: Float[Tensor, "batch 4 h w"],
    timestep: Tensor,
    triple: Sequence[PromptEmbeds],
    negative_embeds: PromptEmbeds,
    eta: Float[Tensor, "batch 1 1 1"],
    guidance_scale: float,
) -> Float[Tensor, "batch 4 h w"]:
    """eps(uncond) + guidance_scale (eps(c_t) + eta (eps(c+) - eps(c-)) - eps(uncond)), eq. 2 under guidance.

    One UNet call; at a guidance of 1 or below there is no unconditional row, as in the pipeline.

    Args:
        backbone: the frozen model.
        model_input: latents, scaled by the scheduler.
        timestep: where they are.
        triple: embeddings of c_t, c+ and c-, one per row each.
        negative_embeds: the unconditional prompt, one for all.
        eta: strength per row.
        guidance_scale: strength of the guidance.
    """
    guided = guidance_scale > 1
    asked = [*triple, negative_embeds.repeat_interleave(len(model_input))] if guided else list(triple)
    noise_pred = backbone.predict_noise(torch.cat([model_input] * len(asked)), timestep, PromptEmbeds.cat(asked))
    noise_target, noise_positive, noise_negative, *noise_uncond = noise_pred.chunk(len(asked))
    composed = noise_target + eta * (noise_positive - noise_negative)
    return classifier_free_guidance(noise_uncond[0], composed, guidance_scale) if guided else composed
