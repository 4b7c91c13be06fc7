"""The training of sliders: LightningModules, checkpoints, and the folder a run leaves."""

from slider_lightning.training.callbacks import SliderFile, TrainingCost
from slider_lightning.training.checkpoints import AtomicCheckpointIO, LastCheckpoint
from slider_lightning.training.checks import TrainingChecks
from slider_lightning.training.json_lines import JsonLinesLogger
from slider_lightning.training.pair_slider import PairEmbeds, PairSliderModule
from slider_lightning.training.run_folder import RunFolder
from slider_lightning.training.slider_module import OptimizerConfig, SliderModule
from slider_lightning.training.text_slider import TextSliderModule
from slider_lightning.training.trainer import TrainerConfig, build_trainer

__all__ = [
    "AtomicCheckpointIO",
    "JsonLinesLogger",
    "LastCheckpoint",
    "OptimizerConfig",
    "PairEmbeds",
    "PairSliderModule",
    "RunFolder",
    "SliderFile",
    "SliderModule",
    "TextSliderModule",
    "TrainerConfig",
    "TrainingChecks",
    "TrainingCost",
    "build_trainer",
]
