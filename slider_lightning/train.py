"""Train one slider: `python -m slider_lightning.train experiment=age [adapter.rank=8 objective.eta=4 ...]`."""

import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from slider_lightning.adapters import SliderBank
from slider_lightning.assembly import PAIRS_DIGEST, assemble, data_identity
from slider_lightning.assets import locked
from slider_lightning.backbone import Backbone
from slider_lightning.config import build, canonical_text, portable_path, typed
from slider_lightning.data import measured_cost
from slider_lightning.entry import entry_point
from slider_lightning.errors import InputError
from slider_lightning.generation import ProgressCallback, StripConfig, make_strip, save_image
from slider_lightning.training import (
    JsonLinesLogger,
    RunFolder,
    SliderFile,
    TrainerConfig,
    TrainingChecks,
    TrainingCost,
    build_trainer,
)

logger = logging.getLogger(__name__)


@rank_zero_only
def prepare_run(run: RunFolder, config: dict[str, Any], resume: bool) -> None:
    """Write config.yaml, and drop what an earlier run of the same configuration left, unless it is resumed.

    Raises:
        InputError: if a run is to be resumed on other images.
    """
    if resume and run.config.is_file():
        began = yaml.safe_load(run.config.read_text()).get(PAIRS_DIGEST)
        if began != config.get(PAIRS_DIGEST):
            raise InputError(
                f"Expected to resume {run.path} on the images it began with, but they have changed; train from the "
                "beginning with resume=false."
            )
    else:
        for leftover in (run.slider, run.metrics, run.summary, run.strip, run.manifest):
            leftover.unlink(missing_ok=True)
        shutil.rmtree(run.checkpoints, ignore_errors=True)
    run.path.mkdir(parents=True, exist_ok=True)
    run.write_config(yaml.safe_dump(config, sort_keys=False))


def train(config: dict[str, Any]) -> RunFolder:
    """Train the slider that a checked config describes and fill its run folder.

    Args:
        config: the plain, checked config of conf/train.yaml.

    Raises:
        InputError: for a config, model, checkpoint or disk that training cannot work with.
    """
    started, run = time.perf_counter(), RunFolder(Path(config["run"]))
    typed(config["seed"], int, "seed")
    resume = typed(config["resume"], bool, "resume")
    strip: StripConfig = build(config["strip"], "strip.")
    trainer_config: TrainerConfig = build(config["trainer"], "trainer.")
    backbone: Backbone = build(config["model"], "model.")
    assembly = assemble(config, backbone)
    backbone.encode_prompts([strip.prompt])
    backbone.free_text_encoders()
    assembly.gather()
    config = {**config, **assembly.identity()}
    bank = SliderBank(backbone.unet, [assembly.adapter.new_slider(backbone.unet, seed=config["seed"])])
    loggers = [JsonLinesLogger(run.metrics), *([build(config["logger"], "logger.")] if config["logger"] else [])]
    cost, checks = TrainingCost(), TrainingChecks(trainer_config.log_every_n_steps)
    callbacks = [cost, checks, SliderFile(run.slider, assembly.metadata())]
    trainer = build_trainer(trainer_config, run, loggers, callbacks)
    with ProgressCallback(assembly.preparation) as progress:
        data = assembly.data(bank, progress)
        prepare_run(run, config, resume)
        checkpoint = run.resume_checkpoint() if resume else None
        trainer.fit(assembly.module(bank), data, ckpt_path=checkpoint, weights_only=True)
    if trainer.is_global_zero:
        run.update_summary(data.cost.summary("cache") | cost.cost.summary("train") | checks.summary())
        draw_strip_of_run(run, config, backbone, bank, strip)
        log_to_wandb(run, loggers)
        run.write_manifest(
            seeds={"slider": config["seed"], "data": config["seed"]},
            assets={portable_path(config["model"]["path"]): backbone.fingerprint, **assembly.identity()},
            seconds=time.perf_counter() - started,
            device=str(backbone.device),
        )
        logger.info("Run folder: %s", run.path)
    return run


def ensure_trained(config: dict[str, Any]) -> RunFolder:
    """The finished run of a config: the one that lies in its folder, else trained now.

    A run of the same config that was killed goes on from its last checkpoint; one of another config is replaced.

    Args:
        config: the plain, checked config of conf/train.yaml.

    Raises:
        InputError: as `train`.
    """
    run = RunFolder(Path(config["run"]))
    with locked(run.path, "run"):
        return _found_or_trained(run, config)


def _found_or_trained(run: RunFolder, config: dict[str, Any]) -> RunFolder:
    wanted = deciding({**config, **data_identity(config)})
    same = run.config.is_file() and deciding(yaml.safe_load(run.config.read_text())) == wanted
    # The manifest is written last.
    if same and run.slider.is_file() and run.manifest.is_file():
        logger.info("Run folder: %s (finished before)", run.path)
        return run
    return train({**config, "resume": same})


def deciding(config: Mapping[str, Any], *beside: str) -> str:
    """All of a config that decides what its run holds, the same on every machine; the keys `beside` do not."""
    kept = {key: value for key, value in config.items() if key not in ("run", "resume", "paths", "logger", *beside)}
    return canonical_text(kept)


def draw_strip_of_run(
    run: RunFolder, config: dict[str, Any], backbone: Backbone, bank: SliderBank, strip: StripConfig
) -> None:
    """Write strip.png and what it cost."""
    with measured_cost(backbone) as cost:
        image = make_strip(backbone, bank, config["concept"]["name"], strip, build(config["sampler"], "sampler."))
    save_image(image, run.strip)
    run.update_summary(cost.summary("strip"))


def log_to_wandb(run: RunFolder, loggers: Sequence[Logger]) -> None:
    """The strip and the summary, where W&B is among the loggers."""
    for wandb_logger in loggers:
        if isinstance(wandb_logger, WandbLogger):
            wandb_logger.log_image("strip", [str(run.strip)])
            wandb_logger.experiment.summary.update(run.read_summary())
            wandb_logger.experiment.finish()


@entry_point("train")
def main(config: dict[str, Any]) -> None:
    """Train from the command line."""
    train(config)


if __name__ == "__main__":
    main()
