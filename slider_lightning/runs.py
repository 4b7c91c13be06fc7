"""From checked configs to run folders: one slider, or several trained at once on one model."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from slider_lightning.adapters import SliderBank, SliderBase, new_slider
from slider_lightning.assembly import PAIRS_DIGEST, Assembly, assemble, data_identity
from slider_lightning.assets import locked
from slider_lightning.backbone import Backbone
from slider_lightning.config import build, canonical_text, portable_path, typed
from slider_lightning.data import JointDataModule, measured_cost
from slider_lightning.entry import sweeping
from slider_lightning.errors import InputError
from slider_lightning.generation import ProgressCallback, StripConfig, format_scales, make_strip, save_image
from slider_lightning.training import (
    JsonLinesLogger,
    RunCard,
    RunFolder,
    SliderFiles,
    SliderLogger,
    SliderModule,
    TrainerConfig,
    TrainingChecks,
    TrainingCost,
    WandbConfig,
    WandbSliderLogger,
    build_trainer,
    loss_key,
    open_runs,
)
from slider_lightning.training.checkpoints import resumed_step
from slider_lightning.training.wandb_results import log_results, origins
from slider_lightning.training.wandb_run import FAILED, WANDB_FILE

logger = logging.getLogger(__name__)
# The sections of a config that decide what a training yields, and the images it was trained on. How a run is drawn,
# logged and measured is not among them.
DECIDING = (
    "model",
    "concept",
    "adapter",
    "objective",
    "data",
    "pairs",
    "optimizer",
    "trainer",
    "seed",
    PAIRS_DIGEST,
)


@dataclass
class Point:
    """One slider of a training.

    Args:
        config: its checked config, and what else decides the result.
        run: its folder.
        assembly: its task and data.
        strip: the picture it leaves; None leaves none.
        settled: its folder is finished and stays as it is.
    """

    config: dict[str, Any]
    run: RunFolder
    assembly: Assembly
    strip: StripConfig | None
    settled: bool = False

    @classmethod
    def of(cls, config: dict[str, Any], backbone: Backbone, *, settled: bool = False) -> Point:
        """The point that a config describes; InputError if its parts do not belong together."""
        typed(config["seed"], int, "seed")
        strip = build(config["strip"], "strip.") if config["strip"] and not settled else None
        return cls(config, RunFolder(Path(config["run"])), assemble(config, backbone), strip, settled)


def train_sliders(
    configs: Sequence[dict[str, Any]], home: RunFolder, *, resume: bool, settled: Set[str] = frozenset()
) -> list[RunFolder]:
    """Train a slider for every config, all in one batch on one model, and fill their run folders.

    Args:
        configs: plain, checked configs of conf/train.yaml, which may differ in concept, adapter, objective, data,
            optimizer's settings and seed.
        home: keeps checkpoints and the log of the whole; the run itself where there is one.
        resume: go on from the last checkpoint in `home`.
        settled: `run` of the configs whose folders are finished; they are in the checkpoint, so they are trained along.

    Returns:
        The runs, in order.

    Raises:
        InputError: for a config, model, checkpoint or disk that training cannot work with; or if sliders were refused
            at the end, after the others were written.
    """
    started = time.perf_counter()
    trainer_config: TrainerConfig = build(configs[0]["trainer"], "trainer.")
    if len(configs) > 1 and trainer_config.precision == "16-mixed":
        raise InputError(
            "Expected a precision in which sliders are apart, but with trainer.precision=16-mixed one that overflows "
            "would stop all; choose bf16-mixed, or sweep with -m."
        )
    backbone: Backbone = build(configs[0]["model"], "model.")
    points = [Point.of(config, backbone, settled=config["run"] in settled) for config in configs]
    for point in points:
        if point.strip is not None:
            backbone.encode_prompts([point.strip.prompt])
    backbone.free_text_encoders()
    for point in points:
        point.assembly.gather()
        point.config = {**point.config, **point.assembly.identity()}
    seeded = [new_slider(point.assembly.adapter, backbone.unet, seed=point.config["seed"]) for point in points]
    bank = SliderBank(backbone.unet, seeded)
    cost, checks = TrainingCost(), TrainingChecks(trainer_config.log_every_n_steps)
    files = {n: (point.run.slider, point.assembly.metadata()) for n, point in enumerate(points) if not point.settled}
    with run_loggers(points, home, resume=resume) as loggers:
        trainer = build_trainer(trainer_config, home, loggers, [cost, checks, SliderFiles(files, checks)])
        with ProgressCallback(points[0].assembly.preparation) as progress:
            data = JointDataModule([point.assembly.data(bank, progress) for point in points])
            for point in points:
                if not point.settled:
                    prepare_run(point.run, point.config, resume)
            checkpoint = prepare_home(home, resume)
            module = SliderModule(backbone, bank, [point.assembly.task() for point in points])
            if checkpoint is not None and is_first_process():
                step = resumed_step(checkpoint)
                logger.info("Going on at step %d of %d from %s.", step, trainer_config.max_steps, checkpoint)
            trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
        if trainer.is_global_zero:
            trained = Trained(backbone, bank, data, cost, checks, trainer, started)
            finish(points, home, trained)
            log_to_wandb(points, trained, loggers)
    # The first process speaks for all: one that ended with an error would take it along while it writes.
    if checks.failures and trainer.is_global_zero:
        raise InputError(
            f"Expected {len(points)} good sliders, but {len(checks.failures)} were refused: "
            + " ".join(f"{points[number].run.path}: {problem}" for number, problem in sorted(checks.failures.items()))
        )
    return [point.run for point in points]


@dataclass
class Trained:
    """What a training leaves in memory."""

    backbone: Backbone
    bank: SliderBank
    data: JointDataModule
    cost: TrainingCost
    checks: TrainingChecks
    trainer: L.Trainer
    started: float


def finish(points: Sequence[Point], home: RunFolder, trained: Trained) -> None:
    """Pictures, figures and, last, the manifests, by which a finished run is known.

    What the sliders of a joint training cost together is shared between their runs in equal parts.
    """
    refused = trained.checks.failures
    good = {n: point for n, point in enumerate(points) if n not in refused and not point.settled}
    count = len(points)
    for number, point in good.items():
        costs = trained.data.cost.summary("cache", count) | trained.cost.cost.summary("train", count)
        joint = {"trained_together": count} if count > 1 else {}
        point.run.update_summary(costs | trained.checks.summary(number) | joint)
        draw_strip_of_run(point, trained.backbone, trained.bank, number)
    seconds = time.perf_counter() - trained.started
    if all(point.run != home for point in points):
        whole = trained.data.cost.summary("cache") | trained.cost.cost.summary("train")
        home.update_summary(whole | trained.checks.cost.summary("checks") | {"sliders": count})
    for point in good.values():
        point.run.write_manifest(
            seeds={"slider": point.config["seed"], "data": point.config["seed"]},
            assets={
                portable_path(point.config["model"]["path"]): trained.backbone.fingerprint,
                **point.assembly.identity(),
            },
            seconds=seconds / count,
            device=str(trained.backbone.device),
        )
        logger.info("Run folder: %s", point.run.path)


@contextmanager
def run_loggers(points: Sequence[Point], home: RunFolder, *, resume: bool) -> Iterator[list[Logger]]:
    """metrics.jsonl of the whole and of every run, and what logger= names.

    On W&B every slider has a run of its own, which ends with the training, however that ends.
    """
    chosen = points[0].config["logger"]
    if chosen and "save_dir" in chosen:
        chosen = {**chosen, "save_dir": str(home.path)}
    # A slider alone in its training is told of by the figures of the whole.
    keys = [loss_key(number) if len(points) > 1 else "train/loss" for number in range(len(points))]
    apart = [(point, key) for point, key in zip(points, keys, strict=True) if point.run != home and not point.settled]
    loggers: list[Logger] = [JsonLinesLogger(home.metrics)]
    loggers += [SliderLogger(point.run.metrics, key) for point, key in apart]
    built = build(chosen, "logger.") if chosen else None
    with ExitStack() as stack:
        if not isinstance(built, WandbConfig):
            loggers += [built] if built else []
            forget_wandb([point.run for point in points if not point.settled])
        elif is_first_process():
            loggers += stack.enter_context(wandb_loggers(points, keys, home, built, resume=resume))
        yield loggers


@contextmanager
def wandb_loggers(
    points: Sequence[Point], keys: Sequence[str], home: RunFolder, config: WandbConfig, *, resume: bool
) -> Iterator[list[WandbSliderLogger]]:
    """A run of W&B for every slider that is not settled."""
    numbers = [number for number, point in enumerate(points) if not point.settled]
    cards = [(points[number].run, wandb_card(points[number], home, config)) for number in numbers]
    with open_runs(config, cards, resume=resume) as opened:
        yield [WandbSliderLogger(run, n, keys[n]) for n, run in zip(numbers, opened, strict=True)]


@rank_zero_only
def forget_wandb(runs: Sequence[RunFolder]) -> None:
    """Let no later evaluation log to the runs of W&B that earlier trainings in these folders had."""
    for run in runs:
        (run.path / WANDB_FILE).unlink(missing_ok=True)


def wandb_card(point: Point, home: RunFolder, config: WandbConfig) -> RunCard:
    """What the run of a slider is called on W&B: grouped by the grid or sweep that it is a point of."""
    sweep = Path(HydraConfig.get().sweep.dir).name if sweeping() else None
    group = config.group or (home.path.name if point.run != home else sweep)
    return RunCard.of(point.config, deciding(point.config), point.assembly.metadata(), group=group, tags=config.tags)


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


def prepare_home(home: RunFolder, resume: bool) -> Path | None:
    """The checkpoint to go on from; without `resume` the first process drops what there is.

    Raises:
        InputError: if the checkpoint is damaged.
    """
    if resume:
        return home.resume_checkpoint()
    _drop_checkpoints(home)
    return None


@rank_zero_only
def _drop_checkpoints(home: RunFolder) -> None:
    shutil.rmtree(home.checkpoints, ignore_errors=True)
    home.path.mkdir(parents=True, exist_ok=True)


def is_first_process() -> bool:
    """Whether this is the process of a job that speaks for all."""
    return int(getattr(rank_zero_only, "rank", 0) or 0) == 0


def only_here(folder: Path, what: str) -> AbstractContextManager[None]:
    """The lock of a folder that one job at a time trains in.

    Of the processes of one job the first holds it: it starts the others, or waits for them, while it trains.
    """
    return locked(folder, what) if is_first_process() else nullcontext()


def deciding(config: Mapping[str, Any], *beside: str) -> str:
    """All of a config that decides what its run holds, the same on every machine; the keys `beside` do not."""
    left_out = ("run", "resume", "paths", "logger", "grid", *beside)
    return canonical_text({key: value for key, value in config.items() if key not in left_out})


def identity(config: Mapping[str, Any]) -> str:
    """All of a training's config that decides its slider, the same on every machine."""
    chosen = {key: config[key] for key in DECIDING if config.get(key) is not None}
    return canonical_text(chosen | {"start_timestep": config.get("sampler", {}).get("start_timestep")})


def same_config(run: RunFolder, config: Mapping[str, Any]) -> bool:
    """Whether a run, finished or not, is of this config and, where it has any, of these images.

    Raises:
        InputError: if images are missing or do not belong together.
    """
    if not run.config.is_file():
        return False
    return identity(yaml.safe_load(run.config.read_text()) or {}) == identity({**config, **data_identity(config)})


def finished(run: RunFolder) -> bool:
    """Whether a run came to its end: the manifest is written last."""
    return run.slider.is_file() and run.manifest.is_file()


def draw_strip_of_run(point: Point, backbone: Backbone, bank: SliderBank, number: int) -> None:
    """Write strip.png of slider `number` of the bank, and what it cost."""
    if point.strip is None:
        return
    slider = bank.sliders[number]
    assert isinstance(slider, SliderBase)
    sampler = build(point.config["sampler"], "sampler.")
    with measured_cost(backbone) as cost, SliderBank(backbone.unet, [slider]) as alone:
        image = make_strip(backbone, alone, point.config["concept"]["name"], point.strip, sampler)
    save_image(image, point.run.strip)
    point.run.update_summary(cost.summary("strip"))


def log_to_wandb(points: Sequence[Point], trained: Trained, loggers: Sequence[Logger]) -> None:
    """Strip, figures, slider and origins of every run, where W&B is among the loggers; that of a refused one failed."""
    for each in loggers:
        if isinstance(each, WandbSliderLogger):
            point = points[each.number]
            if each.number in trained.checks.failures:
                each.run.exit_code = FAILED
                continue
            told = point.assembly.metadata()
            log_results(each.run, told, origins(told, trained.data.modules[each.number]), strip_caption(point.strip))


def strip_caption(strip: StripConfig | None) -> str:
    """What stands in the columns of a strip, and in its rows."""
    if strip is None:
        return ""
    scales = ", ".join(format_scales(scale) for scale in strip.scales)
    return f"{strip.prompt}; scales {scales}; seeds {', '.join(map(str, strip.seeds))}"
