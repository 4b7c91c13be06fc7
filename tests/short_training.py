"""A short training of a slider with the real classes, called by a test or run as a process of its own.

python -m tests.short_training PIPELINE RUN [--kill-at STEP] [--max-steps N] [--batch-size B] [--devices N]
    [--data teacher|rollout|pairs]

Every process prints its rank and the sample-forwards that its cache cost, as a line of JSON.
"""

import argparse
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from PIL import Image

from slider_lightning.adapters import AdapterConfig, DenseConfig, SliderBank, SliderMetadata, new_slider
from slider_lightning.backbone import Backbone, load_backbone
from slider_lightning.concepts import Concept
from slider_lightning.data import (
    ConceptEmbeds,
    JointDataModule,
    OnPolicyConfig,
    PairDataModule,
    PairsConfig,
    RolloutConfig,
    RolloutDataModule,
    ScaleRange,
    StepDataModule,
    TeacherConfig,
    TeacherDataModule,
)
from slider_lightning.data.pairs import Twins
from slider_lightning.objectives import ImagePairObjective, Projection, TextObjective
from slider_lightning.training import (
    AtomicCheckpointIO,
    JsonLinesLogger,
    LastCheckpoint,
    OptimizerConfig,
    PairEmbeds,
    PairTask,
    RunFolder,
    SliderFiles,
    SliderModule,
    SliderTask,
    TextTask,
    TrainingChecks,
    TrainingCost,
)

CONCEPT = Concept("age", "a person", "an old person", "a young person", ("man", "woman"))
ADAPTER = AdapterConfig(rank=2, alpha=2.0)
ROLLOUT = RolloutConfig(num_inference_steps=4, seed=1)


def drawn_twins(folder: Path) -> tuple[Twins, ...]:
    """Three pictures of noise, each dark at -1 and bright at +1."""
    folder.mkdir(parents=True, exist_ok=True)
    twins = []
    for number in range(3):
        pixels = np.random.default_rng(number).integers(64, 192, (64, 64, 3))
        files = []
        for scale in (-1.0, 1.0):
            files.append((scale, folder / f"{number}{scale:+g}.png"))
            Image.fromarray((pixels + 60 * scale).astype(np.uint8)).save(files[-1][1])
        twins.append(Twins(str(number), tuple(files)))
    return tuple(twins)


class Kill(L.Callback):
    """Kills the process outright after an optimizer step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: L.Trainer, *args: object) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


class Stop(L.Callback):
    """Ends training in good order after an optimizer step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: L.Trainer, *args: object) -> None:
        trainer.should_stop = trainer.global_step == self.step


@dataclass
class ShortTraining:
    """What a short training left."""

    module: SliderModule
    data: JointDataModule
    trainer: L.Trainer
    cost: TrainingCost

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in self.module.bank.state_dict().items()}


def parts(
    data: str,
    backbone: Backbone,
    bank: SliderBank,
    prompts: dict[str, Any],
    objective: TextObjective,
    folder: Path,
    batch_size: int,
    cache_dtype: str,
) -> tuple[SliderTask, StepDataModule]:
    """Task and data of a training on `data`: teacher, rollout or pairs."""
    optimizer = OptimizerConfig(warmup_steps=2)
    draws: dict[str, Any] = {"batch_size": batch_size, "seed": 0}
    if data == "pairs":
        twins = drawn_twins(folder / "images")
        states = PairDataModule(backbone, twins, folder / "cache", PairsConfig(), mask=None, **draws)
        return PairTask(backbone, prompts["pairs"], ImagePairObjective(), optimizer), states
    embeds: ConceptEmbeds = prompts["text"]
    task = TextTask(backbone, embeds.target, objective, optimizer)
    draws["scale_range"] = ScaleRange()
    if data == "teacher":
        config = TeacherConfig(2, ROLLOUT, dtype=cache_dtype)
        return task, TeacherDataModule(backbone, embeds, folder / "cache", config, **draws)
    return task, RolloutDataModule(backbone, embeds, bank, OnPolicyConfig(2, ROLLOUT), **draws)


def train(
    pipeline: Path,
    run: RunFolder,
    *,
    resume: bool = False,
    kill_at: int | None = None,
    stop_at: int | None = None,
    max_steps: int = 8,
    batch_size: int = 2,
    devices: int = 1,
    data: str = "teacher",
    adapter: AdapterConfig | DenseConfig = ADAPTER,
    project: Projection | None = None,
    cache_dtype: str = "float32",
) -> ShortTraining:
    """Trains and returns; the cache lies beside the run folder."""
    torch.set_num_threads(1)
    backbone = load_backbone(str(pipeline), dtype="float32")
    objective = TextObjective(eta=2.0, project=project)
    embeds = ConceptEmbeds.encode(backbone, CONCEPT, objective.contrasts)
    unconditional = backbone.encode_negative_prompt(None)
    backbone.free_text_encoders()
    bank = SliderBank(backbone.unet, [new_slider(adapter, backbone.unet, seed=0)])
    prompts = {"text": embeds, "pairs": PairEmbeds(unconditional)}
    task, mine = parts(data, backbone, bank, prompts, objective, run.path.parent, batch_size, cache_dtype)
    module, states = SliderModule(backbone, bank, [task]), JointDataModule([mine])
    cost, checks = TrainingCost(), TrainingChecks(1, batches=3)
    metadata = SliderMetadata.of(adapter)
    ends = [end(step) for end, step in ((Kill, kill_at), (Stop, stop_at)) if step is not None]
    trainer = L.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_steps=max_steps,
        log_every_n_steps=1,
        gradient_clip_val=1.0,
        logger=JsonLinesLogger(run.metrics),
        plugins=[AtomicCheckpointIO()],
        callbacks=[
            cost,
            LastCheckpoint(run.checkpoints, every_n_steps=3),
            checks,
            SliderFiles({0: (run.slider, metadata)}, checks),
            *ends,
        ],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, states, ckpt_path=run.resume_checkpoint() if resume else None, weights_only=True)
    return ShortTraining(module, states, trainer, cost)


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("--max-steps", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--data", default="teacher")
    options = vars(parser.parse_args())
    result = train(options.pop("pipeline"), RunFolder(options.pop("run")), **options)
    told = {"rank": result.trainer.global_rank, "cache": result.data.cost.sample_forwards}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    _main()
