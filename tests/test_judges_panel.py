"""Panels of judges as conf/judges describes them: composed, checked, built, or refused in one sentence."""

from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from evaluation.judges.panel import Judges
from evaluation.judges.zero_shot import ZeroShotClassifier
from experiments.tiny_faces.faces import sample_faces
from experiments.tiny_faces.panel import load_judges
from experiments.tiny_faces.render import render
from slider_lightning.config import CONF, ROOT, build, check, plain_config, register_resolvers
from slider_lightning.errors import InputError

ROLES = ["clip", "distance", "classifier", "parser", "features"]


def composed_judges(name: str, *overrides: str) -> dict[str, Any]:
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = plain_config(compose(None, [f"+judges={name}", *overrides]))
    check(config)
    return config["judges"]


@pytest.fixture(scope="module")
def judges() -> Judges:
    return build(composed_judges("tiny_faces"), "judges.")


def test_every_panel_is_composed_and_checked() -> None:
    names = sorted(path.stem for path in (CONF / "judges").glob("*.yaml"))
    assert {"tiny_faces", "sdxl", "sdxl_fid"} <= set(names)
    for name in names:
        assert set(ROLES) <= set(composed_judges(name))


def test_the_embedded_panel_names_its_judges_and_never_calls_them_lpips(judges: Judges) -> None:
    assert {role: getattr(judges, role).name for role in ROLES} == {
        "clip": "tiny_faces CLIP",
        "distance": "tiny_faces perceptual distance",
        "classifier": "tiny_faces probe",
        "parser": "tiny_faces parser",
        "features": "tiny_faces CLIP features",
    }
    assert judges.distance_native is None
    assert judges.required_features is judges.features


def test_the_embedded_panel_is_the_one_that_the_build_loads(judges: Judges) -> None:
    images = render(sample_faces(4, seed=2), 64).images
    other = load_judges(ROOT / "assets/tiny_faces")
    for role in ROLES:
        assert getattr(judges, role).name == getattr(other, role).name
    assert torch.equal(judges.clip.score(images, ["a man"]), other.clip.score(images, ["a man"]))
    assert torch.equal(judges.distance(images, images.flip(0)), other.distance(images, images.flip(0)))
    assert torch.equal(judges.features(images), other.features(images))
    assert judges.features(images).shape == (4, 128)


def test_the_panel_of_sdxl_follows_the_protocol() -> None:
    config = composed_judges("sdxl")
    assert (config["clip"]["model"], config["clip"]["pretrained"]) == ("ViT-B-32-quickgelu", "openai")
    assert (config["distance"]["size"], config["distance_native"]["size"]) == (64, None)
    assert config["classifier"]["clip"] == config["clip"]
    assert set(config["classifier"]["attributes"]) >= {"gender", "race"}
    assert config["features"] is None
    with_fid = composed_judges("sdxl_fid", "judges.distance.weights=alexnet.pth")
    assert with_fid["features"]["_target_"] == "evaluation.judges.features.InceptionFeatures"
    assert with_fid["distance_native"]["weights"] == "alexnet.pth"


@pytest.mark.parametrize(
    ("role", "match"),
    [
        ("clip", "'openai' of open_clip's ViT-B-32-quickgelu"),
        ("distance", "torchvision's AlexNet"),
        ("classifier", "'openai' of open_clip's ViT-B-32-quickgelu"),
        ("parser", "jonathandinu/face-parsing|aditmohan96/detr-finetuned-face"),
    ],
)
def test_each_absent_judge_of_sdxl_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str, match: str
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(InputError, match=match) as error:
        build(composed_judges("sdxl")[role], f"judges.{role}.")
    assert "\n" not in str(error.value)


def test_a_panel_may_lack_what_is_not_measured(judges: Judges) -> None:
    partial = build({**composed_judges("tiny_faces"), "parser": None, "features": None}, "judges.")
    assert partial.parser is None
    with pytest.raises(InputError, match="FID and KID"):
        _ = partial.required_features
    with pytest.raises(InputError, match="judges\\.distence"):
        build({**composed_judges("tiny_faces"), "distence": None}, "judges.")


def test_a_panel_moves_to_a_device_as_one() -> None:
    judges = build(composed_judges("tiny_faces"), "judges.")
    choices = {"gender": {"man": "a man", "woman": "a woman"}}
    panel = Judges(judges.clip, judges.distance, ZeroShotClassifier(judges.clip, choices), judges.parser, None)
    assert panel.to("meta") is panel
    for judge in (panel.clip, panel.distance, panel.classifier, panel.parser):
        assert isinstance(judge, nn.Module)
        assert {tensor.device.type for tensor in judge.state_dict().values()} == {"meta"}
