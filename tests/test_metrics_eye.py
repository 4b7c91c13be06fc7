"""Eye size: the face parser, detection and crop, and the change of eye area against the renderer's truth."""

import doctest
import math
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from transformers import (
    DetrConfig,
    DetrForObjectDetection,
    DetrImageProcessor,
    PreTrainedModel,
    ResNetConfig,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    YolosConfig,
    YolosForObjectDetection,
    YolosImageProcessor,
)

from evaluation.judges import faces as faces_module
from evaluation.judges.faces import FaceDetector, crop, square_box
from evaluation.judges.parser import FaceParser
from evaluation.metrics import eye_size
from evaluation.metrics.eye_size import EyeSizeChange, eye_area_change, relative_eye_area
from experiments.tiny_faces.faces import Faces, sample_faces
from experiments.tiny_faces.render import Rendering, render
from slider_lightning.assets import write_hashes
from slider_lightning.config import ROOT
from slider_lightning.errors import InputError

PARSER = ROOT / "assets" / "tiny_faces" / "parser"
LABELS = {"id2label": {0: "dog", 1: "Face"}, "label2id": {"dog": 0, "Face": 1}}
SIDE = {"shortest_edge": 64, "longest_edge": 64}


@pytest.fixture(scope="module")
def parser() -> FaceParser:
    return FaceParser(PARSER)


def yolos() -> tuple[PreTrainedModel, YolosImageProcessor]:
    config = YolosConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=[64, 64],
        num_detection_tokens=3,
        **LABELS,
    )
    return YolosForObjectDetection(config), YolosImageProcessor(size=SIDE)


def detr() -> tuple[PreTrainedModel, DetrImageProcessor]:
    backbone = ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 4, 4, 8], depths=[1] * 4, layer_type="basic", out_features=["stage4"]
    )
    config = DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=3,
        **LABELS,
    )
    return DetrForObjectDetection(config), DetrImageProcessor(size=SIDE)


def detector_folder(
    folder: Path,
    box: list[float],
    face_class: int,
    build: Callable[[], tuple[PreTrainedModel, YolosImageProcessor | DetrImageProcessor]] = yolos,
) -> Path:
    """A detector whose last layers are set to see one box (centre x, y, width, height, as shares) in every image."""
    model, processor = build()
    head = model.bbox_predictor.layers[-1]
    classifier = model.class_labels_classifier
    classifier = classifier.layers[-1] if hasattr(classifier, "layers") else classifier
    for layer in (head, classifier):
        torch.nn.init.zeros_(layer.weight)
    head.bias.data = torch.logit(torch.tensor(box))
    classifier.bias.data = torch.full((3,), -10.0)
    classifier.bias.data[face_class] = 10.0
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    write_hashes(folder)
    return folder


def sized(faces: Faces, size: float) -> Rendering:
    """The same faces, all with eyes of one size."""
    return render(faces.with_values(eye_size=size))


@pytest.mark.parametrize("module", [eye_size, faces_module])
def test_examples_in_docstrings_hold(module: object) -> None:
    assert doctest.testmod(module).failed == 0  # type: ignore[arg-type]


@pytest.mark.parametrize(("seed", "before", "after"), [(3, 0.2, 0.8), (4, 0.8, 0.2), (5, 0.5, 0.6)])
def test_change_of_rendered_eyes_is_within_5_percent_of_the_truth(
    parser: FaceParser, seed: int, before: float, after: float
) -> None:
    faces = sample_faces(64, seed)
    original, edited = sized(faces, before), sized(faces, after)
    truth = eye_area_change(edited.eye_area, original.eye_area)
    measured = eye_area_change(parser.eye_area(edited.images), parser.eye_area(original.images))
    assert measured.change.mean == pytest.approx(truth.change.mean, rel=0.05)
    assert (measured.not_found, measured.n) == (0, 64)


def test_change_is_a_ratio_of_means_not_a_mean_of_ratios() -> None:
    edited, original = torch.tensor([3.0, 6.0, 40.0]), torch.tensor([1.0, 4.0, 50.0])
    assert relative_eye_area(edited, original).tolist() == pytest.approx([2.0, 0.5, -0.2])
    result = eye_area_change(edited, original)
    assert result.change.mean == pytest.approx(49 / 55 - 1)


def test_pairs_without_eyes_are_counted_and_never_enter_the_change() -> None:
    nan = math.nan
    edited, original = torch.tensor([3.0, nan, 6.0, 5.0, nan]), torch.tensor([2.0, 1.0, 4.0, nan, nan])
    result = eye_area_change(edited, original)
    assert (result.change.mean, result.change.n, result.not_found, result.n) == (0.5, 2, 3, 5)
    with pytest.raises(InputError, match="found them in 1 of 4"):
        eye_area_change(edited[1:], original[1:])


def test_areas_must_be_areas() -> None:
    with pytest.raises(ValueError, match=r"\[1\]"):
        relative_eye_area(torch.tensor([1.0, -1.0]), torch.tensor([1.0, 1.0]))
    with pytest.raises(ValueError, match=r"\[0\]"):
        relative_eye_area(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="paired"):
        relative_eye_area(torch.ones(2), torch.ones(3))


def test_an_eye_is_found_where_pixels_are_most_probably_eye(parser: FaceParser) -> None:
    images = render(sample_faces(4, 0)).images
    images[2] = torch.tensor([0.3, 0.5, 0.9])[:, None, None]
    assert parser.eye_area(images).isnan().tolist() == [False, False, True, False]
    pixels = torch.isin(parser.probabilities(images).argmax(1), torch.tensor(parser.eye_classes)).sum((1, 2))
    picky = FaceParser(PARSER, min_eye_pixels=int(pixels.sort().values[1]))
    assert picky.eye_area(images).isfinite().sum() == 3
    pickier = FaceParser(PARSER, min_eye_pixels=int(pixels.max()))
    assert pickier.eye_area(images).isfinite().tolist() == (pixels == pixels.max()).tolist()
    assert bool(FaceParser(PARSER, min_eye_pixels=0).eye_area(images).isfinite().all())


@pytest.mark.parametrize("build", [yolos, detr])
def test_detected_box_is_the_square_around_the_face_with_a_margin(
    tmp_path: Path, build: Callable[[], tuple[PreTrainedModel, YolosImageProcessor | DetrImageProcessor]]
) -> None:
    folder = detector_folder(tmp_path / "detector", [0.5, 0.4, 0.2, 0.3], 1, build)
    images = torch.rand(9, 3, 120, 200, generator=torch.Generator().manual_seed(0))
    boxes = FaceDetector(folder, margin=0.25)(images)
    side, x, y = round(0.2 * 200 * 1.5), 0.5 * 200, 0.4 * 120
    expected = [x - side / 2, y - side / 2, x + side / 2, y + side / 2]
    assert boxes.tolist() == [expected] * 9
    assert FaceDetector(folder, labels=("dog",))(images).isnan().all()
    assert torch.equal(FaceDetector(folder, labels=())(images), boxes), "no label means all"
    with pytest.raises(InputError, match="cat"):
        FaceDetector(folder, labels=("cat",))
    with pytest.raises(InputError, match="margin"):
        FaceDetector(folder, margin=-1)


def test_the_largest_face_above_the_threshold_is_taken(tmp_path: Path) -> None:
    detector = FaceDetector(detector_folder(tmp_path / "detector", [0.5, 0.5, 0.5, 0.5], 1), margin=0.0)
    boxes = torch.tensor([[0.0, 0.0, 20.0, 20.0], [30.0, 30.0, 60.0, 60.0], [0.0, 0.0, 90.0, 90.0]])
    assert detector._crop_box(boxes, torch.tensor([1, 1, 0]), (100, 100)).tolist() == [30, 30, 60, 60]


def test_boxes_stay_inside_the_image_and_square() -> None:
    corner = square_box(torch.tensor([0.0, 0.0, 20.0, 10.0]), 0.5, (100, 80))
    assert corner.tolist() == [0, 0, 40, 40]
    far = square_box(torch.tensor([70.0, 90.0, 80.0, 100.0]), 0.5, (100, 80))
    assert far.tolist() == [60, 80, 80, 100]
    assert square_box(torch.tensor([0.0, 0.0, 80.0, 100.0]), 0.5, (100, 80)).tolist() == [0, 10, 80, 90]


def test_a_crop_at_its_own_size_is_the_piece_itself() -> None:
    images = torch.rand(2, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[3.0, 2.0, 11.0, 10.0], [0.0, 5.0, 8.0, 13.0]])
    pieces = crop(images, boxes, (8, 8))
    assert torch.allclose(pieces[0], images[0, :, 2:10, 3:11])
    assert torch.allclose(pieces[1], images[1, :, 5:13, 0:8])


@pytest.fixture
def in_a_corner(tmp_path: Path) -> tuple[FaceParser, Callable[[torch.Tensor], torch.Tensor]]:
    """A parser whose detector sees the lower left quarter, and the painting of faces into it, twice as large."""
    folder = detector_folder(tmp_path / "detector", [0.25, 0.75, 0.499, 0.499], 1)
    parser = FaceParser(PARSER, detector=FaceDetector(folder, margin=0.0))

    def paint(faces: torch.Tensor) -> torch.Tensor:
        images = torch.full((len(faces), 3, 256, 256), 0.4)
        images[:, :, 128:, :128] = torch.nn.functional.interpolate(faces, scale_factor=2, mode="bilinear")
        return images

    return parser, paint


def test_area_of_a_cropped_face_is_in_pixels_of_the_whole_image(
    parser: FaceParser, in_a_corner: tuple[FaceParser, Callable[[torch.Tensor], torch.Tensor]]
) -> None:
    detecting, paint = in_a_corner
    faces = render(sample_faces(16, 1))
    images = paint(faces.images)
    assert detecting.face_boxes(images).tolist() == [[0, 128, 128, 256]] * 16
    assert torch.allclose(detecting.eye_area(images), 4 * parser.eye_area(faces.images), rtol=0.1)
    assert detecting.eye_area(images).mean() == pytest.approx(float(4 * faces.eye_area.mean()), rel=0.05)
    assert parser.face_boxes(images) is None


def test_the_metric_reads_both_images_at_the_originals_face(
    in_a_corner: tuple[FaceParser, Callable[[torch.Tensor], torch.Tensor]],
) -> None:
    parser, paint = in_a_corner
    faces = sample_faces(32, 2)
    before, after = sized(faces, 0.3), sized(faces, 0.7)
    original, edited = paint(before.images), paint(after.images)
    edited[5] = 0.4
    metric = EyeSizeChange(parser)
    for rows in torch.arange(32).split(12):
        metric.update(edited[rows], original[rows])
    kept = torch.arange(32) != 5
    boxes = parser.face_boxes(original)
    expected = eye_area_change(parser.eye_area(edited, boxes), parser.eye_area(original, boxes))
    assert float(metric.compute()) == pytest.approx(expected.change.mean, abs=1e-6)
    assert int(metric.not_found) == expected.not_found == 1
    truth = float(after.eye_area[kept].mean() / before.eye_area[kept].mean()) - 1
    assert float(metric.compute()) == pytest.approx(truth, rel=0.05)
    with pytest.raises(ValueError, match="paired"):
        metric.update(edited[:3], original)


def test_images_without_a_face_or_without_eyes_have_no_area(tmp_path: Path, parser: FaceParser) -> None:
    folder = detector_folder(tmp_path / "detector", [0.5, 0.5, 0.9, 0.9], 0)
    images = render(sample_faces(3, 1)).images
    blind = FaceParser(PARSER, detector=FaceDetector(folder))
    assert blind.face_boxes(images).isnan().all()
    assert blind.eye_area(images).isnan().all()
    boxes = torch.tensor([[0.0, 0.0, 64.0, 64.0], [math.nan] * 4, [0.0, 0.0, 64.0, 64.0]])
    areas = parser.eye_area(images, boxes)
    assert areas.isnan().tolist() == [False, True, False]
    assert torch.allclose(areas[[0, 2]], parser.eye_area(images)[[0, 2]], rtol=1e-4)
    metric = EyeSizeChange(blind)
    metric.update(images, images)
    with pytest.raises(InputError, match="none in 3"):
        metric.compute()


CELEBA_LABELS = ("background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow")


def segformer(folder: Path) -> Path:
    """A face parser of the kind that reads photographs, at its smallest and with random weights."""
    config = SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 8],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 1],
        mlp_ratios=[1, 1],
        decoder_hidden_size=8,
        id2label=dict(enumerate(CELEBA_LABELS)),
        label2id={label: index for index, label in enumerate(CELEBA_LABELS)},
    )
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    SegformerImageProcessor(size={"height": 48, "width": 48}).save_pretrained(folder)
    write_hashes(folder)
    return folder


def test_any_segmentation_model_sums_its_eyes_over_the_crop(tmp_path: Path) -> None:
    parser = FaceParser(segformer(tmp_path / "segformer"), min_eye_pixels=0)
    assert [CELEBA_LABELS[index] for index in parser.eye_classes] == ["l_eye", "r_eye"]
    images = torch.rand(2, 3, 96, 120, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[10.0, 20.0, 58.0, 68.0], [72.0, 0.0, 120.0, 48.0]])
    pieces = torch.stack([images[0, :, 20:68, 10:58], images[1, :, :48, 72:]])
    pixels = (pieces - torch.tensor(parser.image_mean)[:, None, None]) / torch.tensor(parser.image_std)[:, None, None]
    logits = torch.nn.functional.interpolate(parser.model(pixels).logits, size=(48, 48), mode="bilinear")
    expected = logits.softmax(1)[:, 4:6].sum((1, 2, 3))
    assert torch.allclose(parser.eye_area(images, boxes), expected, rtol=1e-4)
    assert parser.eye_area(images).shape == (2,)


def test_a_hub_name_is_served_from_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    model = tmp_path / "models--someone--face-parsing"
    segformer(model / "snapshots" / "0123abc")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0123abc")
    assert FaceParser("someone/face-parsing").name == "someone/face-parsing"


def test_absent_weights_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"face parser at someone/face-parsing, .*; fetch its weights") as error:
        FaceParser("someone/face-parsing")
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="face detector at someone/detector"):
        FaceDetector("someone/detector")
    with pytest.raises(InputError, match="nowhere"):
        FaceParser(tmp_path / "nowhere")
    with pytest.raises(InputError, match="face parser"):
        FaceParser(detector_folder(tmp_path / "detector", [0.5, 0.5, 0.9, 0.9], 1))


def test_judges_say_who_they_are(parser: FaceParser, tmp_path: Path) -> None:
    detector = FaceDetector(detector_folder(tmp_path / "detector", [0.5, 0.5, 0.9, 0.9], 1))
    assert parser.name == "parser"
    assert FaceParser(PARSER, detector=detector).name == "parser on the face found by detector"
    assert FaceParser(PARSER, name="tiny_faces face parser").name == "tiny_faces face parser"
    assert not any(p.requires_grad for p in FaceParser(PARSER, detector=detector).parameters())
