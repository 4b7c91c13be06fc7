"""From a checked config to what one training consists of: its module, its data, and what its slider file says."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from slider_lightning.adapters import SliderBank, SliderMetadata
from slider_lightning.backbone import Backbone
from slider_lightning.concepts import Concept, VisualConcept
from slider_lightning.config import build, known_keys, portable_path, typed
from slider_lightning.data import (
    ConceptEmbeds,
    OnPolicyConfig,
    PairDataModule,
    PairsConfig,
    PairSource,
    RolloutDataModule,
    ScaleRange,
    StepDataModule,
    TeacherConfig,
    TeacherDataModule,
)
from slider_lightning.data.pairs import Twins, check_twins, twins_digest
from slider_lightning.errors import InputError
from slider_lightning.objectives import ImagePairObjective, TextObjective
from slider_lightning.training import OptimizerConfig, PairEmbeds, PairTask, SliderTask, TextTask

Progress = Callable[[int, int], None]
PAIRS_DIGEST = "pairs_sha256"  # in a run's config: the images decide its result as much as their place does


class Assembly(ABC):
    """One training, put together in the order that memory wants: prompts first, then images, slider and data.

    Args:
        config: the plain, checked config of conf/train.yaml.
        backbone: the frozen model, its text encoders still there.

    Raises:
        InputError: if concept, objective and data do not belong together.
    """

    preparation: ClassVar[str]
    """What is computed before the first step, for a progress bar."""

    def __init__(self, config: Mapping[str, Any], backbone: Backbone) -> None:
        self.config = config
        self.backbone = backbone
        self.adapter = build(config["adapter"], "adapter.")
        self.optimizer: OptimizerConfig = build(config["optimizer"], "optimizer.")

    @abstractmethod
    def gather(self) -> None:
        """Reads or draws the images that it needs, and checks them; the text encoders may be gone by then.

        Raises:
            InputError: if images are missing, damaged or no pairs.
        """

    def identity(self) -> dict[str, str]:
        """What decides the result beside the config, known after `gather`."""
        return {}

    @abstractmethod
    def task(self) -> SliderTask:
        """What the slider learns."""

    @abstractmethod
    def data(self, bank: SliderBank, progress: Progress) -> StepDataModule:
        """What it is fed; `progress` is told what is computed first."""

    @abstractmethod
    def described(self) -> dict[str, Any]:
        """What the slider file says of objective, concept and scales: fields of `SliderMetadata`."""

    def metadata(self) -> SliderMetadata:
        """What the slider file will say about itself."""
        return SliderMetadata.of(
            self.adapter,
            base_model=portable_path(self.config["model"]["path"]),
            base_model_hash=self.backbone.fingerprint,
            start_timestep=self.config["sampler"]["start_timestep"],
            **self.described(),
        )

    def data_settings(self) -> dict[str, Any]:
        """Rows and seed of every kind of data."""
        return {
            "batch_size": typed(self.config["data"]["batch_size"], int, "data.batch_size"),
            "seed": typed(self.config["seed"], int, "seed"),
        }


class TextAssembly(Assembly):
    """Eq. 3 and 4 on states of the frozen model (`data=teacher`) or of the slider itself (`data=rollout`)."""

    preparation = "teacher cache, sample-forwards"

    def __init__(self, config: Mapping[str, Any], backbone: Backbone, objective: TextObjective) -> None:
        super().__init__(config, backbone)
        self.objective = objective
        self.source: OnPolicyConfig | TeacherConfig | PairsConfig = build(config["data"]["source"], "data.source.")
        if isinstance(self.source, PairsConfig):
            raise InputError("Expected objective=text with data=teacher or data=rollout, but got pairs; change one.")
        known_keys(config["data"], ("batch_size", "source", "scale_range"), "data.")
        self.concept: Concept = in_words(build(config["concept"], "concept."), "objective=text")
        self.scale_range: ScaleRange = build(config["data"]["scale_range"], "data.scale_range.")
        self.embeds = ConceptEmbeds.encode(backbone, self.concept, objective.contrasts)

    def gather(self) -> None:
        """Nothing: the states follow from the config."""

    def task(self) -> SliderTask:
        """Eq. 3 and 4."""
        return TextTask(self.backbone, self.embeds.target, self.objective, self.optimizer)

    def data(self, bank: SliderBank, progress: Progress) -> StepDataModule:
        """Cached teacher states, or on-policy rollouts."""
        settings = {**self.data_settings(), "scale_range": self.scale_range}
        if isinstance(self.source, OnPolicyConfig):
            if len(bank.sliders) > 1:
                raise InputError(
                    "Expected one slider for data=rollout, whose states are drawn with it, but the grid names "
                    f"{len(bank.sliders)}; train on data=teacher, or sweep with -m."
                )
            return RolloutDataModule(self.backbone, self.embeds, bank, self.source, **settings)
        assert isinstance(self.source, TeacherConfig)
        cache_dir = Path(self.config["paths"]["cache"])
        return TeacherDataModule(self.backbone, self.embeds, cache_dir, self.source, **settings, progress=progress)

    def described(self) -> dict[str, Any]:
        """Concept, eta, projection and the range of training scales."""
        high = self.scale_range.high
        return {
            "objective": f"text_{self.objective.mode}",
            "concept": asdict(self.concept),
            "eta": self.objective.eta,
            "project": self.objective.project.plain() if self.objective.project else None,
            "useful_scales": (-high, high),
        }


class PairAssembly(Assembly):
    """Eq. 6 on twins (`data=pairs`), from whatever `pairs=` names."""

    twins: tuple[Twins, ...]

    preparation = "encoding images"

    def __init__(self, config: Mapping[str, Any], backbone: Backbone, objective: ImagePairObjective) -> None:
        super().__init__(config, backbone)
        self.objective = objective
        self.concept: Concept | VisualConcept = build(config["concept"], "concept.")
        self.source = build(config["data"]["source"], "data.source.")
        if not isinstance(self.source, PairsConfig):
            raise InputError(
                "Expected objective=image_pairs with data=pairs, but got other data; start from experiment=image_pairs."
            )
        known_keys(config["data"], ("batch_size", "source"), "data.")
        if not config["pairs"]:
            raise InputError(
                "Expected pairs of images, but none are named; start from experiment=image_pairs, or set pairs=folder "
                "pairs.folder=DIR."
            )
        text = None
        if objective.text is not None:
            text = ConceptEmbeds.encode(backbone, in_words(self.concept, "objective.text"))
        prompt = objective.prompt
        unconditional = backbone.encode_negative_prompt(None) if prompt is None else backbone.encode_prompts([prompt])
        self.embeds = PairEmbeds(unconditional, text)

    def gather(self) -> None:
        """Reads or draws the twins."""
        self.twins = read_twins(self.config)
        check_twins(self.twins, self.source.background)

    def identity(self) -> dict[str, str]:
        """The images' hash."""
        return {PAIRS_DIGEST: twins_digest(self.twins)}

    def task(self) -> SliderTask:
        """Eq. 6."""
        return PairTask(self.backbone, self.embeds, self.objective, self.optimizer)

    def data(self, bank: SliderBank, progress: Progress) -> StepDataModule:
        """The twins, encoded once."""
        cache_dir = Path(self.config["paths"]["cache"]) / "pairs"
        return PairDataModule(
            self.backbone,
            self.twins,
            cache_dir,
            self.source,
            mask=self.objective.mask,
            progress=progress,
            **self.data_settings(),
        )

    def described(self) -> dict[str, Any]:
        """Concept, and the levels' scales."""
        scales = [scale for twins in self.twins for scale, _ in twins.images]
        text = self.objective.text
        return {
            "objective": "image_pairs",
            "concept": asdict(self.concept),
            "eta": text.objective.eta if text else None,
            "useful_scales": (min(0.0, *scales), max(0.0, *scales)),
        }


def assemble(config: Mapping[str, Any], backbone: Backbone) -> Assembly:
    """The training that a config describes, by its objective.

    Raises:
        InputError: if its parts do not belong together, or pairs are missing or damaged.
    """
    objective: TextObjective | ImagePairObjective = build(config["objective"], "objective.")
    if isinstance(objective, ImagePairObjective):
        return PairAssembly(config, backbone, objective)
    return TextAssembly(config, backbone, objective)


def read_twins(config: Mapping[str, Any]) -> tuple[Twins, ...]:
    """The images that a config's `pairs` names, drawn first where it draws them.

    Raises:
        InputError: if they are missing or do not belong together.
    """
    source: PairSource = build(config["pairs"], "pairs.")
    return source.twins(Path(config["paths"]["outputs"]) / "pairs")


def data_identity(config: Mapping[str, Any]) -> dict[str, str]:
    """What decides a run beside its config; nothing for text sliders, whose data follow from the config.

    Raises:
        InputError: as `read_twins`.
    """
    return {PAIRS_DIGEST: twins_digest(read_twins(config))} if config["pairs"] else {}


def in_words(concept: Concept | VisualConcept, asked_by: str) -> Concept:
    """The concept, if it has poles in words.

    Raises:
        InputError: if it has none.
    """
    if not isinstance(concept, Concept):
        raise InputError(
            f"Expected a concept with positive and negative prompts for {asked_by}, but {concept.name!r} has none; "
            "choose another concept, or objective=image_pairs."
        )
    return concept
