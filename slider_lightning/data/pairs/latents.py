"""Image pairs as latents: encoded once, kept on disk, read back wherever the same images are asked for."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from slider_lightning.assets import atomic_path, locked, sha256_file
from slider_lightning.backbone import Backbone, pil_to_images
from slider_lightning.data.pairs.buckets import bucket_for, place
from slider_lightning.data.pairs.pictures import check_background, open_picture
from slider_lightning.data.pairs.sources import Twins, check_twins
from slider_lightning.errors import InputError

logger = logging.getLogger(__name__)

# Part of the key, so that latents made in another way are never taken for these.
LAYOUT_VERSION = 1

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class LatentTwins:
    """The latents of one thing at several levels of the concept, float32 in main memory.

    Args:
        name: of the thing.
        scales: slider scale of every level, ascending.
        mean: of the VAE's posterior, in the UNet's units.
        std: its standard deviation, in the same units; mean + std * noise is a sample.
        time_ids: SDXL's micro-conditioning, one for all levels: original size, crop offset, target size.
    """

    name: str
    scales: Float[Tensor, " levels"]
    mean: Float[Tensor, "levels 4 h w"]
    std: Float[Tensor, "levels 4 h w"]
    time_ids: Float[Tensor, "6"]


def twins_digest(twins: Sequence[Twins]) -> str:
    """SHA-256 of scales and bytes of all images in their order: other pictures at the same place are other pairs."""
    listed = [[[scale, sha256_file(path)] for scale, path in each.images] for each in twins]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def encode_twins(
    backbone: Backbone,
    twins: Sequence[Twins],
    cache_dir: Path,
    background: str = "white",
    on_progress: Progress | None = None,
) -> tuple[LatentTwins, ...]:
    """Latents of all twins, read from disk where they are intact there, encoded and stored where not.

    A file's name is a hash of all that its latents depend on: the model, its resolution and the VAE's dtype, the bytes
    of the images and the background, but not the scales. It carries a hash of its tensors, so that damage is noticed.
    A lock lets concurrent jobs encode once. All images that are to be encoded are checked before the first one is.

    Args:
        backbone: the frozen model.
        twins: image files with their scales, at least one.
        cache_dir: folder of the files, for any number of models and sets of pairs.
        background: what transparency is laid on, a colour as Pillow names it.
        on_progress: told of (twins encoded, twins to encode), and not called if there are none to encode.

    Returns:
        One per twins, in order.

    Raises:
        InputError: if there are no twins, images cannot be read, differ in size from their twins or equal them, the
            background is no colour, the VAE overflows, or the folder cannot be written.
    """
    if not twins:
        raise InputError("Expected at least one pair of images, but got none; add pairs.")
    check_background(background)
    with locked(cache_dir, "latents of image pairs"):
        _remove_leftovers(cache_dir)
        depends_on = [_dependencies(backbone, each, background) for each in twins]
        files = [_file(cache_dir, content) for content in depends_on]
        found = {index: tensors for index, path in enumerate(files) if (tensors := _read(path)) is not None}
        missing = [index for index in range(len(twins)) if index not in found]
        check_twins([twins[index] for index in missing], background)
        for done, index in enumerate(missing, start=1):
            found[index] = _encode(backbone, twins[index], background)
            _write(files[index], found[index], depends_on[index])
            if on_progress is not None:
                on_progress(done, len(missing))
        for path in files:
            path.touch()  # the time of its last use, by which old ones are pruned
    scales = [torch.tensor([scale for scale, _ in each.images], dtype=torch.float32) for each in twins]
    return tuple(LatentTwins(each.name, scales[index], **found[index]) for index, each in enumerate(twins))


def size_multiple(backbone: Backbone) -> int:
    """What sides of images must be multiples of: the downsampling of VAE and UNet together."""
    return backbone.vae_scale_factor * 2 ** (len(backbone.unet.config.block_out_channels) - 1)


def _encode(backbone: Backbone, twins: Twins, background: str) -> dict[str, Tensor]:
    pictures = [open_picture(path, background) for _, path in twins.images]
    size = (pictures[0].height, pictures[0].width)
    bucket = bucket_for(size, backbone.resolution, size_multiple(backbone))
    placed = [place(picture, bucket) for picture in pictures]
    mean, std = backbone.encode_distribution(pil_to_images([picture for picture, _ in placed]))
    if not (mean.isfinite().all() and std.isfinite().all()):
        raise InputError(
            f"Expected finite latents of {twins.name}, but the VAE overflows in {backbone.vae.dtype}; load it in "
            "bfloat16 or float32."
        )
    time_ids = torch.tensor(placed[0][1].time_ids(), dtype=torch.float32)
    return {"mean": mean.cpu(), "std": std.cpu(), "time_ids": time_ids}


def _dependencies(backbone: Backbone, twins: Twins, background: str) -> dict[str, Any]:
    """All that the latents depend on, as JSON: what the file's name is made of."""
    return {
        "layout": LAYOUT_VERSION,
        "model": backbone.fingerprint,
        "vae_dtype": str(backbone.vae.dtype),
        "resolution": backbone.resolution,
        "background": background,
        # A file that is gone has no hash and no cached latents; the check of images tells of it.
        "images": [sha256_file(path) if path.is_file() else None for _, path in twins.images],
    }


def _file(cache_dir: Path, depends_on: dict[str, Any]) -> Path:
    key = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:20]
    return Path(cache_dir) / f"{key}.safetensors"


def _write(path: Path, tensors: dict[str, Tensor], depends_on: dict[str, Any]) -> None:
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    metadata = {"sha256": _digest(contiguous), "depends_on": json.dumps(depends_on, sort_keys=True)}
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(contiguous, metadata))


def read_latents(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a file of cached latents; None if it cannot be read or they are not what was written."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
            written = (file.metadata() or {}).get("sha256")
    except (SafetensorError, OSError):
        return None
    return tensors if written == _digest(tensors) else None


def _read(path: Path) -> dict[str, Tensor] | None:
    if not path.is_file():
        return None
    tensors = read_latents(path)
    if tensors is None:
        logger.warning("The cached latents %s are damaged; they are encoded again.", path)
    return tensors


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _remove_leftovers(cache_dir: Path) -> None:
    """Temporary files of jobs that were killed; under the lock nobody else is writing one."""
    for leftover in Path(cache_dir).glob(".*.safetensors"):
        leftover.unlink()
