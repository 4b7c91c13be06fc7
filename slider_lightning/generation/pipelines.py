"""diffusers' own img2img and inpainting pipelines with sliders on, for photographs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, StableDiffusionXLImg2ImgPipeline, StableDiffusionXLInpaintPipeline
from jaxtyping import Bool, Float, Int
from torch import Tensor

from slider_lightning.adapters.bank import SliderBank
from slider_lightning.backbone import Backbone, named_scheduler
from slider_lightning.errors import InputError
from slider_lightning.generation.inversion import OnForwards, halves
from slider_lightning.generation.photographs import Photographs, read_mask


@dataclass(frozen=True, kw_only=True)
class Img2ImgEdit:
    """Editing as SDEdit does (Meng et al. 2022): noise is laid on the photograph and taken away again with sliders on.

    At scale 0 it is `StableDiffusionXLImg2ImgPipeline` for the same seed, which does not give the photograph back: the
    lower the strength, the nearer.

    Args:
        strength: how much noise, above 0 and at most 1; this share of the steps is taken.
        num_inference_steps: steps from noise to the clean image.
        guidance_scale: classifier-free guidance; at 1 or below no unconditional half is computed.
        start_timestep: sliders are off above it.
        scheduler: class of diffusers that replaces the checkpoint's own scheduler; None keeps it.
        scheduler_settings: what else changes of the scheduler's configuration.
        seed: of the noise, the same for every photograph.

    Raises:
        InputError: if a value is out of range.
    """

    strength: float = 0.5
    num_inference_steps: int = 25
    guidance_scale: float = 4.0
    start_timestep: int = 750
    scheduler: str | None = None
    scheduler_settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1 or int(self.num_inference_steps * self.strength) < 1:
            raise InputError(
                f"Expected a strength in (0, 1] that leaves a step, but got {self.strength} of "
                f"{self.num_inference_steps} steps; raise one of them."
            )
        if self.guidance_scale < 0 or not 0 <= self.start_timestep <= 1000:
            raise InputError(
                f"Expected guidance_scale of 0 or more and start_timestep in 0..1000, but got {self.guidance_scale} "
                f"and {self.start_timestep}; change them."
            )

    def sample_forwards(self, backbone: Backbone, photographs: int, columns: int) -> int:
        """What `edit` costs, in sample-forwards of the UNet."""
        steps = len(self._timesteps(self._pipeline(backbone)))
        return photographs * columns * steps * halves(self.guidance_scale)

    @torch.no_grad()
    def edit(
        self,
        backbone: Backbone,
        bank: SliderBank | None,
        photographs: Photographs,
        prompts: Sequence[str],
        scales: Float[Tensor, "columns sliders"],
        *,
        batch_size: int = 32,
        on_forwards: OnForwards | None = None,
    ) -> Float[Tensor, "photographs columns 3 height width"]:
        """Every photograph at every row of scales; see `EditMethod`."""
        latents = []
        for rows in _calls(photographs, len(scales), batch_size):
            numbers, of_rows = rows // len(scales), scales[rows % len(scales)]
            prompted = [prompts[number] for number in numbers]
            latents.append(self._edited(backbone, bank, photographs[numbers], prompted, of_rows, on_forwards))
        return backbone.decode(torch.cat(latents)).cpu().unflatten(0, (len(photographs), len(scales)))

    def _edited(
        self,
        backbone: Backbone,
        bank: SliderBank | None,
        photographs: Photographs,
        prompts: Sequence[str],
        scales: Float[Tensor, "rows sliders"],
        on_forwards: OnForwards | None,
    ) -> Float[Tensor, "rows 4 h w"]:
        """One call of the pipeline, between latents: in half precision it would cast the backbone's VAE for good."""
        pipeline = self._pipeline(backbone)
        generators = [torch.Generator().manual_seed(self.seed) for _ in prompts]
        embeds, negative_embeds = backbone.encode_prompts(prompts), backbone.encode_negative_prompt()
        negative_embeds = negative_embeds.repeat_interleave(len(prompts))
        original_size, crop, target_size = photographs.time_ids[0].long().view(3, 2).tolist()
        with _Sliders(backbone, bank, scales, self, self._timesteps(pipeline), on_forwards) as sliders:
            return pipeline(
                image=photographs.sampled(generators).to(backbone.dtype),
                strength=self.strength,
                num_inference_steps=self.num_inference_steps,
                guidance_scale=self.guidance_scale,
                prompt_embeds=embeds.prompt_embeds,
                pooled_prompt_embeds=embeds.pooled_prompt_embeds,
                negative_prompt_embeds=negative_embeds.prompt_embeds,
                negative_pooled_prompt_embeds=negative_embeds.pooled_prompt_embeds,
                original_size=tuple(original_size),
                crops_coords_top_left=tuple(crop),
                target_size=tuple(target_size),
                generator=generators,
                output_type="latent",
                callback_on_step_end=sliders.on_step_end,
                **self._more_arguments(photographs),
            ).images

    def _more_arguments(self, photographs: Photographs) -> dict[str, Any]:
        return {}

    def _pipeline(self, backbone: Backbone) -> DiffusionPipeline:
        return _pipeline(StableDiffusionXLImg2ImgPipeline, backbone, self)

    def _timesteps(self, pipeline: DiffusionPipeline) -> list[float]:
        """Those at which the pipeline will ask the UNet."""
        pipeline.scheduler.set_timesteps(self.num_inference_steps)
        return pipeline.get_timesteps(self.num_inference_steps, self.strength, "cpu")[0].tolist()


@dataclass(frozen=True, kw_only=True)
class InpaintEdit(Img2ImgEdit):
    """Editing inside a mask; outside it the photograph stays what it was, to the last bit.

    At scale 0 it is, inside the mask, `StableDiffusionXLInpaintPipeline` on SDXL's four-channel UNet: at every step
    what lies outside is replaced by the photograph under noise.

    Args:
        mask: image file of the photograph's size; white is edited.
    """

    mask: str
    strength: float = 0.75

    def edit(
        self,
        backbone: Backbone,
        bank: SliderBank | None,
        photographs: Photographs,
        prompts: Sequence[str],
        scales: Float[Tensor, "columns sliders"],
        *,
        batch_size: int = 32,
        on_forwards: OnForwards | None = None,
    ) -> Float[Tensor, "photographs columns 3 height width"]:
        """Every photograph at every row of scales; see `EditMethod`."""
        edited = super().edit(
            backbone, bank, photographs, prompts, scales, batch_size=batch_size, on_forwards=on_forwards
        )
        return torch.where(self._inside(photographs), edited, photographs.images[:, None])

    def _more_arguments(self, photographs: Photographs) -> dict[str, Any]:
        height, width = photographs.images.shape[-2:]
        mask = self._inside(photographs)[None, None].float()
        return {"mask_image": mask.expand(len(photographs), -1, -1, -1), "height": height, "width": width}

    def _inside(self, photographs: Photographs) -> Bool[Tensor, "height width"]:
        return read_mask(Path(self.mask), photographs)

    def _pipeline(self, backbone: Backbone) -> DiffusionPipeline:
        return _pipeline(StableDiffusionXLInpaintPipeline, backbone, self)


class _Sliders:
    """The sliders during one call of a pipeline: off until a timestep at which they act, then on to its end.

    Args:
        backbone: whose forwards are counted.
        bank: the sliders; None for none.
        scales: of the rows of the call.
        config: guidance and start_timestep.
        timesteps: of the UNet's forwards, in order.
        on_forwards: told of the sample-forwards of every UNet call.
    """

    def __init__(
        self,
        backbone: Backbone,
        bank: SliderBank | None,
        scales: Float[Tensor, "rows sliders"],
        config: Img2ImgEdit,
        timesteps: Sequence[float],
        on_forwards: OnForwards | None,
    ) -> None:
        self._backbone = backbone
        self._bank = bank
        self._scales = scales.repeat(halves(config.guidance_scale), 1)
        self._first = next((n for n, t in enumerate(timesteps) if t <= config.start_timestep), len(timesteps))
        self._on_forwards = on_forwards
        self._on = ExitStack()

    def __enter__(self) -> _Sliders:
        self._before(0)
        return self

    def __exit__(self, *_: object) -> None:
        self._on.close()

    def on_step_end(self, _: Any, step: int, __: Any, ___: dict[str, Any]) -> dict[str, Any]:
        """The pipeline's callback; it changes none of its tensors."""
        self._backbone.sample_forwards += len(self._scales)
        if self._on_forwards is not None:
            self._on_forwards(len(self._scales))
        self._before(step + 1)
        return {}

    def _before(self, step: int) -> None:
        if self._bank is not None and step == self._first:
            self._on.enter_context(self._bank.scales(self._scales))


def _pipeline(kind: Callable[..., DiffusionPipeline], backbone: Backbone, config: Img2ImgEdit) -> DiffusionPipeline:
    """A pipeline of the backbone's own parts and a scheduler of its own; it gets embeddings instead of prompts."""
    template = named_scheduler(backbone.scheduler, config.scheduler, config.scheduler_settings)
    pipeline = kind(
        vae=backbone.vae,
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=backbone.unet,
        scheduler=type(template).from_config(template.config),
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _calls(photographs: Photographs, columns: int, batch_size: int) -> Iterator[Int[Tensor, " rows"]]:
    """Rows (photographs x columns) that pass the pipeline together: it takes one size conditioning a call."""
    of_rows = photographs.time_ids.repeat_interleave(columns, 0).tolist()
    for _, group in groupby(range(len(of_rows)), key=lambda row: of_rows[row]):
        yield from torch.tensor(list(group)).split(batch_size)
