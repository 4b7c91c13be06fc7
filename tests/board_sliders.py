"""Shared by the tests of the board: two calibrated sliders in files, and the desk that turns them."""

from pathlib import Path

import anyio
import torch

from slider_lightning.adapters import AdapterConfig, Calibration, Slider, SliderMetadata, save_slider
from slider_lightning.backbone import Backbone, load_backbone
from slider_lightning.board.__main__ import make_desk
from slider_lightning.board.desk import Desk
from tests.conftest import composed

STEPS = 4

# pytest compiles a module of anyio when a name of it is first asked for. In a thread of a server that failed once
# (a SystemError of ast.parse), so all are asked for here.
for _name in dir(anyio):
    getattr(anyio, _name)


def write_slider(path: Path, backbone: Backbone, seed: int, name: str) -> Path:
    """A slider file with random weights whose effect is half a unit per scale."""
    config = AdapterConfig(rank=2, alpha=2.0)
    slider = Slider(backbone.unet, config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter in slider.parameters():
        torch.nn.init.normal_(parameter.data, std=0.2, generator=generator)
    effects = (-1.0, 0.0, 1.0)
    calibration = Calibration(
        target=name,
        unit="standard deviation (a probe)",
        scales=(-2.0, 0.0, 2.0),
        effects=effects,
        lows=effects,
        highs=effects,
        fit=effects,
        useful_scales=(-2.0, 2.0),
    )
    known = {"concept": {"name": name}, "useful_scales": (-2.0, 2.0), "calibration": calibration}
    save_slider(path, slider, SliderMetadata.of(config, base_model_hash=backbone.fingerprint, **known))
    return path


def small_desk(pipeline_folder: Path, folder: Path, *overrides: str) -> Desk:
    """The desk of a board on a pipeline with random weights, as a command line makes it."""
    backbone = load_backbone(str(pipeline_folder), dtype="float32")
    names = ("age", "smile")
    files = [write_slider(folder / f"{name}.safetensors", backbone, seed, name) for seed, name in enumerate(names)]
    started = [
        f"model.path={pipeline_folder}",
        f"paths.outputs={folder}/outputs",
        f"sampler.num_inference_steps={STEPS}",
        "sampler.guidance_scale=3.0",
        "sampler.start_timestep=600",
        f"sliders=[{','.join(map(str, files))}]",
        *overrides,
    ]
    return make_desk(composed("board", *started), started)
