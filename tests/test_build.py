"""The build of the world at the smallest size: every stage runs, and a second call goes on from what is there."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from diffusers import StableDiffusionXLPipeline

from experiments.tiny_faces.build import WorldBuild, finished
from experiments.tiny_faces.judges.clip import ClipSettings
from experiments.tiny_faces.judges.parser import ParserSettings
from experiments.tiny_faces.judges.perceptual import PerceptualSettings
from experiments.tiny_faces.judges.probe import ProbeSettings
from experiments.tiny_faces.panel import load_judges
from experiments.tiny_faces.settings import BuildSettings
from experiments.tiny_faces.unet import UNetSettings
from experiments.tiny_faces.vae import VaeSettings
from slider_lightning.assets import verify_folder
from tests.conftest import SMALLEST


def smallest_build(folder: Path) -> BuildSettings:
    """Two steps of everything."""
    short = {"steps": 2, "batch_size": 4}
    return BuildSettings(
        out_dir=str(folder / "assets"),
        work_dir=str(folder / "work"),
        faces=16,
        judge_faces=16,
        measured_images=8,
        size=SMALLEST,
        vae=VaeSettings(**short),
        unet=UNetSettings(**short),
        probe=ProbeSettings(**short),
        parser=ParserSettings(**short),
        clip=ClipSettings(**short),
        perceptual=PerceptualSettings(**short),
    )


def test_the_build_makes_a_world_and_continues_it(tmp_path: Path) -> None:
    settings = smallest_build(tmp_path)
    out = WorldBuild(settings).export()
    StableDiffusionXLPipeline.from_pretrained(out / "pipeline")
    load_judges(out)
    verify_folder(out / "pipeline")
    assert json.loads((out / "quality.json").read_text())["world/images"] == 8
    made = json.loads((out / "made.json").read_text())
    assert {"vae", "unet", "probe", "parser", "clip", "perceptual"} <= set(made["training"])

    stages = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.safetensors")}
    again = WorldBuild(replace(settings, probe=replace(settings.probe, steps=3)))
    again.judge_folder("probe")
    assert {path: path.stat().st_mtime_ns for path in stages} == stages, "a finished stage was made again"
    assert len(list((tmp_path / "work").glob("probe-*"))) == 2, "a changed setting did not make a stage of its own"


def test_a_stage_that_fails_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        folder.mkdir()
        raise RuntimeError("no room")

    with pytest.raises(RuntimeError):
        finished(tmp_path / "done", fail)
    assert not (tmp_path / "done").exists()
