"""The board behind its page: what is computed once, the command that makes an image again, knobs, who may come in."""

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from slider_lightning.adapters import SliderBank, SliderMetadata
from slider_lightning.backbone import SamplerConfig, images_to_pil, load_backbone
from slider_lightning.board.command import generate_overrides
from slider_lightning.board.desk import BoardConfig, Desk
from slider_lightning.board.knobs import Knob, shared_unit
from slider_lightning.board.remembering import Recent
from slider_lightning.board.rendering import Outdated, Picture
from slider_lightning.board.serving import is_loopback, refuse_if_open, served
from slider_lightning.errors import InputError
from slider_lightning.generate import generate, load_sliders
from slider_lightning.generation import generate_images
from tests.board_sliders import STEPS, small_desk
from tests.conftest import composed

STRANGE = 'a person\'s "hat", ${x} = {1: [2]} \\ $HOME `ls`; # é 人'


@pytest.fixture(scope="module")
def desk(pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return small_desk(pipeline_folder, tmp_path_factory.mktemp("board"))


def picture(desk: Desk, *positions: float, seed: int = 0, **sampler: object) -> Picture:
    return desk.picture(positions, False, "a person", seed, replace(desk.sampler, **sampler))


def difference(first: Image.Image, second: Image.Image) -> int:
    """The largest between any two values of pixels, of 255."""
    return int(np.abs(np.asarray(first, np.int16) - np.asarray(second, np.int16)).max())


@pytest.mark.parametrize("scheduler", [None, "DPMSolverMultistepScheduler", "EulerAncestralDiscreteScheduler"])
def test_what_is_remembered_changes_no_image(desk: Desk, pipeline_folder: Path, scheduler: str | None) -> None:
    asked = picture(desk, 1.5, -1, seed=3, scheduler=scheduler)
    alone = load_backbone(str(pipeline_folder), dtype="float32")
    bank = SliderBank(alone.unet, [slider for slider, _ in load_sliders(desk.config.sliders, alone)])
    base = generate_images(alone, None, "a person", [3], [0.0], asked.sampler)
    edited = generate_images(alone, bank, "a person", [3], [asked.scales], asked.sampler)
    for images, wanted in ((base, asked.base), (edited, asked)):
        assert difference(desk.renderer.render(wanted), images_to_pil(images[0])[0]) == 0
    assert difference(desk.renderer.render(asked), desk.renderer.render(asked.base)) > 5


def test_a_drag_computes_the_steps_with_sliders_on_alone(desk: Desk) -> None:
    backbone = desk.renderer.backbone
    timesteps = desk.sampler.scheduler_for(backbone.scheduler).timesteps
    on = int((timesteps <= desk.sampler.start_timestep).sum())
    assert 0 < on < STEPS
    costs = []
    for scale in (0.0, 1.0, 1.05, 1.05):
        before = backbone.sample_forwards
        desk.renderer.render(picture(desk, scale, 0, seed=7))
        costs.append(backbone.sample_forwards - before)
    assert costs == [2 * STEPS, 2 * on, 2 * on, 0], "guidance takes two rows a step"


def test_an_image_that_nobody_waits_for_is_given_up(desk: Desk) -> None:
    asked, backbone = picture(desk, 1, 1, seed=11, start_timestep=1000), desk.renderer.backbone
    before = {name: value.clone() for name, value in backbone.unet.state_dict().items()}
    forwards = backbone.sample_forwards
    with pytest.raises(Outdated):
        desk.show(asked, lambda: backbone.sample_forwards > forwards)
    assert backbone.sample_forwards - forwards == 2, "one call with both halves of guidance"
    with pytest.raises(Outdated):
        desk.show(asked, lambda: True)
    assert backbone.sample_forwards - forwards == 2, "no call for what was given up before its turn"
    assert asked not in desk.renderer
    assert all(torch.equal(value, before[name]) for name, value in backbone.unet.state_dict().items())


def test_a_preview_takes_few_steps_until_the_image_is_at_hand(desk: Desk) -> None:
    asked = picture(desk, 0.5, 0.5, seed=13, num_inference_steps=20)
    few = desk.preview(asked)
    assert few.note.startswith("8 steps")
    assert "sampler.num_inference_steps=8" in few.command
    full = desk.show(asked)
    assert full.note.startswith("20 steps")
    assert difference(desk.preview(asked).image, full.image) == 0 < difference(few.image, full.image)


@pytest.mark.parametrize("prompt", ["a person", STRANGE])
def test_the_command_makes_the_image_again(desk: Desk, tmp_path: Path, prompt: str) -> None:
    sampler = replace(desk.sampler, guidance_scale=2.5, num_inference_steps=5)
    asked = desk.picture([1.35, -0.7], False, prompt, 21, sampler)
    shown = desk.show(asked)
    python, dash_m, module, *overrides = shlex.split(shown.command)
    assert (python, dash_m, module) == ("python", "-m", "slider_lightning.generate")
    config = composed("generate", *overrides, f"images={tmp_path}", f"out={tmp_path}/strip.png")
    assert config["prompt"] == prompt
    generate(config)
    again = Image.open(tmp_path / "seed21-000.png")
    assert difference(again, shown.image) <= 1
    assert difference(again, desk.show(asked.base).image) > 5


def test_the_command_takes_over_what_the_board_was_started_with(desk: Desk) -> None:
    sampler = SamplerConfig(scheduler="UniPCMultistepScheduler")
    asked = Picture("a person", 0, (1.0,), sampler)
    started = ["model=sdxl", "sampler.guidance_scale=7", "++sampler.fold=never", "port=80", "seed=5", "paths.cache=c"]
    overrides = generate_overrides(asked, ["a.safetensors"], started, SamplerConfig(), "outputs")
    assert overrides[:3] == ["model=sdxl", "++sampler.fold=never", "paths.cache=c"]
    assert {"sampler.guidance_scale=4", "sampler.scheduler=UniPCMultistepScheduler"} <= set(overrides)


def test_a_saved_image_tells_how_it_was_made(desk: Desk, tmp_path: Path) -> None:
    asked = picture(desk, 1.5, 0, seed=3)
    path = desk.save(asked, tmp_path)
    assert path.name == "age+1.5_seed3.png"
    with Image.open(path) as image:
        told = json.loads(image.text["slider_lightning"])
        assert image.text["command"] == desk.command(asked)
        assert difference(image, desk.show(asked).image) == 0
    assert (told["prompt"], told["seed"], told["scales"]) == ("a person", 3, [1.5, 0.0])
    assert told["sampler"]["start_timestep"] == 600


def test_knobs_have_room_beyond_the_useful_range_and_none_beyond_measured_effects(desk: Desk) -> None:
    knob = desk.knobs[0]
    raw, units = knob.range(False), knob.range(True)
    assert (raw.lowest, raw.highest, raw.useful) == (-3.0, 3.0, (-2.0, 2.0))
    assert (units.lowest, units.highest, units.useful) == (-1.0, 1.0, (-1.0, 1.0))
    assert knob.scale(0.5, True) == 1.0
    assert [knob.turned(value, True) for value in (1.0, -3.0)] == [0.5, -1.0]
    assert [knob.turned(value, False) for value in (0.5, -1.0)] == [1.0, -2.0]
    unknown = Knob.of("file", SliderMetadata(layers="full"))
    assert unknown.range(False).useful == (-2.0, 2.0)
    assert Knob("one-sided", (0.0, 1.0)).range(False).lowest == 0.0
    with pytest.raises(InputError, match=r"evaluation\.calibrate"):
        unknown.scale(1.0, True)
    assert desk.unit == "standard deviation (a probe)"
    assert shared_unit([knob, unknown]) is None
    assert knob.calibration is not None
    assert shared_unit([knob, replace(knob, calibration=replace(knob.calibration, unit="CLIP"))]) is None


def test_a_slider_that_never_acts_is_told(desk: Desk) -> None:
    assert "No slider acts" in desk.show(picture(desk, 1, 1, start_timestep=0, num_inference_steps=1)).note


@pytest.mark.parametrize("seed", [None, -1, 0.5, 2**40])
def test_seeds_that_are_none_are_refused(desk: Desk, seed: float | None) -> None:
    with pytest.raises(InputError, match="seed"):
        desk.picture([0, 0], False, "a person", seed, desk.sampler)


@pytest.mark.parametrize(
    "values", [{"sliders": ()}, {"preview_steps": 0}, {"port": 0}, {"port": 70000}, {"auth": "me"}, {"auth": ":x"}]
)
def test_settings_out_of_range_are_refused(values: dict) -> None:
    with pytest.raises(InputError, match="Expected"):
        BoardConfig(**{"sliders": ("a",), **values})


def test_the_board_is_for_this_machine_alone_unless_there_is_a_password() -> None:
    config = composed("board", "sliders=[a]")
    assert (config["host"], config["port"]) == ("127.0.0.1", 7860)
    assert (BoardConfig(("a",)).host, BoardConfig(("a",)).port) == ("127.0.0.1", 7860)
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost")] == [True] * 3
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "192.168.0.2", "example.org", "")] == [False] * 5
    refuse_if_open(BoardConfig(("a",)))
    refuse_if_open(BoardConfig(("a",), host="0.0.0.0", auth="me:secret"))
    with pytest.raises(InputError, match="auth=USER:PASSWORD for host=0"):
        refuse_if_open(BoardConfig(("a",), host="0.0.0.0"))


def test_without_gradio_it_is_said_how_to_get_it(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "slider_lightning.board.page", raising=False)
    with pytest.raises(InputError, match=r"pip install slider_lightning\[board\]"), served(desk):
        pass


def test_the_least_recent_entry_goes_first() -> None:
    recent: Recent[str, int] = Recent(2)
    recent.put("a", 1)
    recent.put("b", 2)
    assert recent.get("a") == 1
    recent.put("c", 3)
    assert ("a" in recent, "b" in recent, "c" in recent, len(recent)) == (True, False, True, 2)
