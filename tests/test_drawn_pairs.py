"""Drawn image pairs: what differs in them, where their files lie, and the two ends that table 2 reads."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from experiments.paper.pairs import pair_ends
from experiments.tiny_faces.faces import class_index, sample_faces
from experiments.tiny_faces.pairs import DrawnPairs, sample_well_drawn
from experiments.tiny_faces.render import PARSE_CLASSES, render
from slider_lightning.backbone import images_to_pil, pil_to_images
from slider_lightning.config import build
from slider_lightning.data.pairs import Twins, check_twins
from slider_lightning.errors import InputError
from tests.conftest import composed

LEVELS = {-1: 0.2, 1: 0.9}


def read(twins: Twins) -> Tensor:
    return pil_to_images([Image.open(path) for _, path in twins.images])


def grown(mask: Tensor, pixels: int) -> Tensor:
    return torch.nn.functional.max_pool2d(mask.float()[:, None], 2 * pixels + 1, 1, pixels)[:, 0] > 0


@pytest.mark.parametrize(("attribute", "part", "margin"), [("eye_size", "eye", 4), ("brow_shape", "brow", 3)])
def test_twins_differ_only_where_the_attribute_shows(tmp_path: Path, attribute: str, part: str, margin: int) -> None:
    source = DrawnPairs(attribute, LEVELS, count=4)
    twins = source.twins(tmp_path)
    check_twins(twins)
    images = torch.stack([read(some) for some in twins])
    changed = (images[:, 0] != images[:, 1]).any(1)
    faces = sample_well_drawn(4, source.seed)
    drawings = [render(faces.with_values(**{attribute: value})) for value in LEVELS.values()]
    shown = torch.stack([drawing.labels == PARSE_CLASSES.index(part) for drawing in drawings]).any(0)
    assert not (changed & ~grown(shown, margin)).any()
    assert (changed & grown(shown, margin)).sum((-2, -1)).min() > 8, "something changes in every pair"


def test_levels_are_the_rendered_values_in_ascending_order(tmp_path: Path) -> None:
    source = DrawnPairs("eye_size", {1: 0.9, -0.5: 0.375, 0.5: 0.725, -1: 0.2}, count=3, seed=2)
    twins = source.twins(tmp_path)
    assert [scale for scale, _ in twins[0].images] == [-1, -0.5, 0.5, 1]
    for column, value in enumerate((0.2, 0.375, 0.725, 0.9)):
        expected = images_to_pil(render(sample_well_drawn(3, 2).with_values(eye_size=value)).images)
        found = [Image.open(some.images[column][1]) for some in twins]
        assert [np.array_equal(a, b) for a, b in zip(found, expected, strict=True)] == [True] * 3
    areas = render(sample_well_drawn(3, 2).with_values(eye_size=0.9)).eye_area
    assert (areas > render(sample_well_drawn(3, 2).with_values(eye_size=0.2)).eye_area).all()


def test_files_are_written_once_and_named_by_the_settings(tmp_path: Path) -> None:
    first = DrawnPairs("eye_size", LEVELS, count=2).twins(tmp_path)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    assert DrawnPairs("eye_size", {1.0: 0.9, -1.0: 0.2}, count=2).twins(tmp_path) == first, "the same in another order"
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")} == kept
    lost = first[0].images[0][1]
    content = lost.read_bytes()
    lost.unlink()
    DrawnPairs("eye_size", LEVELS, count=2).twins(tmp_path)
    assert lost.read_bytes() == content
    others = [
        DrawnPairs("brow_shape", LEVELS, count=2),
        DrawnPairs("eye_size", {-1: 0.2, 1: 0.8}, count=2),
        DrawnPairs("eye_size", {-2: 0.2, 1: 0.9}, count=2),
        DrawnPairs("eye_size", LEVELS, count=3),
        DrawnPairs("eye_size", LEVELS, count=2, seed=6),
    ]
    folders = {source.twins(tmp_path)[0].images[0][1].parents[1] for source in others}
    assert len(folders | {lost.parents[1]}) == 6


@pytest.mark.parametrize("count", [1, 2, 40])
def test_no_face_is_badly_drawn(count: int) -> None:
    for seed in range(20):
        faces = sample_well_drawn(count, seed)
        assert len(faces) == count
        assert (faces.values["quality"] == class_index("quality", "well drawn")).all()


def test_more_faces_are_drawn_where_too_few_of_the_first_are_good() -> None:
    bad = class_index("quality", "poorly drawn")
    seed = next(seed for seed in range(1000) if (sample_faces(2, seed).values["quality"] == bad).all())
    assert len(sample_well_drawn(1, seed)) == 1


@pytest.mark.parametrize(
    ("attribute", "levels", "count", "message"),
    [
        ("quality", LEVELS, 6, "background, eye_size, brow_shape, face_width, but got 'quality'"),
        ("glasses", LEVELS, 6, "different classes among none, glasses"),
        ("glasses", {-1: "none", 1: "none"}, 6, "different classes"),
        ("eye_size", {-1: "small", 1: 0.9}, 6, "different values"),
        ("eyes", LEVELS, 6, "but got 'eyes'"),
        ("eye_size", {1: 0.9}, 6, "two or more finite, ascending"),
        ("eye_size", {-1: 0.2, float("inf"): 0.9}, 6, "finite"),
        ("eye_size", {-1: 0.5, 1: 0.5}, 6, "different values"),
        ("eye_size", {-1: 0.2, 1: 1.1}, 6, r"\[0, 1\]"),
        ("eye_size", {-1: float("nan"), 1: 0.9}, 6, r"\[0, 1\]"),
        ("eye_size", LEVELS, 1, "pairs.count to be 2 or more"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    attribute: str, levels: Mapping[float, float], count: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        DrawnPairs(attribute, levels, count)


@pytest.mark.parametrize(
    ("choice", "attribute", "scales"),
    [
        ("tiny_faces", "eye_size", [-0.65, 0.65]),
        ("eye_size_levels", "eye_size", [-0.55, -0.275, 0.275, 0.55]),
        ("brow_shape", "brow_shape", [-0.65, 0.65]),
    ],
)
def test_shipped_pairs_are_built(tmp_path: Path, choice: str, attribute: str, scales: list[float]) -> None:
    source = build(composed("paper/table2", f"pairs={choice}", "out=x")["pairs"])
    assert isinstance(source, DrawnPairs)
    assert source.attribute == attribute
    twins = source.twins(tmp_path)
    check_twins(twins)
    assert len(twins) == 6
    assert [scale for scale, _ in twins[0].images] == scales


@pytest.mark.parametrize("choice", ["tiny_faces", "brow_shape"])
def test_levels_of_the_command_line_replace_the_default_ones(choice: str) -> None:
    given = (f"pairs={choice}", "pairs.levels={-1:0.2,2.5:0.9}", "pairs.count=4")
    attribute = "eye_size" if choice == "tiny_faces" else choice
    for config in (composed("paper/table2", *given, "out=x"), composed("train", "experiment=eye_size", *given)):
        assert build(config["pairs"]) == DrawnPairs(attribute, {-1: 0.2, 2.5: 0.9}, count=4)


def test_no_levels_are_the_default_ones(tmp_path: Path) -> None:
    written = DrawnPairs("brow_shape", {0.65: 1, -0.65: 0}, count=2)
    assert DrawnPairs("brow_shape", count=2).twins(tmp_path) == written.twins(tmp_path), "the same files"


def test_the_ends_are_the_lowest_and_the_highest_images(tmp_path: Path) -> None:
    twins = DrawnPairs("eye_size", {-2: 0.1, -1: 0.3, 1: 0.9}, count=3).twins(tmp_path)
    ends = pair_ends(twins, tmp_path)
    assert ends.scales == (-2.0, 1.0)
    for folder, column in ((ends.low, 0), (ends.high, 2)):
        copies = sorted(folder.iterdir())
        assert [path.name for path in copies] == ["000.png", "001.png", "002.png"]
        for copy, some in zip(copies, twins, strict=True):
            assert np.array_equal(Image.open(copy), Image.open(some.images[column][1]))
    assert pair_ends(twins, tmp_path) == ends
    assert pair_ends(twins[:2], tmp_path).high != ends.high


def test_ends_take_any_picture_and_average_the_scales(tmp_path: Path) -> None:
    twins = []
    for number, scale in enumerate((1.0, 2.0)):
        paths = [tmp_path / f"{number}{side}.webp" for side in "ab"]
        for path, color in zip(paths, ((255, 0, 0, 0), (0, 0, 255, 255)), strict=True):
            Image.new("RGBA", (20 + number, 30), color).save(path, lossless=True)
        twins.append(Twins(str(number), ((-scale, paths[0]), (scale, paths[1]))))
    ends = pair_ends(twins, tmp_path)
    on_black = pair_ends(twins, tmp_path, "black")
    for found, colour in ((ends, (255, 255, 255)), (on_black, (0, 0, 0))):
        assert found.scales == (-1.5, 1.5)
        first = Image.open(found.low / "000.png")
        assert (first.mode, first.size, first.getpixel((0, 0))) == ("RGB", (20, 30), colour)


@pytest.mark.parametrize(
    ("attribute", "levels", "classes"),
    [
        ("glasses", None, ("none", "glasses")),
        ("gender", None, ("man", "woman")),
        ("curl", None, ("straight", "curly")),
        ("skin_tone", {-1: "pale", 1: "dark"}, ("pale", "dark")),
        ("hair_color", {-1: "black", 0.5: "blond", 1: "grey"}, ("black", "blond", "grey")),
        ("background", {-1: "green", 1: "pink"}, ("green", "pink")),
    ],
)
def test_a_class_is_drawn_as_the_shipped_probe_reads_it(
    tmp_path: Path, attribute: str, levels: Mapping[float, str] | None, classes: tuple[str, ...]
) -> None:
    probe = build(composed("train", "experiment=age", "run=x")["judges"]).classifier
    twins = DrawnPairs(attribute, levels, count=8).twins(tmp_path)
    images = torch.stack([read(some) for some in twins])
    names = next(some.classes for some in probe.schema if some.name == attribute)
    for column, wanted in enumerate(classes):
        found = probe(images[:, column])[attribute].argmax(-1)
        assert (found == names.index(wanted)).all(), wanted
