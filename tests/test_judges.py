"""The judges: loaders on small real models, and their measures against independent computations."""

from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from evaluation.attributes import Attribute, schema_from_json, schema_labels, schema_slices, schema_to_json
from evaluation.judges.clip import load_clip
from evaluation.judges.panel import Judges
from evaluation.judges.parser import FaceParser
from evaluation.judges.perceptual import PerceptualDistance, load_perceptual
from evaluation.judges.preprocess import normalize
from evaluation.judges.probe import load_probe, set_probe_config
from experiments.tiny_faces.faces import SCHEMA
from experiments.tiny_faces.judges.clip import ClipSettings, train_clip
from experiments.tiny_faces.judges.parser import ParserSettings, train_parser
from experiments.tiny_faces.judges.perceptual import PerceptualSettings, train_perceptual
from experiments.tiny_faces.judges.pool import Pool, rendered_pool
from experiments.tiny_faces.judges.probe import ProbeSettings, train_probe
from experiments.tiny_faces.panel import load_judges
from experiments.tiny_faces.pipeline import END, build_tokenizer
from slider_lightning.assets import write_hashes
from slider_lightning.errors import InputError

SIZES = {"steps": 1, "batch_size": 4, "precision": "32-true"}
LOADERS = {
    "probe": partial(load_probe, name="probe"),
    "parser": FaceParser,
    "clip": partial(load_clip, name="CLIP"),
    "perceptual": load_perceptual,
}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return rendered_pool(tmp_path_factory.mktemp("pool") / "pool.safetensors", 12, seed=3)


@pytest.fixture(scope="module")
def folder(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All four judges at their smallest, after one training step each."""
    out, work = tmp_path_factory.mktemp("judges"), tmp_path_factory.mktemp("work")
    probe = replace(ProbeSettings(), **SIZES, widths=(8, 8, 8, 8), depths=(1, 1, 1, 1), stem=8)
    parser = replace(ParserSettings(), **SIZES, widths=(8, 8), depths=(1, 1), decoder_width=8)
    clip = replace(ClipSettings(), **SIZES, embed_dim=16, vision_width=8, text_width=32, text_layers=1)
    perceptual = replace(PerceptualSettings(), **SIZES, widths=(8, 8))
    train_probe(probe, pool, SCHEMA, out / "probe", work / "probe")
    train_parser(parser, pool, out / "parser", work / "parser")
    train_clip(clip, pool, build_tokenizer(END), out / "clip", work / "clip")
    train_perceptual(perceptual, pool, SCHEMA, out / "perceptual", work / "perceptual")
    return out


@pytest.fixture(scope="module")
def judges(folder: Path) -> Judges:
    return load_judges(folder)


@pytest.fixture(scope="module")
def images(pool: Pool) -> torch.Tensor:
    return pool.images.float() / 255


def test_schema_names_every_output_once_and_survives_json() -> None:
    schema = (
        Attribute("age", "continuous"),
        Attribute("hair", "class", ("black", "red")),
        Attribute("smile", "continuous"),
    )
    assert schema_labels(schema) == ("age", "hair=black", "hair=red", "smile")
    assert schema_slices(schema) == {"age": slice(0, 1), "hair": slice(1, 3), "smile": slice(3, 4)}
    assert schema_from_json(schema_to_json(schema)) == schema
    with pytest.raises(InputError, match="two different classes"):
        Attribute("gender", "class", ("man",))
    with pytest.raises(InputError, match="kind"):
        Attribute("gender", "binary")  # type: ignore[arg-type]


def test_probe_reads_every_attribute_in_the_worlds_units(judges: Judges, images: torch.Tensor, pool: Pool) -> None:
    readings = judges.classifier(images)
    assert set(readings) == {a.name for a in SCHEMA}
    for attribute in SCHEMA:
        values = readings[attribute.name]
        if attribute.kind == "continuous":
            assert values.shape == (12,)
        else:
            assert values.shape == (12, len(attribute.classes))
            assert torch.allclose(values.sum(-1), torch.ones(12), atol=1e-5)
    std = judges.classifier.standard_deviations()
    assert float(std["age"]) == pytest.approx(float(pool.faces.values["age"].std()), abs=1e-5)
    women = (pool.faces.values["gender"] == 1).float()
    assert float(std["gender"][1]) == pytest.approx(float(women.std()), abs=1e-5)


def test_probe_undoes_standard_units(tmp_path: Path, images: torch.Tensor) -> None:
    schema = (Attribute("age", "continuous"), Attribute("hair", "class", ("black", "red", "grey")))
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic", num_labels=4)
    model = ResNetForImageClassification(config)
    set_probe_config(model.config, schema, torch.tensor([40.0, 0.2, 0.3, 0.5]), torch.tensor([10.0, 0.4, 0.46, 0.5]))
    torch.nn.init.zeros_(model.classifier[1].weight)
    model.classifier[1].bias.data = torch.tensor([1.5, 0.0, 0.0, 100.0])
    model.save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    write_hashes(tmp_path)
    readings = load_probe(tmp_path, "probe")(images)
    assert torch.allclose(readings["age"], torch.full((12,), 40.0 + 1.5 * 10.0))
    assert readings["hair"].argmax(-1).tolist() == [2] * 12


def test_judges_do_not_depend_on_how_images_are_batched(judges: Judges, images: torch.Tensor) -> None:
    together = judges.classifier(images.repeat(8, 1, 1, 1))["age"]
    assert torch.allclose(together[:12], judges.classifier(images)["age"], atol=1e-5)
    assert together.shape == (96,)


def test_eye_area_of_a_constructed_case(judges: Judges, images: torch.Tensor) -> None:
    """Logits that give the eye 0.75 on a quarter of the image and nothing elsewhere."""
    parser = deepcopy(judges.parser)
    assert [parser.model.config.id2label[index] for index in parser.eye_classes] == ["eye"]

    class Fixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.anchor = torch.nn.Parameter(torch.zeros(1))

        def forward(self, pixels: torch.Tensor) -> object:
            logits = torch.full((len(pixels), 2, 64, 64), 0.0)
            logits[:, 0] = 40.0
            logits[:, 1] = 0.0
            logits[:, 0, :32, :32] = 0.0
            logits[:, 1, :32, :32] = torch.log(torch.tensor(3.0))
            return type("Output", (), {"logits": logits})()

    parser.model, parser.eye_classes = Fixed(), [1]
    assert torch.allclose(parser.eye_area(images), torch.full((12,), 0.75 * 32 * 32))


def test_eye_area_is_the_sum_of_the_eyes_probability(judges: Judges, images: torch.Tensor) -> None:
    parser = deepcopy(judges.parser)
    parser.min_eye_pixels = 0  # after one training step no pixel is an eye's yet
    probabilities = parser.probabilities(images)
    assert probabilities.shape[-2:] == images.shape[-2:]
    assert torch.allclose(probabilities.sum(1), torch.ones(12, 64, 64), atol=1e-5)
    area = probabilities[:, parser.eye_classes].sum((1, 2, 3))
    assert torch.allclose(parser.eye_area(images), area, rtol=1e-5)


def test_clip_score_is_100_times_the_cosine_of_open_clip_itself(
    folder: Path, judges: Judges, images: torch.Tensor
) -> None:
    texts = ["a woman, very old", "portrait of a person, with glasses"]
    source = f"local-dir:{folder / 'clip'}"
    model, _, preprocess = open_clip.create_model_and_transforms(source)
    tokens = open_clip.get_tokenizer(source)(texts)
    pictures = [torch.nn.functional.interpolate(image[None], 64)[0] for image in images[:2]]
    with torch.no_grad():
        image_embeds = model.eval().encode_image(torch.stack([preprocess.transforms[-1](p) for p in pictures]))
        text_embeds = model.encode_text(tokens)
    expected = 100 * torch.nn.functional.cosine_similarity(image_embeds, text_embeds)
    assert torch.allclose(judges.clip.score(images[:2], texts), expected, atol=1e-3)
    broadcast = judges.clip.score(images[:2], texts[:1])
    assert float(broadcast[0]) == pytest.approx(float(expected[0]), abs=1e-3)
    with pytest.raises(ValueError, match="12 texts"):
        judges.clip.score(images, texts)


def test_perceptual_distance_is_a_distance_and_follows_the_formula(judges: Judges, images: torch.Tensor) -> None:
    distance = judges.distance
    other = images.roll(1, 0)
    assert torch.equal(distance(images, images), torch.zeros(12))
    assert (distance(images, other) > 0).all()
    assert torch.allclose(distance(images, other), distance(other, images))
    expected = torch.zeros(12)
    first, second = images * 2 - 1, other * 2 - 1
    for stage, weight in zip(distance.trunk.stages, distance.weights, strict=True):
        first, second = stage(first), stage(second)
        for c in range(len(weight)):
            x = first[:, c] / first.norm(dim=1).clamp_min(1e-10)
            y = second[:, c] / second.norm(dim=1).clamp_min(1e-10)
            expected += max(float(weight[c]), 0.0) * (x - y).square().mean((1, 2))
    assert torch.allclose(distance(images, other), expected, rtol=1e-4)
    assert float(distance(images[:6], images[6:]).mean()) == pytest.approx(1.0, rel=5e-3), "calibrated on these pairs"


def test_perceptual_distance_ignores_negative_weights(images: torch.Tensor) -> None:
    distance = PerceptualDistance((4,), 64, "test")
    torch.nn.init.constant_(distance.weights[0], -1.0)
    assert torch.equal(distance(images, images.roll(1, 0)), torch.zeros(12))


def test_images_are_checked_and_named(judges: Judges, images: torch.Tensor) -> None:
    broken = images.clone()
    broken[4, 0, 0, 0] = float("nan")
    broken[7] += 1
    for judge in (judges.classifier, judges.parser.eye_area, judges.clip.embed_images):
        with pytest.raises(ValueError, match=r"\[4, 7\]"):
            judge(broken)
        with pytest.raises(ValueError, match=r"\(0, 3, 64, 64\)"):
            judge(images[:0])
    with pytest.raises(ValueError, match="equal shape"):
        judges.distance(images, images[:3])


def test_normalize_is_the_inverse_of_its_statistics() -> None:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    pixels = normalize(images, (8, 8), mean, std)
    back = pixels * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    assert torch.allclose(back, images, atol=1e-6)
    assert normalize(images, (4, 6), mean, std).shape == (2, 3, 4, 6)


@pytest.mark.parametrize("name", list(LOADERS))
def test_missing_and_damaged_judges_are_refused(folder: Path, tmp_path: Path, name: str) -> None:
    load = LOADERS[name]
    with pytest.raises(InputError, match="nowhere"):
        load(tmp_path / "nowhere")
    damaged = tmp_path / name
    damaged.mkdir()
    for file in (folder / name).iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    weights = next(damaged.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(InputError, match="safetensors"):
        load(damaged)


def test_a_model_without_eyes_or_attributes_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="attributes"):
        load_probe(folder / "parser", "probe")
    with pytest.raises(InputError, match="open_clip"):
        load_clip(folder / "perceptual", "CLIP")


def test_judges_are_frozen_fp32_and_stored_as_fp16(judges: Judges, folder: Path) -> None:
    for judge in (judges.classifier, judges.parser, judges.clip, judges.distance):
        assert not judge.training
        assert all(p.dtype == torch.float32 and not p.requires_grad for p in judge.parameters())
    for name in LOADERS:
        weights = load_file(next((folder / name).glob("*.safetensors")))
        assert {w.dtype for w in weights.values() if w.is_floating_point()} == {torch.float16}
