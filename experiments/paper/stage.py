"""What every table does first, and once: train its sliders, make its image grids, have them measured."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict
from rich.console import Console

from evaluation.config import EvaluationConfig
from evaluation.gallery import Gallery
from evaluation.grids import GridSpec, Method, SliderMethod
from evaluation.judges.panel import Judges
from evaluation.measurements import Measurements
from evaluation.measuring import EditPrompts, Examiner
from evaluation.pages.examples import concept_images
from evaluation.report import Table, terminal, write_table
from experiments.paper.protocol import Protocol
from slider_lightning.backbone import Backbone
from slider_lightning.config import CONF, build, check, plain_config, portable_path, typed
from slider_lightning.errors import InputError
from slider_lightning.train import ensure_trained
from slider_lightning.training import RunFolder

# What a table's command line decides for the trainings and baselines below it.
SHARED = ("model", "paths")
MEASUREMENTS = "measurements"


@dataclass(frozen=True)
class StagedConcept:
    """What is measured of one concept, by whom, and where its images lie.

    Args:
        name: of the concept, as tables print it.
        settings: target, protected attributes and texts of its experiment.
        gallery: the grids of all its methods.
        examiner: the judges.
    """

    name: str
    settings: EvaluationConfig
    gallery: Gallery
    examiner: Examiner


class Stage:
    """The parts of a table's config as objects, made when they are first needed.

    Args:
        config: the plain, checked config of a file in conf/paper.
        console: where it says what it is about to do.
    """

    def __init__(self, config: dict[str, Any], console: Console) -> None:
        self.config = config
        self.console = console
        self.overrides = typed(config["training"], tuple[str, ...], "training")
        self.protocol: Protocol = build(config["protocol"], "protocol.")
        self._started = time.perf_counter()
        self._concepts: dict[str, StagedConcept] = {}

    @cached_property
    def backbone(self) -> Backbone:
        """The frozen model, at the resolution of the images."""
        resolution = self.protocol.resolution or self.config["model"]["resolution"]
        backbone: Backbone = build({**self.config["model"], "resolution": resolution}, "model.")
        return backbone

    @cached_property
    def judges(self) -> Judges:
        """Who measures."""
        judges: Judges = build(self.config["judges"], "judges.")
        return judges.to(self.backbone.device)

    @property
    def model_name(self) -> str:
        """The choice of `model=`, e.g. "tiny_faces"."""
        return str(HydraConfig.get().runtime.choices["model"])

    def compose(self, name: str, *overrides: str, shared: Sequence[str] = SHARED) -> dict[str, Any]:
        """The plain, checked config of another command, its sections of `shared` replaced by this table's."""
        config = hydra.compose(name, [f"model={self.model_name}", *overrides])
        with open_dict(config):
            for section in shared:
                if section in config:
                    config[section] = OmegaConf.create(self.config[section])
        plain = plain_config(config)
        check(plain)
        return plain

    def slider(self, experiment: str) -> RunFolder:
        """The run of an experiment: found whole, gone on with after a kill, or trained now."""
        return self.slider_of(f"experiment={experiment}")

    def slider_of(self, *overrides: str) -> RunFolder:
        """The run of a training's command line: found whole, gone on with after a kill, or trained now."""
        config = self.compose("train", *overrides, *self.overrides)
        self.console.print(f"Slider '{config['name']}' of {' '.join(overrides)}.")
        return ensure_trained(config)

    def concept(self, name: str) -> StagedConcept:
        """What is measured of a column of the table.

        Raises:
            InputError: if the protocol has no such concept.
        """
        if name not in self.protocol.concepts:
            known = ", ".join(self.protocol.concepts)
            raise InputError(f"Expected a concept of the protocol among {known}, but got {name!r}; change it.")
        if name not in self._concepts:
            self._concepts[name] = self._staged(name)
        return self._concepts[name]

    def slider_method(self, name: str, experiment: str) -> SliderMethod:
        """The slider of an experiment as a method, trained first where it is not; `name` is what tables call it."""
        return SliderMethod(name, (str(self.slider(experiment).slider),))

    def baseline_method(self, concept: str, baseline: str) -> Method:
        """A baseline on a concept; `baseline` is a file in conf/baseline."""
        experiment = self.protocol.concepts[concept].experiment
        config = self.compose("run_baseline", f"experiment={experiment}", f"baseline={baseline}")
        method: Method = build(config["baseline"], "baseline.")
        return method

    def slider_images(self, concept: str, method: str, experiment: str) -> Measurements:
        """The measurements of a slider's images, judged as `concept` is."""
        return self.measured(concept, self.slider_method(method, experiment), self.protocol.slider_scales)

    def baseline_images(self, concept: str, baseline: str) -> Measurements:
        """The measurements of a baseline's images: at both ends for the ablated concept, else where tables compare."""
        ends = self.protocol.baseline_scales if concept == self.protocol.ablated else (self.protocol.scale,)
        return self.measured(concept, self.baseline_method(concept, baseline), ends)

    def measured(
        self, concept: str, method: Method, scales: tuple[float, ...], start_timestep: int | None = None
    ) -> Measurements:
        """The measurements of a method's images of a concept; another `start_timestep` replaces the sampler's."""
        staged = self.concept(concept)
        self.console.print(f"Images and measurements of {method.name}, {concept}.")
        gallery = staged.gallery
        if start_timestep is not None:
            gallery = replace(gallery, sampler=replace(gallery.sampler, start_timestep=start_timestep))
        return gallery.measure(method, scales, staged.examiner)

    def train_all(self, experiments: Iterable[str]) -> None:
        """Trains what is not trained yet, before the images are made: a training holds a model of its own."""
        for experiment in experiments:
            self.slider(experiment)

    def targets(self) -> dict[str, str | None]:
        """Concept to the attribute that its slider should move."""
        return {name: self.concept(name).settings.target for name in self.protocol.concepts}

    def protected(self) -> dict[str, tuple[str, ...]]:
        """Concept to the class attributes that should not flip."""
        return {name: self.concept(name).settings.protected for name in self.protocol.concepts}

    def publish(
        self,
        tables: Mapping[str, Table],
        measurements: Iterable[Measurements],
        seeds: Mapping[str, int] | None = None,
        assets: Mapping[str, str] | None = None,
    ) -> RunFolder:
        """Writes tables, the measurements they were made from and how they were made, and prints the tables.

        Args:
            tables: by the names of their files; the page of the first one shows images of the methods.
            measurements: that they were made from.
            seeds: by what they draw, beside those of the concepts' images.
            assets: hashes by name, beside that of the model.
        """
        run = RunFolder(Path(self.config["out"]))
        shutil.rmtree(run.path / MEASUREMENTS, ignore_errors=True)
        measured = list(measurements)
        for found in measured:
            found.write(run.path / MEASUREMENTS / f"{found.header.concept}-{found.header.method}.jsonl")
        images = concept_images(measured, self.grids)
        for name, table in tables.items():
            write_table(run.path, name, table, images if name == next(iter(tables)) else ())
            self.console.print(terminal(table))
        run.write_config(yaml.safe_dump(self.config, sort_keys=False))
        drawn = {f"images of {name}": staged.gallery.prompts.first_seed for name, staged in self._concepts.items()}
        run.write_manifest(
            seeds={**drawn, **(seeds or {})},
            assets={portable_path(self.config["model"]["path"]): self.backbone.fingerprint, **(assets or {})},
            seconds=time.perf_counter() - self._started,
            device=str(self.backbone.device),
        )
        self.console.print(
            f"Tables: {run.path}\n{time.perf_counter() - self._started:.0f} s, {self.backbone.sample_forwards:,} UNet "
            "sample-forwards for images.",
            soft_wrap=True,
        )
        return run

    def gallery(self, prompts: str) -> Gallery:
        """The grids of the images of a file in conf/prompts."""
        sampler = build(self.config["sampler"], "sampler.")
        return Gallery(self.backbone, self._prompts(prompts), sampler, self.grids, self.protocol.batch_size)

    @property
    def grids(self) -> Path:
        """Folder of all grids."""
        return Path(self.config["paths"]["outputs"]) / "grids"

    def examiner(self, concept: str, texts: EditPrompts) -> Examiner:
        """The judges, for one concept."""
        return Examiner(self.judges, self.config["judges"], concept, texts, self.backbone.name)

    def _staged(self, name: str) -> StagedConcept:
        column = self.protocol.concepts[name]
        config = self.compose("train", f"experiment={column.experiment}")
        settings: EvaluationConfig = build(config["evaluation"], "evaluation.")
        texts = EditPrompts(settings.edit_prompt, settings.opposite_prompt)
        return StagedConcept(name, settings, self.gallery(column.prompts), self.examiner(name, texts))

    def _prompts(self, name: str) -> GridSpec:
        spec: GridSpec = build(_prompt_file(name), "prompts.")
        wanted: dict[str, Any] = {
            "seeds_per_prompt": self.protocol.seeds_per_prompt,
            "first_seed": self.protocol.first_seed,
        }
        return replace(spec, **{key: value for key, value in wanted.items() if value is not None})


def _prompt_file(name: str) -> Mapping[str, Any]:
    path = CONF / "prompts" / f"{name}.yaml"
    if not path.is_file():
        folder = CONF / "prompts"
        known = ", ".join(sorted(str(file.relative_to(folder).with_suffix("")) for file in folder.rglob("*.yaml")))
        raise InputError(f"Expected prompts named among {known}, but got {name!r}; change protocol.concepts.")
    node = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    assert isinstance(node, dict)
    return {str(key): value for key, value in node.items()}
