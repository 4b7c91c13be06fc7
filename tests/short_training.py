"""A short training of a slider with the real classes: called in the tests' process, or run as a process to kill or to pair.

    python -m tests.short_training PIPELINE RUN [--resume] [--kill-at STEP] [--max-steps N] [--batch-size B] [--devices N] [--data KIND]
"""

import argparse
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch

from slider_lightning.adapters import AdapterConfig, Slider, SliderBank, SliderMetadata
from slider_lightning.backbone import load_backbone
from slider_lightning.concepts import Concept
from slider_lightning.data import (
    ConceptEmbeds,
    OnPolicyConfig,
    RolloutConfig,
    RolloutDataModule,
    StateDataModule,
    TeacherConfig,
    TeacherDataModule,
)
from slider_lightning.objectives import TextObjective
from slider_lightning.training import (
    AtomicCheckpointIO,
    JsonLinesLogger,
    LastCheckpoint,
    OptimizerConfig,
    RunFolder,
    SliderFile,
    TextSliderModule,
    TrainingCost,
)

CONCEPT = Concept("age", "a person", "an old person", "a young person", ("man", "woman"))
ROLLOUT = RolloutConfig(num_inference_steps=4, seed=1)


class Kill(L.Callback):
    """Kills the process outright after an optimizer step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: L.Trainer, *args: object) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class ShortTraining:
    """What a short training left."""

    module: TextSliderModule
    data: StateDataModule
    trainer: L.Trainer
    cost: TrainingCost

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in self.module.bank.state_dict().items()}


def train(
    pipeline: Path,
    run: RunFolder,
    *,
    resume: bool = False,
    kill_at: int | None = None,
    max_steps: int = 8,
    batch_size: int = 2,
    devices: int = 1,
    data: str = "teacher",
) -> ShortTraining:
    """Trains and returns; the cache lies beside the run folder."""
    torch.set_num_threads(1)
    backbone = load_backbone(str(pipeline), dtype="float32")
    embeds = ConceptEmbeds.encode(backbone, CONCEPT)
    backbone.free_text_encoders()
    adapter = AdapterConfig(rank=2, alpha=2.0)
    bank = SliderBank(backbone.unet, [Slider(backbone.unet, adapter, seed=0)])
    module = TextSliderModule(backbone, bank, embeds.target, TextObjective(eta=2.0), OptimizerConfig(warmup_steps=2))
    states: StateDataModule
    if data == "teacher":
        cache = run.path.parent / "cache"
        states = TeacherDataModule(backbone, embeds, cache, TeacherConfig(2, ROLLOUT), batch_size=batch_size)
    else:
        states = RolloutDataModule(backbone, embeds, bank, OnPolicyConfig(2, ROLLOUT), batch_size=batch_size)
    cost = TrainingCost()
    metadata = SliderMetadata(rank=adapter.rank, alpha=adapter.alpha, layers=adapter.layers)
    kill = [Kill(kill_at)] if kill_at is not None else []
    trainer = L.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_steps=max_steps,
        log_every_n_steps=1,
        gradient_clip_val=1.0,
        logger=JsonLinesLogger(run.metrics),
        plugins=[AtomicCheckpointIO()],
        callbacks=[cost, LastCheckpoint(run.checkpoints, every_n_steps=3), SliderFile(run.slider, metadata), *kill],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, states, ckpt_path=run.resume_checkpoint() if resume else None, weights_only=True)
    return ShortTraining(module, states, trainer, cost)


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("--max-steps", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--data", default="teacher")
    options = vars(parser.parse_args())
    train(options.pop("pipeline"), RunFolder(options.pop("run")), **options)


if __name__ == "__main__":
    _main()
