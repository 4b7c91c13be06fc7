"""Photographs as the model sees them: any size and format, brought to a size that it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from slider_lightning.backbone import Backbone, pil_to_images
from slider_lightning.data.pairs.buckets import bucket_for, place
from slider_lightning.data.pairs.latents import size_multiple
from slider_lightning.data.pairs.pictures import open_picture
from slider_lightning.errors import InputError


@dataclass(frozen=True)
class Photographs:
    """Photographs of one size.

    Args:
        images: in [0, 1], float32 in main memory, resized and cropped.
        mean: of the VAE's posterior, in the UNet's units, on the backbone's device.
        std: its standard deviation, in the same units.
        time_ids: SDXL's size conditioning: true original size, crop offset, target size; height before width.
    """

    images: Float[Tensor, "photographs 3 height width"]
    mean: Float[Tensor, "photographs 4 h w"]
    std: Float[Tensor, "photographs 4 h w"]
    time_ids: Float[Tensor, "photographs 6"]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice | Int[Tensor, " rows"]) -> Photographs:
        return Photographs(self.images[rows], self.mean[rows], self.std[rows], self.time_ids[rows])

    @staticmethod
    def cat(parts: Sequence[Photographs]) -> Photographs:
        """Photographs of one size in one batch."""
        return Photographs(
            torch.cat([part.images for part in parts]),
            torch.cat([part.mean for part in parts]),
            torch.cat([part.std for part in parts]),
            torch.cat([part.time_ids for part in parts]),
        )

    def sampled(self, generators: Sequence[torch.Generator]) -> Float[Tensor, "photographs 4 h w"]:
        """Latents drawn from the VAE's posterior, as diffusers' pipelines draw them; one generator per photograph."""
        noise = [torch.randn(self.std.shape[1:], generator=generator) for generator in generators]
        return self.mean + self.std * torch.stack(noise).to(self.std.device)

    def round_trip(self, backbone: Backbone) -> Float[Tensor, "photographs 3 height width"]:
        """Encoded and decoded again, in main memory: what no edit in this latent space can be nearer than."""
        return backbone.decode(self.mean).cpu()


def read_photograph(backbone: Backbone, path: str | Path, background: str = "white") -> Photographs:
    """One image file as a batch of one.

    Its camera's orientation is applied, transparency is laid on `background`, grey becomes RGB. It is resized and
    cropped to the training size of the model whose proportions are nearest.

    Args:
        backbone: the frozen model.
        path: anything that Pillow reads.
        background: a colour as Pillow names it.

    Raises:
        InputError: if the file is missing, damaged or no image, the background is no colour, or the VAE overflows.
    """
    return encode_pictures(backbone, [open_picture(Path(path), background)])


def encode_pictures(backbone: Backbone, pictures: Sequence[Image.Image]) -> Photographs:
    """Pictures of one size, in one batch.

    Args:
        backbone: the frozen model.
        pictures: at least one; RGB, all of one size.

    Raises:
        InputError: if the VAE overflows.
        ValueError: if the pictures differ in size.
    """
    if len({picture.size for picture in pictures}) != 1:
        raise ValueError(f"Expected pictures of one size, but got {sorted({picture.size for picture in pictures})}.")
    bucket = bucket_for((pictures[0].height, pictures[0].width), backbone.resolution, size_multiple(backbone))
    placed = [place(picture, bucket) for picture in pictures]
    images = pil_to_images([picture for picture, _ in placed])
    mean, std = backbone.encode_distribution(images)
    if not (mean.isfinite().all() and std.isfinite().all()):
        raise InputError(
            f"Expected finite latents of the photograph, but the VAE overflows in {backbone.vae.dtype}; load it in "
            "bfloat16 or float32."
        )
    time_ids = torch.tensor([placement.time_ids() for _, placement in placed], dtype=torch.float32)
    return Photographs(images, mean, std, time_ids.to(backbone.device))


def read_mask(path: Path, photographs: Photographs) -> Bool[Tensor, "height width"]:
    """An image file as a mask, resized and cropped as the photographs were; white is inside.

    Args:
        path: anything that Pillow reads.
        photographs: that it masks.

    Raises:
        InputError: if the file cannot be read, or has not the size of every photograph.
    """
    picture = open_picture(path)
    size = (picture.height, picture.width)
    sizes = {(int(height), int(width)) for height, width in photographs.time_ids[:, :2].tolist()}
    if sizes != {size}:
        wanted = ", ".join(f"{width} x {height}" for height, width in sorted(sizes))
        raise InputError(
            f"Expected the mask {path} to have the photograph's size, {wanted}, but it has {size[1]} x {size[0]}; draw "
            "it on the photograph."
        )
    height, width = photographs.images.shape[-2:]
    grey = place(picture, (height, width))[0].convert("L")
    return pil_to_images([grey])[0, 0] >= 0.5
