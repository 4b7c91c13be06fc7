"""What makes a frozen SDXL faster or smaller without another result."""

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from slider_lightning.errors import InputError


@dataclass(frozen=True)
class SpeedConfig:
    """How the networks run. It decides seconds and memory, so it is no part of a run's or a cache's name.

    Numbers change by rounding alone, as they do from one device to another. Only tiles of the VAE change more, and only
    in images larger than its own size.

    Fused attention needs no setting: diffusers' own processor calls `scaled_dot_product_attention`.

    Args:
        compile: backend of torch.compile for the UNet, e.g. "inductor"; None runs it as it is. Every kind of forward
            (frozen, under sliders, with gradients, another size) is compiled when it comes first, which takes minutes
            on SDXL, so this pays for long trainings.
        gradient_checkpointing: the UNet's own; a training step stores the inputs of its blocks and computes them twice.
            With `compile` the blocks that it covers run as they are while sliders train.
        channels_last: the UNet's convolutions in the layout that tensor cores read.
        vae_tiling: the VAE works on overlapping tiles of an image that is larger than its own size (1024 px for SDXL),
            which bounds memory and leaves faint seams.

    Raises:
        InputError: if torch has no such backend.
    """

    compile: str | None = None
    gradient_checkpointing: bool = False
    channels_last: bool = False
    vae_tiling: bool = False

    def __post_init__(self) -> None:
        # Asked only where it matters: the list of backends takes seconds to import.
        if self.compile is not None and self.compile not in (known := torch.compiler.list_backends(exclude_tags=())):
            raise InputError(
                f"Expected model.speed.compile to be null or one of {', '.join(known)}, but got {self.compile!r}; "
                "choose inductor."
            )

    def apply(self, unet: UNet2DConditionModel, vae: AutoencoderKL) -> None:
        """Set the networks up, in place: names of modules and state dict stay."""
        if self.channels_last:
            unet.to(memory_format=torch.channels_last)
        if self.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        if self.vae_tiling:
            vae.enable_tiling()
        if self.compile is not None:
            # Sliders are forward hooks that come and go. Unless compiled code asks whether they are still the same, a
            # forward compiled before a slider was hung on would go on without it.
            from torch._dynamo import config  # here, since it takes seconds and nothing else needs it

            config.skip_nnmodule_hook_guards = False
            unet.compile(backend=self.compile)
