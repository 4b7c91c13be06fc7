"""The build of the world at the smallest size: every stage runs, and a second call goes on from what is there."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from diffusers import StableDiffusionXLPipeline

from experiments.tiny_faces.build import PARTS, WorldBuild, finished
from experiments.tiny_faces.card import card_text
from experiments.tiny_faces.judges.clip import ClipSettings
from experiments.tiny_faces.judges.parser import ParserSettings
from experiments.tiny_faces.judges.perceptual import PerceptualSettings
from experiments.tiny_faces.judges.probe import ProbeSettings
from experiments.tiny_faces.panel import load_judges
from experiments.tiny_faces.settings import BuildSettings
from experiments.tiny_faces.stylegan.training import StyleGanSettings, load_generator
from experiments.tiny_faces.unet import UNetSettings
from experiments.tiny_faces.vae import VaeSettings
from slider_lightning.assets import verify_folder
from slider_lightning.config import build
from slider_lightning.errors import InputError
from tests.conftest import SMALLEST, composed


def smallest_build(folder: Path) -> BuildSettings:
    """Two steps of everything."""
    short = {"steps": 2, "batch_size": 4}
    return BuildSettings(
        out_dir=str(folder / "assets"),
        work_dir=str(folder / "work"),
        faces=16,
        judge_faces=16,
        measured_images=8,
        measured_faces=16,
        size=SMALLEST,
        vae=VaeSettings(**short),
        unet=UNetSettings(**short),
        probe=ProbeSettings(**short),
        parser=ParserSettings(**short),
        clip=ClipSettings(**short),
        perceptual=PerceptualSettings(**short),
        stylegan=StyleGanSettings(channels=(8,) * 5, faces=16, adversarial_steps=2, **short),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the smallest world in `assets` and what its build left in `work`."""
    folder = tmp_path_factory.mktemp("build")
    WorldBuild(smallest_build(folder)).export()
    return folder


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_the_build_makes_a_world_and_continues_it(folder: Path) -> None:
    out = folder / "assets"
    StableDiffusionXLPipeline.from_pretrained(out / "pipeline")
    load_judges(out)
    assert load_generator(out / "stylegan").img_resolution == 64
    for part in PARTS:
        verify_folder(out / part)
    quality, made = (json.loads((out / name).read_text()) for name in ("quality.json", "made.json"))
    assert quality["world/images"] == 8
    assert quality["stylegan/faces"] == 16
    trainings = ["vae", "unet", "probe", "parser", "clip", "perceptual", "stylegan_regression", "stylegan_adversarial"]
    assert list(made["training"]) == trainings
    assert all(training["step"] == 2 for training in made["training"].values())
    assert made["settings"]["stylegan"]["faces"] == 16
    card = " ".join((out / "README.md").read_text().split())
    assert "first fitted by regression" in card
    assert card.count("(2 steps, ") == 2
    for picture in ("samples.png", "stylegan.png"):
        assert f"({picture})" in card
        assert (out / picture).is_file()

    stages = {path: time for path, time in files(folder / "work").items() if path.suffix == ".safetensors"}
    settings = smallest_build(folder)
    again = WorldBuild(replace(settings, probe=replace(settings.probe, steps=3)))
    again.judge_folder("probe")
    assert {path: path.stat().st_mtime_ns for path in stages} == stages, "a finished stage was made again"
    assert len(list((folder / "work").glob("probe-*"))) == 2, "a changed setting did not make a stage of its own"


def test_the_generator_alone_is_made_again_and_all_else_stays(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "assets", tmp_path / "assets")
    out, settings = tmp_path / "assets", smallest_build(tmp_path)
    before = files(out)
    old_quality, old_made = (json.loads((out / name).read_text()) for name in ("quality.json", "made.json"))
    stylegan = replace(settings.stylegan, steps=3, adversarial_steps=0)
    assert WorldBuild(replace(settings, only=("stylegan",), measured_faces=12, stylegan=stylegan)).export() == out
    assert [path.name.split("-")[0] for path in (tmp_path / "work").iterdir()] == ["stylegan"], "more was trained"
    rewritten = {path.relative_to(out).as_posix() for path, time in files(out).items() if before.get(path) != time}
    parts = {"stylegan/config.json", "stylegan/model.safetensors", "stylegan/hashes.json"}
    assert rewritten == parts | {"README.md", "quality.json", "made.json", "stylegan.png"}

    quality, made = (json.loads((out / name).read_text()) for name in ("quality.json", "made.json"))
    kept = {name: value for name, value in old_quality.items() if not name.startswith("stylegan/")}
    assert repr({name: quality[name] for name in kept}) == repr(kept)
    assert quality.keys() - kept.keys() == {name for name in old_quality if name.startswith("stylegan/")}
    assert quality["stylegan/faces"] == 12
    assert quality["judges/faces"] == made["settings"]["measured_faces"] == 16
    assert made["settings"]["stylegan"] == {**old_made["settings"]["stylegan"], "steps": 3, "adversarial_steps": 0}
    assert made["training"]["stylegan_regression"]["step"] == 3
    assert "stylegan_adversarial" not in made["training"]
    assert made["training"]["unet"] == old_made["training"]["unet"]
    assert made["machine"] == made["machine_stylegan"] == old_made["machine"]
    assert "only" not in made["settings"]
    card = (out / "README.md").read_text()
    assert "not sharpened adversarially" in " ".join(card.split())
    assert card == card_text(quality, made)


def test_a_part_alone_needs_a_world_and_no_other_part(tmp_path: Path) -> None:
    settings = smallest_build(tmp_path)
    with pytest.raises(InputError, match=r"stylegan.*without `only`"):
        WorldBuild(replace(settings, only=("stylegan",))).export()
    assert not list(tmp_path.iterdir()), "something was trained before the refusal"
    assert build(composed("build", "only=[stylegan]")).only == ("stylegan",)
    assert build(composed("build", "stylegan.adversarial_steps=0")).stylegan.adversarial_steps == 0
    with pytest.raises(InputError, match="probe"):
        build(composed("build", "only=[probe]"))


def test_a_stage_that_fails_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        folder.mkdir()
        raise RuntimeError("no room")

    with pytest.raises(RuntimeError):
        finished(tmp_path / "done", fail)
    assert not (tmp_path / "done").exists()
