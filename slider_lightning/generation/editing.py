"""Photographs edited by sliders through inversion; what every method of editing can do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from slider_lightning.adapters.bank import SliderBank
from slider_lightning.backbone import Backbone
from slider_lightning.generation.inversion import Guided, InversionConfig, OnForwards, halves, invert
from slider_lightning.generation.photographs import Photographs


class EditMethod(Protocol):
    """A way to edit photographs with sliders."""

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
        """Every photograph at every row of scales.

        Args:
            backbone: the frozen model.
            bank: the sliders on its UNet, attached; None for the model itself.
            photographs: of one size.
            prompts: what they show, one per photograph.
            scales: for each column the scales of the K sliders; (columns, 0) without a bank.
            batch_size: latents per UNet call; guidance doubles the rows of the call.
            on_forwards: told of the sample-forwards of every UNet call.

        Returns:
            Images in [0, 1], float32, in main memory.

        Raises:
            InputError: if the method does not fit the model, or a prompt is too long.
        """
        ...

    def sample_forwards(self, backbone: Backbone, photographs: int, columns: int) -> int:
        """What `edit` costs, in sample-forwards of the UNet."""
        ...


@dataclass(frozen=True)
class InversionEdit(InversionConfig):
    """Editing through inversion: the photograph's own path, walked with sliders on."""

    def sample_forwards(self, backbone: Backbone, photographs: int, columns: int) -> int:
        """What `edit` costs, in sample-forwards of the UNet."""
        edits = columns * len(self.levels(backbone)) * halves(self.guidance_scale)
        return photographs * (self.inversion_forwards(backbone) + edits)

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
        levels, columns = self.levels(backbone), len(scales)
        embeds, negative_embeds = backbone.encode_prompts(prompts), backbone.encode_negative_prompt()
        guided = Guided(backbone, bank, embeds, negative_embeds, photographs.time_ids, batch_size, on_forwards)
        inversion = invert(guided, photographs.mean, self)
        numbers = torch.arange(len(photographs)).repeat_interleave(columns)
        of_rows = None if bank is None else scales.repeat(len(photographs), 1)
        latents = inversion.states[0][numbers]
        for step, timestep in enumerate(levels.timesteps):
            noise_pred = guided(latents, timestep.expand(len(latents)), numbers, self.guidance_scale, of_rows)
            latents = levels.mean(latents, noise_pred, step, self.ddim_eta)
            if inversion.residuals is not None:
                latents = latents + inversion.residuals[step][numbers]
        return backbone.decode(latents).cpu().unflatten(0, (len(photographs), columns))


def edit_photographs(
    method: EditMethod,
    backbone: Backbone,
    bank: SliderBank | None,
    photographs: Sequence[Photographs],
    prompts: Sequence[str],
    scales: Float[Tensor, "columns sliders"],
    batch_size: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Float[Tensor, "columns 3 height width"]]:
    """Photographs of any sizes, those of one size together.

    Args:
        method: how.
        backbone: the frozen model.
        bank: the sliders on its UNet, attached.
        photographs: batches of one.
        prompts: one per photograph.
        scales: for each column the scales of the K sliders.
        batch_size: latents per UNet call.
        on_progress: called as (done, total) sample-forwards after every UNet call.

    Returns:
        One per photograph, in order, in [0, 1].

    Raises:
        InputError: if the method does not fit model or photographs, or a prompt is too long.
    """
    by_size: dict[torch.Size, list[int]] = {}
    for number, photograph in enumerate(photographs):
        by_size.setdefault(photograph.images.shape, []).append(number)
    on_forwards = _summed(on_progress, method.sample_forwards(backbone, len(photographs), len(scales)))
    edited: dict[int, Tensor] = {}
    for numbers in by_size.values():
        batch = Photographs.cat([photographs[number] for number in numbers])
        prompted = [prompts[number] for number in numbers]
        images = method.edit(backbone, bank, batch, prompted, scales, batch_size=batch_size, on_forwards=on_forwards)
        edited.update(zip(numbers, images, strict=True))
    return [edited[number] for number in range(len(photographs))]


def _summed(on_progress: Callable[[int, int], None] | None, total: int) -> OnForwards | None:
    if on_progress is None:
        return None
    done = 0

    def add(count: int) -> None:
        nonlocal done
        done += count
        on_progress(done, total)

    return add
