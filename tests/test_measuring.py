"""From a grid's images to measurements, by the shipped judges, on the smallest real SDXL."""

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from evaluation.gallery import Gallery
from evaluation.grids import GridSpec, PromptSet, SliderMethod
from evaluation.judges.panel import Judges
from evaluation.measurements import Measurements
from evaluation.measures import slider_measures
from evaluation.measuring import EditPrompts, Examiner
from evaluation.tables import slider_tables
from slider_lightning.adapters import AdapterConfig, Slider, SliderMetadata, save_slider
from slider_lightning.backbone import Backbone, SamplerConfig
from slider_lightning.config import build
from slider_lightning.errors import InputError
from tests.conftest import composed

TEXTS = EditPrompts("image of a person, very old", "image of a person, very young")
SPEC = GridSpec(PromptSet("tiny", ("a man", "a woman"), ("image of {}",)), seeds_per_prompt=2)


@pytest.fixture(scope="module")
def judges() -> Judges:
    panel: Judges = build(composed("train", "experiment=age")["judges"], "judges.")
    return panel


@pytest.fixture
def slider_file(backbone: Backbone, tmp_path: Path) -> Path:
    slider = Slider(backbone.unet, AdapterConfig(rank=1))
    for path in slider.layer_paths:
        torch.nn.init.constant_(slider.adapter(path).lora_up, 0.05)
    save_slider(tmp_path / "slider.safetensors", slider, SliderMetadata.of(slider.config))
    return tmp_path / "slider.safetensors"


@pytest.fixture
def gallery(backbone: Backbone, tmp_path: Path) -> Gallery:
    return Gallery(backbone, SPEC, SamplerConfig(num_inference_steps=2), tmp_path / "grids", batch_size=4)


def measured(gallery: Gallery, judges: Judges, slider_file: Path) -> Measurements:
    method = SliderMethod("concept_slider", (str(slider_file),))
    return gallery.measure(method, (-1.0, 0.0, 1.0), Examiner(judges, {}, "age", TEXTS, "smallest"))


def test_every_judge_reads_every_image(gallery: Gallery, judges: Judges, slider_file: Path) -> None:
    found = measured(gallery, judges, slider_file)
    assert found.rows == [(row.prompt, row.seed) for row in SPEC.rows]
    assert list(found.frame["id"][:3]) == ["000-001000--1", "000-001000-+0", "000-001000-+1"]
    assert found.header.judges["distance"] == "tiny_faces perceptual distance"
    images = gallery.grid(SliderMethod("concept_slider", (str(slider_file),)), (-1.0, 1.0)).images(1.0)
    base = gallery.base.images(0.0)
    assert torch.allclose(found.values("distance")[:, 2], judges.distance(base, images).double(), atol=1e-6)
    assert torch.equal(found.values("distance")[:, 1], torch.zeros(4, dtype=torch.double))
    scores = judges.clip.score(images, [TEXTS.positive]).double()
    assert torch.allclose(found.values("clip/positive")[:, 2], scores, atol=1e-4)
    gender = judges.classifier(images)["gender"].double()
    assert torch.allclose(found.sweep().readings["gender"][:, 2], gender, atol=1e-5)


def test_a_second_time_nothing_is_generated_or_judged(
    gallery: Gallery, judges: Judges, slider_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = measured(gallery, judges, slider_file)
    forwards = gallery.backbone.sample_forwards
    monkeypatch.setattr(Examiner, "examine", lambda *_: pytest.fail("judged again"))
    second = measured(gallery, judges, slider_file)
    assert gallery.backbone.sample_forwards == forwards
    assert second.header == first.header
    assert second.frame.equals(first.frame)


def test_other_texts_are_measured_anew(gallery: Gallery, judges: Judges, slider_file: Path) -> None:
    first = measured(gallery, judges, slider_file)
    examiner = Examiner(judges, {}, "smile", EditPrompts("a smile", "a frown"), "smallest")
    other = gallery.measure(SliderMethod("concept_slider", (str(slider_file),)), (-1.0, 1.0), examiner)
    assert not torch.allclose(first.values("clip/positive"), other.values("clip/positive"))
    assert torch.equal(first.values("distance"), other.values("distance"))


def test_figures_follow_from_measurements(gallery: Gallery, judges: Judges, slider_file: Path) -> None:
    found = measured(gallery, judges, slider_file)
    figures = slider_measures(found, "age", ["gender"])
    shift = found.change("attribute/age", 1.0).mean() / found.header.std["age"][0]
    assert figures["eval/attribute_shift/age/+1"].mean == pytest.approx(float(shift))
    assert figures["eval/distance/+1"].mean == pytest.approx(float(found.values("distance")[:, 2].mean()))
    assert figures["eval/interference"].n == 8
    assert "eval/selectivity" not in slider_measures(found, None, [])
    with pytest.raises(InputError, match="gender"):
        slider_measures(found, "age", ["age"])


def test_the_tables_of_a_terminal_name_every_figure(gallery: Gallery, judges: Judges, slider_file: Path) -> None:
    found = measured(gallery, judges, slider_file)
    figures = slider_measures(found, "age", ["gender"])
    console = Console(width=200, file=io.StringIO())
    console.print(slider_tables(figures, found.header.scales, "age"))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for name in ("age", "face_width", "interference/gender", "clip_score_shift/+1", "distance/-1", "no_eye_found/+1"):
        assert name in text
    low, high = figures["eval/spearman"].ci95
    assert f"{figures['eval/spearman'].mean:.3f} [{low:.3f}, {high:.3f}]".replace("-0.000", "0.000") in text
