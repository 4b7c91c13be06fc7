"""Train a baseline of table 2: `python -m evaluation.train_baseline baseline=textual_inversion images=FOLDER`."""

import logging
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from evaluation.baselines.personal import (
    CONCEPT_FILE,
    ConceptFile,
    PersonalConfig,
    PersonalDataModule,
    PersonalImages,
    PersonalModule,
    folder_digest,
    prior_images,
    read_training_images,
)
from evaluation.grids import BaseMethod, GridRow, Method
from slider_lightning.backbone import Backbone, SamplerConfig
from slider_lightning.config import build, portable_path, typed
from slider_lightning.data import measured_cost
from slider_lightning.entry import entry_point
from slider_lightning.errors import InputError
from slider_lightning.generation import ProgressCallback, StripConfig, draw_strip, save_image
from slider_lightning.runs import deciding, prepare_run
from slider_lightning.training import JsonLinesLogger, RunFolder, TrainingCost, build_trainer

logger = logging.getLogger(__name__)

# What config.yaml calls the hash of the training images: the folder's name does not tell what is in it.
IMAGES_DIGEST = "images_sha256"


def train_baseline(config: dict[str, Any]) -> RunFolder:
    """Train what a checked config describes and fill its run folder.

    Args:
        config: the plain, checked config of conf/train_baseline.yaml.

    Raises:
        InputError: for a config, image, model, checkpoint or disk that training cannot work with.
    """
    started, run = time.perf_counter(), RunFolder(Path(config["run"]))
    typed(config["seed"], int, "seed")
    resume = typed(config["resume"], bool, "resume")
    config = {**config, IMAGES_DIGEST: folder_digest(config["images"])}
    if resume:
        check_images(run, config)
    names = ("personal", "optimizer", "trainer", "sampler", "strip")
    part = {name: build(config[name], f"{name}.") for name in names}
    settings: PersonalConfig = part["personal"]
    backbone: Backbone = build(config["model"], "model.")
    images = read_training_images(config["images"], backbone.resolution)
    concept = settings.initial_concept(backbone)
    module = PersonalModule(
        backbone, concept, part["optimizer"], settings.prior.weight if settings.prior is not None else 1.0
    )
    module.prompt_encoder.frozen_embeds(settings.prompts)  # refuses a prompt that is too long
    with measured_cost(backbone) as prior_cost:
        examples = gather_images(config, settings, backbone, images, part["sampler"])
    data = PersonalDataModule(backbone, examples, batch_size=settings.batch_size, seed=config["seed"])
    cost = TrainingCost()
    metadata = settings.metadata(portable_path(config["model"]["path"]), backbone.fingerprint)
    loggers = [JsonLinesLogger(run.metrics), *([build(config["logger"], "logger.")] if config["logger"] else [])]
    trainer = build_trainer(part["trainer"], run, loggers, [cost, ConceptFile(run.path / CONCEPT_FILE, metadata)])
    prepare_run(run, config, resume)
    if trainer.is_global_zero and not resume:
        (run.path / CONCEPT_FILE).unlink(missing_ok=True)
    trainer.fit(module, data, ckpt_path=run.resume_checkpoint() if resume else None, weights_only=True)
    if trainer.is_global_zero:
        run.update_summary(prior_cost.summary("prior") | data.cost.summary("latents") | cost.cost.summary("train"))
        method: Method = build(config["baseline"], "baseline.")
        save_image(compare(backbone, method, part["strip"], part["sampler"]), run.strip)
        run.write_manifest(
            seeds={"data": config["seed"]},
            assets={
                portable_path(config["model"]["path"]): backbone.fingerprint,
                portable_path(config["images"]): config[IMAGES_DIGEST],
            },
            seconds=time.perf_counter() - started,
            device=str(backbone.device),
        )
        logger.info("Run folder: %s", run.path)
    return run


def ensure_baseline(config: dict[str, Any]) -> RunFolder:
    """The finished run of a config and the images in its folder: the one that lies there, else trained now.

    A run of the same config and images that was killed goes on from its last checkpoint; another one is replaced.

    Args:
        config: the plain, checked config of conf/train_baseline.yaml.

    Raises:
        InputError: as `train_baseline`.
    """
    run = RunFolder(Path(config["run"]))
    wanted = {**config, IMAGES_DIGEST: folder_digest(config["images"])}
    same = run.config.is_file() and deciding(yaml.safe_load(run.config.read_text()), "baseline") == deciding(
        wanted, "baseline"
    )
    # The manifest is written last.
    if same and (run.path / CONCEPT_FILE).is_file() and run.manifest.is_file():
        logger.info("Run folder: %s (finished before)", run.path)
        return run
    return train_baseline({**config, "resume": same})


def check_images(run: RunFolder, config: dict[str, Any]) -> None:
    """Raise InputError if the run began with other images than those that are in the folder now."""
    began = yaml.safe_load(run.config.read_text()) if run.config.is_file() else config
    if began.get(IMAGES_DIGEST) != config[IMAGES_DIGEST]:
        raise InputError(
            f"Expected the images in {config['images']} that {run.path} began with, but they changed; put them back, "
            "or train from the beginning with resume=false."
        )


def gather_images(
    config: dict[str, Any],
    settings: PersonalConfig,
    backbone: Backbone,
    images: Float[Tensor, "n 3 height width"],
    sampler: SamplerConfig,
) -> PersonalImages:
    """The training images, and the prior's where one is kept."""
    prior = settings.prior
    if prior is None:
        return PersonalImages(images, settings.prompts, settings.flip)
    with ProgressCallback("prior images") as progress:
        kept = prior_images(backbone, prior, sampler, Path(config["paths"]["cache"]), progress)
    return PersonalImages(images, settings.prompts, settings.flip, kept, prior.prompt)


def compare(backbone: Backbone, method: Method, strip: StripConfig, sampler: SamplerConfig) -> Image.Image:
    """The picture of the run: for each seed the model's image, then the method's at the strip's scales."""
    rows = [GridRow(strip.prompt, strip.prompt, seed) for seed in strip.seeds]
    scales = [scale for scale in strip.scales if isinstance(scale, int | float)]
    size = {"batch_size": strip.batch_size}
    base = BaseMethod().generate(backbone, rows, [0.0], sampler, **size)
    edited = method.generate(backbone, rows, scales, sampler, **size)
    labels = ["without", *(f"{method.name} {scale:g}" for scale in scales)]
    return draw_strip(torch.cat([base, edited], dim=1), [f"seed {row.seed}" for row in rows], labels, strip.prompt)


@entry_point("train_baseline")
def main(config: dict[str, Any]) -> None:
    """Train from the command line."""
    train_baseline(config)


if __name__ == "__main__":
    main()
