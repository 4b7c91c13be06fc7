"""SDXL's architecture with random weights, whole or scaled down, made where it runs and without the hub."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel

from slider_lightning.backbone import Backbone, PromptEmbeds, PromptEncoder, SpeedConfig

TOKENS = 77
_TIME_ID_DIM = 256
_TIME_IDS = 6


@dataclass(frozen=True)
class UNetSize:
    """Widths and depths of an SDXL UNet; the defaults are those of SDXL base 1.0.

    Args:
        channels: of the three resolutions.
        heads: of the attention at each.
        depths: transformer blocks per attention at each; the first resolution has none.
        prompt_width: of a token of the prompt.
        pooled_width: of the pooled prompt.
        norm_groups: of every group norm.
    """

    channels: tuple[int, int, int] = (320, 640, 1280)
    heads: tuple[int, int, int] = (5, 10, 20)
    depths: tuple[int, int, int] = (1, 2, 10)
    prompt_width: int = 2048
    pooled_width: int = 1280
    norm_groups: int = 32


class RandomPrompts(PromptEncoder):
    """Embeddings as SDXL's text encoders shape them, drawn from the prompt's own hash.

    Args:
        prompt_width: of a token.
        pooled_width: of the pooled prompt.
    """

    def __init__(self, prompt_width: int, pooled_width: int) -> None:
        super().__init__((), (), force_zeros_for_empty_prompt=True)  # type: ignore[arg-type]
        self.prompt_width = prompt_width
        self.pooled_width = pooled_width

    def encode(self, prompts: Sequence[str]) -> PromptEmbeds:
        """One row per prompt, standard normal."""
        return PromptEmbeds.cat([self._drawn(prompt) for prompt in prompts])

    def _drawn(self, prompt: str) -> PromptEmbeds:
        seed = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "big")
        generator = torch.Generator().manual_seed(seed)
        return PromptEmbeds(
            torch.randn(1, TOKENS, self.prompt_width, generator=generator),
            torch.randn(1, self.pooled_width, generator=generator),
        )


def build_unet(size: UNetSize) -> UNet2DConditionModel:
    """The UNet with random weights, on torch's default device and in its default dtype."""
    return UNet2DConditionModel(
        sample_size=128,
        in_channels=4,
        out_channels=4,
        block_out_channels=size.channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        transformer_layers_per_block=size.depths,
        attention_head_dim=size.heads,
        cross_attention_dim=size.prompt_width,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=_TIME_ID_DIM,
        projection_class_embeddings_input_dim=size.pooled_width + _TIME_IDS * _TIME_ID_DIM,
        norm_num_groups=size.norm_groups,
    )


def random_backbone(
    size: UNetSize, *, resolution: int, dtype: torch.dtype, device: str, speed: SpeedConfig | None = None
) -> Backbone:
    """A backbone of random weights; prompts are drawn, and the VAE only tells its factor of 8.

    Args:
        size: of the UNet.
        resolution: image side in pixels, a multiple of 8.
        dtype: of the UNet, in which it is made.
        device: where it is made; "meta" holds shapes alone.
        speed: how it runs.
    """
    with _making(dtype, device):
        unet, vae = build_unet(size), _smallest_vae()
    if speed is not None:
        speed.apply(unet, vae)
    return Backbone(
        unet=unet,
        vae=vae,
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        prompt_encoder=RandomPrompts(size.prompt_width, size.pooled_width),
        name="random",
        fingerprint="random",
        resolution=resolution,
    )


def _smallest_vae() -> AutoencoderKL:
    levels = 4
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(4,) * levels,
        layers_per_block=1,
        norm_num_groups=1,
        mid_block_add_attention=False,
    )


@contextmanager
def _making(dtype: torch.dtype, device: str) -> Iterator[None]:
    """Modules made inside lie on the device in the dtype from the first, the same for every call."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.random.fork_rng(), torch.device(device):
            torch.manual_seed(0)
            yield
    finally:
        torch.set_default_dtype(before)
