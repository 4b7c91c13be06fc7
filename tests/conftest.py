"""Fixtures: a real SDXL pipeline of the smallest size, with random weights, saved as a folder."""

from pathlib import Path

import pytest

from experiments.tiny_faces.pipeline import PipelineSize, build_pipeline
from slider_lightning.backbone import Backbone, load_backbone

SMALLEST = PipelineSize(
    vae_channels=(16, 16, 16),
    unet_channels=(32, 64),
    unet_layers=1,
    text_width=32,
    text_width_2=32,
    text_layers=2,
)


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
