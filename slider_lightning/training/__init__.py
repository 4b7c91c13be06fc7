"""The training of sliders: LightningModules, checkpoints, and the folder a run leaves."""

from slider_lightning.config.training import OptimizerConfig, TrainerConfig
from slider_lightning.training.callbacks import SliderFiles, TrainingCost
from slider_lightning.training.checkpoints import AtomicCheckpointIO, LastCheckpoint
from slider_lightning.training.checks import TrainingChecks
from slider_lightning.training.json_lines import JsonLinesLogger, SliderLogger
from slider_lightning.training.pair_slider import PairEmbeds, PairTask
from slider_lightning.training.run_folder import RunFolder
from slider_lightning.training.slider_module import SliderModule, loss_key
from slider_lightning.training.tasks import SliderTask
from slider_lightning.training.text_slider import TextTask
from slider_lightning.training.trainer import build_trainer
from slider_lightning.training.wandb_config import RunCard, WandbConfig
from slider_lightning.training.wandb_logger import WandbSliderLogger
from slider_lightning.training.wandb_run import WandbRun, open_runs

__all__ = [
    "AtomicCheckpointIO",
    "JsonLinesLogger",
    "LastCheckpoint",
    "OptimizerConfig",
    "PairEmbeds",
    "PairTask",
    "RunCard",
    "RunFolder",
    "SliderFiles",
    "SliderLogger",
    "SliderModule",
    "SliderTask",
    "TextTask",
    "TrainerConfig",
    "TrainingChecks",
    "TrainingCost",
    "WandbConfig",
    "WandbRun",
    "WandbSliderLogger",
    "build_trainer",
    "loss_key",
    "open_runs",
]
