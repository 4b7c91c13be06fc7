"""Load a frozen SDXL from the hub, a folder in diffusers layout, or a single-file checkpoint."""

import json
import logging
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from safetensors import SafetensorError
from torch import nn

from slider_lightning.assets import HASHES_FILE, verify_folder
from slider_lightning.backbone.backbone import Backbone
from slider_lightning.backbone.fingerprint import fingerprint, read_header
from slider_lightning.backbone.prompts import PromptEncoder
from slider_lightning.backbone.speed import SpeedConfig
from slider_lightning.errors import InputError

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_WEIGHTED_PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
_TOKENIZERS = ("tokenizer", "tokenizer_2")
_TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer.json")


def load_backbone(
    path: str,
    *,
    dtype: str = "float32",
    variant: str | None = None,
    resolution: int | None = None,
    device: torch.device | str = "cpu",
    speed: SpeedConfig | None = None,
) -> Backbone:
    """Load an SDXL checkpoint, frozen and in eval mode.

    Weights are read from safetensors only. Where the folder holds a `hashes.json`, its files are checked before
    anything is loaded. In half precision the VAE stays in float32 where its configuration asks for it (`force_upcast`).

    Args:
        path: a folder in diffusers layout, a `.safetensors` single-file checkpoint, or a hub id ("owner/name"), in
            this order of trial.
        dtype: "float32", "bfloat16" or "float16".
        variant: which files to take where several are offered, e.g. "fp16"; without it the unnamed ones.
        resolution: image side in pixels; None means the checkpoint's own.
        device: where to put it; "auto" is a GPU where there is one.
        speed: how the networks run; None changes nothing about them.

    Raises:
        InputError: if the path leads to no SDXL, the checkpoint is missing, damaged or incomplete, the hub does not
            provide it, or dtype, resolution or device are impossible.
    """
    if dtype not in DTYPES:
        raise InputError(
            f"Expected the model's dtype to be one of {', '.join(DTYPES)}, but got {dtype!r}; choose one of them."
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    place = Path(path).expanduser()
    if path.endswith(".safetensors"):
        pipeline, digest = _load_single_file(place, DTYPES[dtype])
    else:
        folder = place if place.is_dir() else _fetch_from_hub(path, variant)
        pipeline, digest = _load_folder(folder, DTYPES[dtype], variant)
    _check_conditioning(pipeline, path)
    if speed is not None:
        speed.apply(pipeline.unet, pipeline.vae)
    backbone = Backbone(
        unet=pipeline.unet,
        vae=pipeline.vae,
        scheduler=pipeline.scheduler,
        prompt_encoder=PromptEncoder(
            (pipeline.tokenizer, pipeline.tokenizer_2),
            (pipeline.text_encoder, pipeline.text_encoder_2),
            pipeline.config.force_zeros_for_empty_prompt,
        ),
        name=path,
        fingerprint=digest,
        resolution=resolution,
    )
    logger.info("Loaded %s in %s (fingerprint %s).", path, dtype, digest[:12])
    try:
        return backbone.to(device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"Expected a device that this machine has, but got {device!r} ({_line(error)}); use cpu."
        ) from error


def _load_folder(folder: Path, dtype: torch.dtype, variant: str | None) -> tuple[StableDiffusionXLPipeline, str]:
    _check_model_index(folder)
    if (folder / HASHES_FILE).is_file():
        verify_folder(folder)
    weights = {part: _weight_files(folder / part, variant) for part in _WEIGHTED_PARTS}
    if variant and not any("." in path.stem for files in weights.values() for path in files):
        raise InputError(
            f"Expected {folder} to offer the variant {variant!r}, but it does not; leave the variant empty."
        )
    # Before loading: a truncated file is then named, whichever library would have stumbled over it.
    digest = fingerprint(_config_files(folder), [path for files in weights.values() for path in files])
    upcast = json.loads((folder / "vae" / "config.json").read_text()).get("force_upcast", True)
    vae_dtype = torch.float32 if upcast else dtype
    try:
        pipeline = StableDiffusionXLPipeline.from_pretrained(
            folder,
            dtype={"vae": vae_dtype, "default": dtype},
            variant=variant,
            use_safetensors=True,
            add_watermarker=False,
            local_files_only=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise InputError(
            f"Expected {folder} to hold a whole SDXL, but it does not load: {_line(error)}; fetch it again."
        ) from error
    for part, files in weights.items():
        _check_complete(getattr(pipeline, part), files, folder / part)
    return pipeline, digest


def _load_single_file(path: Path, dtype: torch.dtype) -> tuple[StableDiffusionXLPipeline, str]:
    if not path.is_file():
        raise InputError(f"Expected the checkpoint {path}, but there is no such file; check the path.")
    digest = fingerprint([], [path])
    try:
        pipeline = StableDiffusionXLPipeline.from_single_file(str(path), dtype=dtype, add_watermarker=False)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise InputError(
            f"Expected {path} to be an SDXL checkpoint, but it does not load: {_line(error)}; its configuration "
            "comes from the hub, so the first time needs the network."
        ) from error
    if pipeline.vae.config.force_upcast:
        pipeline.vae.to(torch.float32)
    return pipeline, digest


def _fetch_from_hub(path: str, variant: str | None) -> Path:
    """The local folder of a hub id, downloaded if it is not there yet."""
    owner, _, name = path.partition("/")
    if not owner or not name or "/" in name or owner in (".", "..", "~") or Path(owner).is_dir():
        raise InputError(f"Expected a folder that holds an SDXL, but there is no {path}; check the path, or build it.")
    try:
        return Path(StableDiffusionXLPipeline.download(path, variant=variant, use_safetensors=True))
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"Expected a folder or a hub id, but there is no folder {path} here and the hub did not provide it: "
            f"{_line(error)}; check the name and the network, or give a local folder."
        ) from error


def _check_model_index(folder: Path) -> None:
    index = folder / "model_index.json"
    if not index.is_file():
        raise InputError(
            f"Expected {folder} to be an SDXL in diffusers layout, but it has no model_index.json; check the path."
        )
    try:
        content = json.loads(index.read_text())
        class_name = content.get("_class_name")
    except (ValueError, AttributeError) as error:
        raise InputError(f"Expected {index} to be a JSON object, but it is damaged; fetch it again.") from error
    if not str(class_name).startswith("StableDiffusionXL"):
        raise InputError(f"Expected {folder} to hold an SDXL, but it holds a {class_name}; choose an SDXL checkpoint.")
    missing = [part for part in (*_WEIGHTED_PARTS, *_TOKENIZERS, "scheduler") if not any(content.get(part) or ())]
    if missing:
        raise InputError(
            f"Expected {folder} to hold a whole SDXL, but it has no {', '.join(missing)}; refiners do not do."
        )


def _config_files(folder: Path) -> list[Path]:
    """Configurations of the networks and contents of the tokenizers, none of which the libraries insist on."""
    configs = [folder / part / "config.json" for part in _WEIGHTED_PARTS]
    vocabularies = [
        [path for name in _TOKENIZER_FILES if (path := folder / part / name).is_file()] for part in _TOKENIZERS
    ]
    missing = [config for config in configs if not config.is_file()]
    missing += [folder / part for part, files in zip(_TOKENIZERS, vocabularies, strict=True) if not files]
    if missing:
        raise InputError(f"Expected {missing[0]}, but it is missing or empty; fetch the checkpoint again.")
    return configs + [path for files in vocabularies for path in files]


def _weight_files(folder: Path, variant: str | None) -> list[Path]:
    """The safetensors files that are loaded: those of the variant, or those without one, shards included."""
    files = sorted(folder.glob("*.safetensors"))
    unnamed = [path for path in files if "." not in path.stem]
    # diffusers writes "model.fp16.safetensors" and shards as "model.fp16-00001-of-00002.safetensors".
    named = [path for path in files if variant and path.stem.partition(".")[2].split("-")[0] == variant]
    chosen = named or unnamed
    if not chosen:
        offered = ", ".join(path.name for path in files) or "none"
        raise InputError(
            f"Expected safetensors weights in {folder} (variant {variant}), but got {offered}; check the variant."
        )
    return chosen


def _check_conditioning(pipeline: StableDiffusionXLPipeline, path: str) -> None:
    config = pipeline.unet.config
    if config.addition_embed_type != "text_time" or config.time_cond_proj_dim is not None:
        raise InputError(
            f"Expected the UNet of {path} to be conditioned as SDXL's is (text_time, no guidance embedding), but it is "
            "not; choose another checkpoint."
        )


def _check_complete(module: nn.Module, files: Sequence[Path], folder: Path) -> None:
    """Raise if the files hold fewer values than the module: the loaders would fill the gap with random weights.

    Values are counted, not names compared, because the loaders rename tensors of older checkpoints.
    """
    stored = sum(
        math.prod(tensor.shape) for path in files for tensor in read_header(path).values() if "F" in tensor.dtype
    )
    needed = sum(parameter.numel() for parameter in module.parameters())
    if stored < needed:
        raise InputError(
            f"Expected {needed} weights in {folder}, but its files hold {stored}; fetch the checkpoint again."
        )


def _line(error: BaseException) -> str:
    """The beginning of an error's text: libraries append tracebacks and advice."""
    return textwrap.shorten((str(error).strip() or type(error).__name__).splitlines()[0], 200).rstrip(".;:")
