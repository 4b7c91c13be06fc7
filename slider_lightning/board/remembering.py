"""What need not be computed again while a slider is dragged: predictions of the frozen model, and whole images."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from slider_lightning.backbone import Backbone, PromptEmbeds

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """A mapping that keeps what was used last.

    Args:
        size: how many entries are kept.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[Key, Value] = OrderedDict()

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Value | None:
        """The value, which is then the most recent one; None if it is not kept."""
        if key in self._entries:
            self._entries.move_to_end(key)
        return self._entries.get(key)

    def put(self, key: Key, value: Value) -> None:
        """Keep a value, and drop the least recent one where there is no room."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)


class RememberingBackbone(Backbone):
    """A backbone that predicts each noise above `start_timestep` once: no slider is on there, whatever its scale.

    Predictions are found by what they were made from (latents, timestep, prompt), so any scheduler, guidance and seed
    may change in between, and what is found is what would be computed. They count into `sample_forwards` once.

    Args:
        backbone: whose parts are shared.
        size: how many predictions are kept.
    """

    def __init__(self, backbone: Backbone, size: int) -> None:
        super().__init__(
            unet=backbone.unet,
            vae=backbone.vae,
            scheduler=backbone.scheduler,
            prompt_encoder=backbone.prompt_encoder,
            name=backbone.name,
            fingerprint=backbone.fingerprint,
            resolution=backbone.resolution,
        )
        self.start_timestep = 1000
        self._predictions: Recent[str, Tensor] = Recent(size)

    def predict_noise(
        self,
        latents: Float[Tensor, "batch 4 h w"],
        timestep: Tensor | float,
        embeds: PromptEmbeds,
        time_ids: Float[Tensor, "batch 6"] | None = None,
    ) -> Float[Tensor, "batch 4 h w"]:
        """As the backbone's own; timestep is one for all rows."""
        if float(timestep) <= self.start_timestep or time_ids is not None:
            return super().predict_noise(latents, timestep, embeds, time_ids)
        key = _digest(torch.tensor(float(timestep)), latents, embeds.prompt_embeds, embeds.pooled_prompt_embeds)
        noise_pred = self._predictions.get(key)
        if noise_pred is None:
            noise_pred = super().predict_noise(latents, timestep, embeds)
            self._predictions.put(key, noise_pred)
        return noise_pred


def _digest(*tensors: Tensor) -> str:
    """A hash of shapes and values."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
