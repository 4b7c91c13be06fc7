"""Rebuild assets/tiny_faces from nothing: `python -m experiments.tiny_faces.build`.

`only=[stylegan]` makes the StyleGAN generator alone, for the world that stands in `out_dir`.

Every stage leaves its result in a folder whose name is a hash of all that it depends on, so a second call goes on where
the first stopped, and a changed setting rebuilds what depends on it.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL

from experiments.tiny_faces import faces, render
from experiments.tiny_faces.card import MADE, QUALITY, write_card
from experiments.tiny_faces.dataset import FaceDataset, rendered_faces
from experiments.tiny_faces.faces import SCHEMA
from experiments.tiny_faces.fit import METRICS
from experiments.tiny_faces.judges.clip import train_clip
from experiments.tiny_faces.judges.parser import train_parser
from experiments.tiny_faces.judges.perceptual import train_perceptual
from experiments.tiny_faces.judges.pool import Pool, rendered_pool
from experiments.tiny_faces.judges.probe import train_probe
from experiments.tiny_faces.pipeline import END, build_pipeline, build_tokenizer
from experiments.tiny_faces.settings import BuildSettings
from experiments.tiny_faces.stylegan import latent
from experiments.tiny_faces.stylegan.training import train_stylegan
from experiments.tiny_faces.unet import train_unet
from experiments.tiny_faces.vae import train_vae
from slider_lightning.assets import sha256_file, write_hashes
from slider_lightning.config import build
from slider_lightning.entry import entry_point
from slider_lightning.errors import InputError

logger = logging.getLogger(__name__)
JUDGES = ("probe", "parser", "clip", "perceptual")
PARTS = ("pipeline", *JUDGES, "stylegan")


class WorldBuild:
    """The stages, each made when asked for and at most once.

    Args:
        settings: sizes and lengths.
    """

    def __init__(self, settings: BuildSettings) -> None:
        self.settings = settings
        self.work = Path(settings.work_dir)

    def folder(self, stage: str, *depends_on: Any) -> Path:
        """Work folder of a stage, named by a hash of what it depends on."""
        text = json.dumps(
            [asdict(d) if hasattr(d, "__dataclass_fields__") else str(d) for d in depends_on], sort_keys=True
        )
        return self.work / f"{stage}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    @cached_property
    def faces(self) -> FaceDataset:
        """The rendered faces that the generator learns from."""
        s = self.settings
        path = self.folder("faces", s.faces, s.seed, s.size.image_size, *drawing_hashes()).with_suffix(".safetensors")
        return rendered_faces(path, s.faces, s.seed, s.size.image_size)

    @cached_property
    def vae_folder(self) -> Path:
        """The trained VAE in fp16."""
        s = self.settings
        work = self.folder(
            "vae", s.size.image_size, s.size.vae_channels, s.size.vae_layers, s.vae, s.faces, s.seed, *drawing_hashes()
        )

        def make(folder: Path) -> None:
            vae = build_pipeline(s.size).vae
            train_vae(vae, self.faces, s.vae, work)
            vae.half().save_pretrained(folder)

        return finished(work / "done", make)

    @cached_property
    def pipeline_folder(self) -> Path:
        """The whole trained pipeline, UNet and VAE in fp16."""
        s = self.settings
        work = self.folder("unet", s.size, s.unet, self.vae_folder.parent.name)

        def make(folder: Path) -> None:
            pipeline = build_pipeline(s.size)
            pipeline.register_modules(vae=AutoencoderKL.from_pretrained(self.vae_folder, torch_dtype=torch.float32))
            train_unet(pipeline, self.faces, s.unet, work)
            # The text encoders stay in fp32: transformers loads a file in the dtype it was saved in, diffusers in fp32.
            pipeline.unet.half()
            pipeline.vae.half()
            pipeline.save_pretrained(folder)

        return finished(work / "done", make)

    @cached_property
    def pool(self) -> Pool:
        """The rendered faces that the judges learn from, half of them as the VAE gives them back."""
        s = self.settings
        path = self.folder("pool", self.vae_folder.parent.name, s.judge_faces, s.seed).with_suffix(".safetensors")
        return rendered_pool(
            path, s.judge_faces, s.seed + 1, size=s.size.image_size, reconstruct=reconstruction(self.vae_folder)
        )

    def judge_folder(self, name: str) -> Path:
        """A trained judge in fp16."""
        s = self.settings
        settings = getattr(s, name)
        work = self.folder(name, settings, self.vae_folder.parent.name, s.judge_faces)

        def make(folder: Path) -> None:
            if name == "probe":
                train_probe(settings, self.pool, SCHEMA, folder, work)
            elif name == "parser":
                train_parser(settings, self.pool, folder, work)
            elif name == "perceptual":
                train_perceptual(settings, self.pool, SCHEMA, folder, work)
            else:
                train_clip(settings, self.pool, build_tokenizer(pad_token=END), folder, work)

        return finished(work / "done", make)

    @cached_property
    def stylegan_folder(self) -> Path:
        """The trained StyleGAN generator in fp16; it learns from drawn faces alone."""
        s = self.settings
        work = self.folder("stylegan", s.stylegan, *drawing_hashes(), sha256_file(str(latent.__file__)))
        return finished(work / "done", lambda folder: train_stylegan(s.stylegan, folder, work))

    def part(self, name: str) -> Path:
        """A finished part of the world, trained where it is not there."""
        if name in JUDGES:
            return self.judge_folder(name)
        return self.pipeline_folder if name == "pipeline" else self.stylegan_folder

    def logs(self, parts: Iterable[str]) -> dict[str, Path]:
        """The metrics files of the trainings that some parts come from, in their order."""
        s, logs = self.settings, {}
        for name in parts:
            if name == "pipeline":
                logs["vae"] = self.vae_folder.parent / METRICS
                logs["unet"] = self.pipeline_folder.parent / METRICS
            elif name == "stylegan":
                work = self.stylegan_folder.parent
                logs["stylegan_regression"] = work / "regression" / METRICS
                if s.stylegan.adversarial_steps:
                    logs["stylegan_adversarial"] = work / METRICS
            else:
                logs[name] = self.judge_folder(name).parent / METRICS
        return logs

    def export(self) -> Path:
        """Copy everything to `out_dir`, or the parts that `only` names; measure it; write hashes and the model card.

        Raises:
            InputError: if parts are asked for and `out_dir` holds no world.
        """
        out = Path(self.settings.out_dir)
        if self.settings.only and not all((out / name).is_file() for name in (MADE, QUALITY)):
            raise InputError(
                f"Expected a built world in {out} to make {', '.join(self.settings.only)} for, but there is none; "
                "build all of it first, without `only`."
            )
        parts = self.settings.only or PARTS
        for name in parts:
            folder = self.part(name)
            shutil.rmtree(out / name, ignore_errors=True)
            shutil.copytree(folder, out / name)
            write_hashes(out / name)
        write_card(out, self.settings, self.logs(parts))
        return out


def drawing_hashes() -> list[str]:
    """Hashes of the code that draws faces: pictures of another version must not meet this version's attributes."""
    return [sha256_file(str(module.__file__)) for module in (faces, render)]


def finished(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`, made whole by `make` (in a folder beside it) unless it is there."""
    if not folder.is_dir():
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        make(partial)
        partial.replace(folder)
    return folder


def reconstruction(vae_folder: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    """Images in [0, 1] -> what the VAE gives back for them, in [0, 1]."""
    vae = AutoencoderKL.from_pretrained(vae_folder, torch_dtype=torch.float32).eval()

    @torch.no_grad()
    def reconstruct(images: torch.Tensor) -> torch.Tensor:
        return ((vae.decode(vae.encode(images * 2 - 1).latent_dist.mean).sample + 1) / 2).clamp(0, 1)

    return reconstruct


@entry_point("build")
def main(config: dict[str, Any]) -> None:
    """Build from the command line."""
    logger.info("The world is in %s", WorldBuild(build(config)).export())


if __name__ == "__main__":
    main()
