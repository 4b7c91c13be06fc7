"""CLIP by open_clip's names: weights from a file or the hub's cache, or one sentence; and the zero-shot classifier."""

import json
import math
from pathlib import Path

import huggingface_hub.constants
import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from safetensors.torch import save_file
from torchvision.transforms.v2 import functional as vision

from evaluation.judges.clip import ClipJudge, load_clip, open_clip_judge
from evaluation.judges.zero_shot import ZeroShotClassifier
from experiments.tiny_faces.faces import class_index, sample_faces
from experiments.tiny_faces.render import render
from slider_lightning.config import ROOT
from slider_lightning.errors import InputError

SIZE = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}
TAG = {
    "hf_hub": "somebody/smallest/",
    "quick_gelu": True,
    "mean": (0.1, 0.2, 0.3),
    "std": (0.4, 0.5, 0.6),
    "interpolation": "bicubic",
    "resize_mode": "squash",
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes open_clip know a model "smallest", and writes random weights for it."""
    folder = tmp_path_factory.mktemp("open_clip")
    (folder / "smallest.json").write_text(json.dumps(SIZE))
    open_clip.add_model_config(folder / "smallest.json")
    torch.manual_seed(0)
    file = folder / "weights.safetensors"
    save_file(open_clip.create_model("smallest").state_dict(), file)
    return file


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def shipped() -> ClipJudge:
    return load_clip(ROOT / "assets/tiny_faces/clip", "tiny_faces CLIP")


def cache_snapshot(cache: Path) -> Path:
    """An empty snapshot of somebody/smallest in the hub's cache."""
    repository = cache / "models--somebody--smallest"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    return snapshot


def images(size: int = 32) -> torch.Tensor:
    return torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_weights_from_a_file_score_as_open_clip_itself(weights: Path) -> None:
    judge = open_clip_judge("smallest", str(weights), "small CLIP")
    assert judge.name == "small CLIP"
    model, _, preprocess = open_clip.create_model_and_transforms("smallest", pretrained=str(weights))
    pictures = torch.stack([preprocess(vision.to_pil_image(image)) for image in images()])
    texts = ["a dog", "a photo of a cat"]
    with torch.no_grad():
        image_embeds = model.eval().encode_image(pictures)
        text_embeds = model.encode_text(open_clip.get_tokenizer("smallest")(texts))
    expected = 100 * torch.nn.functional.cosine_similarity(image_embeds, text_embeds[:1])
    eight_bit = (255 * images()).byte().float() / 255
    assert torch.allclose(judge.score(eight_bit, texts[:1]), expected, atol=1e-3)
    assert not judge.training
    assert not any(parameter.requires_grad for parameter in judge.parameters())


def test_images_are_resized_as_the_model_asks(weights: Path) -> None:
    judge = open_clip_judge("smallest", str(weights), "small CLIP")
    assert judge.interpolation == "bicubic"
    _, _, preprocess = open_clip.create_model_and_transforms("smallest", pretrained=str(weights))
    wide = vision.resize(images(8), [100, 100]).clamp(0, 1)
    pictures = torch.stack([preprocess(vision.to_pil_image(image)) for image in wide])
    with torch.no_grad():
        expected = judge.model.encode_image(pictures, normalize=True)
    # Pillow rounds to 8 bits after resizing.
    assert torch.allclose(judge.embed_images(wide), expected, atol=5e-3)


def test_a_tag_is_read_from_the_hubs_cache_with_its_activation_and_statistics(
    weights: Path, offline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "smallest", {"seen": TAG})
    (cache_snapshot(offline) / "open_clip_model.safetensors").write_bytes(weights.read_bytes())
    judge = open_clip_judge("smallest", "seen", "small CLIP")
    assert any(isinstance(module, QuickGELU) for module in judge.model.modules())
    assert (judge.image_mean, judge.image_std) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    plain = open_clip_judge("smallest", str(weights), "small CLIP")
    assert not any(isinstance(module, QuickGELU) for module in plain.model.modules())


@pytest.mark.parametrize("cached", [False, True])
def test_absent_weights_are_one_sentence(
    weights: Path, offline: Path, monkeypatch: pytest.MonkeyPatch, cached: bool
) -> None:
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "smallest", {"seen": TAG})
    if cached:
        cache_snapshot(offline)
    with pytest.raises(InputError, match=r"Expected the weights 'seen' of open_clip's smallest.*give a file") as error:
        open_clip_judge("smallest", "seen", "small CLIP")
    assert "\n" not in str(error.value)


def test_the_protocols_weights_are_refused_alike_where_they_are_absent(offline: Path) -> None:
    with pytest.raises(InputError, match=r"'openai' of open_clip's ViT-B-32-quickgelu.*connect once"):
        open_clip_judge("ViT-B-32-quickgelu", "openai", "CLIP ViT-B/32 (openai)")


def test_wrong_models_tags_and_files_are_refused(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'ViT-B-33'"):
        open_clip_judge("ViT-B-33", "openai", "CLIP")
    with pytest.raises(InputError, match=r"openai, .*but got 'opennai'"):
        open_clip_judge("ViT-B-32", "opennai", "CLIP")
    (tmp_path / "other.safetensors").write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="do not load"):
        open_clip_judge("smallest", str(tmp_path / "other.safetensors"), "CLIP")
    save_file({"weight": torch.zeros(2)}, tmp_path / "another.safetensors")
    with pytest.raises(InputError, match="do not load"):
        open_clip_judge("smallest", str(tmp_path / "another.safetensors"), "CLIP")


def test_zero_shot_is_the_softmax_over_the_prompts_of_each_attribute(shipped: ClipJudge) -> None:
    prompts = {
        "gender": {"man": "a man", "woman": "a woman"},
        "hair": {"black": "black hair", "red": "red hair", "grey": "grey hair"},
    }
    judge = ZeroShotClassifier(shipped, prompts)
    assert judge.name == "zero-shot tiny_faces CLIP"
    assert [(a.name, a.kind, a.classes) for a in judge.schema] == [
        ("gender", "class", ("man", "woman")),
        ("hair", "class", ("black", "red", "grey")),
    ]
    pictures = images(64)
    readings = judge(pictures)
    scale = float(shipped.model.logit_scale.exp())
    for name, classes in prompts.items():
        scores = [shipped.score(pictures, [prompt]).double() / 100 for prompt in classes.values()]
        weights = [torch.exp(scale * score) for score in scores]
        expected = torch.stack(weights, 1) / sum(weights)[:, None]
        assert torch.allclose(readings[name].double(), expected, atol=1e-5)
    std = judge.standard_deviations()
    assert torch.allclose(std["gender"], torch.full((2,), 0.5))
    assert torch.allclose(std["hair"], torch.full((3,), math.sqrt(1 / 3 * 2 / 3)))


def test_zero_shot_knows_what_its_clip_learned(shipped: ClipJudge) -> None:
    faces = sample_faces(128, seed=11, held_out=True)
    pictures = render(faces, 64).images
    judge = ZeroShotClassifier(shipped, {"gender": {"man": "a man", "woman": "a woman"}})
    woman = faces.values["gender"] == class_index("gender", "woman")
    assert float(((judge(pictures)["gender"][:, 1] > 0.5) == woman).float().mean()) >= 0.9


def test_zero_shot_refuses_what_is_no_choice(shipped: ClipJudge) -> None:
    with pytest.raises(InputError, match="two different classes"):
        ZeroShotClassifier(shipped, {"gender": {"man": "a man"}})
    with pytest.raises(InputError, match="got none"):
        ZeroShotClassifier(shipped, {})
    broken = images(64)
    broken[1, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"\[1\]"):
        ZeroShotClassifier(shipped, {"gender": {"man": "a man", "woman": "a woman"}})(broken)
