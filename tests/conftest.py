"""Shared by the tests: configs as commands compose them, and the smallest real SDXL with random weights."""

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from experiments.tiny_faces.pipeline import PipelineSize, build_pipeline
from slider_lightning.backbone import Backbone, load_backbone
from slider_lightning.config import CONF, check, plain_config, register_resolvers

SMALLEST = PipelineSize(
    vae_channels=(16, 16, 16),
    unet_channels=(32, 64),
    unet_layers=1,
    text_width=32,
    text_width_2=32,
    text_layers=2,
)


def composed(config_name: str, *overrides: str) -> dict[str, Any]:
    """The plain, checked config of a command line."""
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = plain_config(compose(config_name, list(overrides)))
    check(config)
    return config


def quick_training(pipeline_folder: Path, folder: Path) -> list[str]:
    """Overrides of a training of four steps whose outputs and cache lie in a folder."""
    return [
        "experiment=age",
        f"model.path={pipeline_folder}",
        f"paths.outputs={folder}/outputs",
        f"paths.cache={folder}/cache",
        "trainer.max_steps=4",
        "trainer.log_every_n_steps=1",
        "trainer.progress_bar=false",
        "data.source.num_rollouts=1",
        "data.source.rollout.num_inference_steps=3",
        "data.batch_size=2",
        "sampler.num_inference_steps=3",
        "strip.seeds=[0]",
        "strip.scales=[-1,1]",
    ]


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A StableDiffusionXLPipeline folder with random fp32 weights: 64 px images, 16x16 latents."""
    folder = tmp_path_factory.mktemp("pipeline")
    build_pipeline(SMALLEST).save_pretrained(folder)
    return folder


@pytest.fixture
def backbone(pipeline_folder: Path) -> Backbone:
    """A fresh frozen backbone of that pipeline in fp32 on the CPU."""
    return load_backbone(str(pipeline_folder), dtype="float32")
