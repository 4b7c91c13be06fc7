"""The architecture of the tiny SDXL: the real classes at a small size, assembled with random weights."""

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from experiments.tiny_faces.captions import VOCABULARY

START, END = "<|startoftext|>", "<|endoftext|>"


@dataclass(frozen=True)
class PipelineSize:
    """Widths of the networks; the defaults are the shipped world's.

    Args:
        image_size: pixels; the VAE shrinks by 2 per step between `vae_channels`.
        vae_channels, unet_channels: channels per resolution; every UNet resolution but the first has cross-attention.
        unet_layers: ResNets per resolution of the UNet.
        text_width, text_width_2: hidden sizes of the two text encoders; their sum is the cross-attention width.
        text_layers: layers of both text encoders.
    """

    image_size: int = 64
    vae_channels: tuple[int, ...] = (32, 64, 96)
    vae_layers: int = 1
    unet_channels: tuple[int, ...] = (64, 128)
    unet_layers: int = 2
    head_dim: int = 32
    text_width: int = 96
    text_width_2: int = 96
    text_layers: int = 3


def byte_alphabet() -> list[str]:
    """The 256 printable stand-ins of byte-level BPE, so that any text tokenizes."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def byte_pairs(word: str, merges: list[tuple[str, str]]) -> list[str]:
    """A word cut into tokens by byte-pair encoding: of all neighbours that merge, the earliest merge goes first."""
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    parts = [*word[:-1], word[-1] + "</w>"]
    while len(parts) > 1:
        place = min(range(len(parts) - 1), key=lambda i: ranks.get((parts[i], parts[i + 1]), len(ranks)))
        if (parts[place], parts[place + 1]) not in ranks:
            break
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts


def build_tokenizer(pad_token: str) -> CLIPTokenizer:
    """A byte-level BPE CLIPTokenizer of 77 tokens with one token per word of the captions."""
    alphabet = byte_alphabet()
    merges: list[tuple[str, str]] = []
    for word in VOCABULARY:
        # What earlier merges leave of the word is joined by new ones, which rank below and so disturb no earlier word.
        while len(parts := byte_pairs(word, merges)) > 1:
            merges.append((parts[0], parts[1]))
    vocabulary = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(pair) for pair in merges)]
    tokens = {token: index for index, token in enumerate([*vocabulary, START, END])}
    with TemporaryDirectory() as folder:
        vocab_file, merges_file = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
        vocab_file.write_text(json.dumps(tokens))
        merges_file.write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]) + "\n")
        return CLIPTokenizer(str(vocab_file), str(merges_file), pad_token=pad_token, model_max_length=77)


def build_text_config(tokenizer: CLIPTokenizer, width: int, layers: int) -> CLIPTextConfig:
    """Configuration of a text encoder over `tokenizer`.

    The end token must not have id 2: CLIPTextModel would then pool at the largest token id.
    """
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=max(width // 32, 1),
        max_position_embeddings=77,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def build_vae(size: PipelineSize) -> AutoencoderKL:
    """AutoencoderKL with 4 latent channels."""
    levels = len(size.vae_channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=size.vae_channels,
        layers_per_block=size.vae_layers,
        latent_channels=4,
        norm_num_groups=16,
        sample_size=size.image_size,
        mid_block_add_attention=False,
        force_upcast=False,
    )


def build_unet(size: PipelineSize) -> UNet2DConditionModel:
    """UNet2DConditionModel with SDXL's text_time conditioning."""
    levels = len(size.unet_channels)
    time_id_dim = 32
    return UNet2DConditionModel(
        sample_size=size.image_size // 2 ** (len(size.vae_channels) - 1),
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * (levels - 1)),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=(*("CrossAttnUpBlock2D",) * (levels - 1), "UpBlock2D"),
        block_out_channels=size.unet_channels,
        layers_per_block=size.unet_layers,
        attention_head_dim=tuple(max(channels // size.head_dim, 1) for channels in size.unet_channels),
        cross_attention_dim=size.text_width + size.text_width_2,
        transformer_layers_per_block=1,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=time_id_dim,
        projection_class_embeddings_input_dim=size.text_width_2 + 6 * time_id_dim,
        norm_num_groups=16,
    )


def build_pipeline(size: PipelineSize, seed: int = 0) -> StableDiffusionXLPipeline:
    """The whole pipeline with random weights that depend on `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer, tokenizer_2 = build_tokenizer(pad_token=END), build_tokenizer(pad_token="!")
        scheduler = EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="trailing"
        )
        return StableDiffusionXLPipeline(
            vae=build_vae(size),
            text_encoder=CLIPTextModel(build_text_config(tokenizer, size.text_width, size.text_layers)),
            text_encoder_2=CLIPTextModelWithProjection(
                build_text_config(tokenizer_2, size.text_width_2, size.text_layers)
            ),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer_2,
            unet=build_unet(size),
            scheduler=scheduler,
            force_zeros_for_empty_prompt=False,
            add_watermarker=False,
        )
