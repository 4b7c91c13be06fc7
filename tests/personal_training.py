"""A short training of a baseline with the real classes, for tests of personalisation."""

from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch

from evaluation.baselines.personal import (
    CONCEPT_FILE,
    ConceptFile,
    LearnedConcept,
    PersonalConfig,
    PersonalDataModule,
    PersonalImages,
    PersonalModule,
    PriorConfig,
)
from evaluation.baselines.personal.draws import Examples
from slider_lightning.backbone import Backbone, load_backbone
from slider_lightning.training import (
    JsonLinesLogger,
    OptimizerConfig,
    RunFolder,
    TrainerConfig,
    TrainingCost,
    build_trainer,
)
from tests.short_training import Stop

TOKEN = "<eyes>"


def settings(kind: str, **changes: object) -> PersonalConfig:
    """A configuration of either method that begins as the word "old"; custom_diffusion keeps a prior."""
    prior = PriorConfig("a person") if kind == "custom_diffusion" else None
    values = {"token": TOKEN, "initializer": "old", "templates": ("image of {}", "{}"), "batch_size": 2, "prior": prior}
    return PersonalConfig(kind=kind, **{**values, **changes})  # type: ignore[arg-type]


def random_images(count: int, seed: int = 0) -> torch.Tensor:
    """Images of 64 px with large patches of colour."""
    patches = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(patches, size=64)


def training_images(config: PersonalConfig) -> PersonalImages:
    """Three images, and four of the prior where one is kept."""
    prior = None if config.prior is None else random_images(4, seed=1)
    return PersonalImages(
        random_images(3), config.prompts, config.flip, prior, config.prior.prompt if config.prior else None
    )


def module_of(backbone: Backbone, kind: str, **changes: object) -> PersonalModule:
    """A module outside a trainer."""
    config = settings(kind, **changes)
    weight = config.prior.weight if config.prior else 1.0
    module = PersonalModule(backbone, config.initial_concept(backbone), OptimizerConfig(), weight)
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    return module


def stir(concept: LearnedConcept, std: float = 0.1) -> LearnedConcept:
    """The same concept with random values added to all of its parameters."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in concept.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=std)
    return concept


def examples_of(images: torch.Tensor, prompts: tuple[str, ...], timestep: int = 500) -> Examples:
    """One row per prompt of latents, at one noise level."""
    generator = torch.Generator().manual_seed(3)
    latents = images[: len(prompts)]
    return Examples(
        latents, torch.randn(latents.shape, generator=generator), torch.full((len(latents),), timestep), prompts
    )


@dataclass
class Trained:
    """What a short training left."""

    module: PersonalModule
    data: PersonalDataModule
    trainer: L.Trainer
    cost: TrainingCost

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in self.module.concept.state_dict().items()}


def train(
    pipeline: Path, run: RunFolder, kind: str, *, resume: bool = False, stop_at: int | None = None, max_steps: int = 6
) -> Trained:
    """Trains into a run folder with the project's trainer."""
    torch.set_num_threads(1)
    backbone, config = load_backbone(str(pipeline)), settings(kind)
    module = PersonalModule(backbone, config.initial_concept(backbone), OptimizerConfig(lr=1e-2, warmup_steps=1))
    data = PersonalDataModule(backbone, training_images(config), batch_size=config.batch_size, seed=0)
    cost, quiet = TrainingCost(), {"progress_bar": False, "accelerator": "cpu"}
    file = ConceptFile(run.path / CONCEPT_FILE, config.metadata("pipeline", backbone.fingerprint))
    ends = [] if stop_at is None else [Stop(stop_at)]
    trainer = build_trainer(
        TrainerConfig(max_steps=max_steps, log_every_n_steps=1, checkpoint_every_n_steps=2, **quiet),
        run,
        [JsonLinesLogger(run.metrics)],
        [cost, file, *ends],
    )
    trainer.fit(module, data, ckpt_path=run.resume_checkpoint() if resume else None, weights_only=True)
    return Trained(module, data, trainer, cost)
