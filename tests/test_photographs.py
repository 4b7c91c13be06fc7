"""The measurement of edited photographs: figures of known edits, its tables, its config."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from evaluation.attributes import Attribute
from evaluation.judges.panel import Judges
from evaluation.report import csv_text, markdown
from experiments.paper.claims import FAILS, HOLDS, UNDECIDED
from experiments.paper.photographs import true_captions
from experiments.paper.photographs_measures import Edits, Readings, squared_error_ratio
from experiments.paper.photographs_tables import Faces, Measured, drift_table, edit_table, strip_rows
from experiments.tiny_faces.pairs import sample_well_drawn
from experiments.tiny_faces.panel import load_judges
from experiments.tiny_faces.render import render
from slider_lightning.config import ROOT, build
from slider_lightning.data import Cost
from slider_lightning.generation import Img2ImgEdit, InversionEdit
from tests.conftest import composed

COUNT = 24


@pytest.fixture(scope="module")
def judges() -> Judges:
    return load_judges(ROOT / "assets" / "tiny_faces")


@pytest.fixture(scope="module")
def faces() -> Faces:
    """Drawn faces, their round trip a little brighter."""
    drawn = sample_well_drawn(COUNT, 3)
    images = render(drawn).images
    return Faces(images, (images + 0.05).clamp(0, 1), drawn.values)


def drawn_edits(faces: Faces, flipped: int = 0) -> Edits:
    """The same faces drawn young, as they are and old; of the first ones the other gender is drawn at the end."""
    drawn = sample_well_drawn(COUNT, 3)
    young, old = (render(drawn.with_values(age=age)).images for age in (0.1, 0.9))
    gender = drawn.values["gender"].clone()
    gender[:flipped] = 1 - gender[:flipped]
    other = replace(drawn, values={**drawn.values, "gender": gender, "age": torch.full_like(drawn.values["age"], 0.9)})
    old[:flipped] = render(other).images[:flipped]
    return Edits(torch.stack([young, faces.round_trip, old], dim=1), Cost(12.0, COUNT * 36))


def test_known_edits_are_read_as_they_were_drawn(faces: Faces, judges: Judges) -> None:
    found = Measured.of(drawn_edits(faces, flipped=6), faces, judges, "age", ("gender", "glasses"))
    std = float(judges.classifier.standard_deviations()["age"])
    assert found.figures["age"].mean == pytest.approx(0.8 / std, rel=0.1)
    assert found.figures["age, middle half"].n < found.figures["age"].n == COUNT
    assert found.figures["gender flips"].mean == pytest.approx(6 / COUNT, abs=1.5 / COUNT)
    assert found.figures["glasses flips"].mean <= 1 / COUNT
    for name in ("squared error at 0", "distance at 0"):
        assert found.figures[name].mean == pytest.approx(1, abs=1e-4)


def test_the_ratio_is_one_of_means(faces: Faces) -> None:
    worse = faces.images + 2 * (faces.round_trip - faces.images)
    assert squared_error_ratio(worse, faces.round_trip, faces.images).mean == pytest.approx(4, rel=1e-4)


class Told:
    """A judge that reads numbers written into the images."""

    name = "told"
    schema = (Attribute("age", "continuous"), Attribute("gender", "class", ("man", "woman")))

    def standard_deviations(self) -> dict[str, Tensor]:
        return {"age": torch.tensor([0.5]), "gender": torch.tensor([0.5, 0.5])}

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        age, woman = images[:, 0, 0, 0], images[:, 1, 0, 0]
        return {"age": age, "gender": torch.stack([1 - woman, woman], 1)}


def told(ages: list[list[float]], women: list[list[float]]) -> Readings:
    images = torch.zeros(len(ages), 3, 3, 1, 1)
    images[:, :, 0, 0, 0], images[:, :, 1, 0, 0] = torch.tensor(ages), torch.tensor(women)
    return Readings.of(Told(), images, {"age": torch.tensor([0.5, 0.25]), "gender": torch.tensor([0, 1])})


def test_shifts_flips_and_drift_in_closed_form() -> None:
    readings = told([[0.0, 0.5, 1.0], [0.25, 0.25, 0.5]], [[0.1, 0.9, 0.2], [0.4, 0.9, 0.8]])
    assert readings.shift("age").tolist() == [2.0, 0.5]
    assert readings.flips("gender").tolist() == [False, True]  # a flip at scale 0 alone is none of an end
    assert readings.drift("age").mean == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    assert readings.drift("gender").mean == pytest.approx(1 / 4)


def test_the_bar_holds_fails_or_stays_open(faces: Faces, judges: Judges) -> None:
    good = Measured.of(drawn_edits(faces), faces, judges, "age", ("gender",))

    def verdict(name: str, low: float, high: float) -> str:
        figure = replace(good.figures[name], ci95=(low, high))
        return replace(good, figures={**good.figures, name: figure}).verdict("age", "gender")

    assert good.verdict("age", "gender") == HOLDS
    assert verdict("squared error at 0", 1.3, 1.4) == verdict("age", 0.5, 0.9) == FAILS
    assert verdict("gender flips", 0.06, 0.1) == FAILS
    assert verdict("squared error at 0", 1.2, 1.3) == verdict("gender flips", 0.0, 0.1) == UNDECIDED


def test_tables_show_every_method_with_its_costs(faces: Faces, judges: Judges) -> None:
    edits = {("a person", "good"): drawn_edits(faces), ("a person", "bad"): drawn_edits(faces, flipped=12)}
    protected = ("gender", "glasses")
    measured = {key: Measured.of(each, faces, judges, "age", protected) for key, each in edits.items()}
    page = markdown(edit_table(measured, edits, judges, "age", protected, ("24 faces.",)))
    assert "| 36 | 0.50 | holds |" in page
    assert "does not hold" in page
    drift = csv_text(drift_table(measured, faces, judges, "age", "a person"))
    rows = [line.split(",")[2:4] for line in drift.splitlines()[1:]]
    assert ["gender", "good"] in rows
    assert "age" not in {name for name, _ in rows}
    images, names = strip_rows(faces, edits, "a person", 1)
    assert names == ["good", "bad"]
    assert torch.equal(images[0, 0], faces.images[1])
    assert torch.equal(images[1, 4], edits["a person", "bad"].images[1, 2])


def test_captions_say_all_but_the_age() -> None:
    drawn = sample_well_drawn(COUNT, 3)
    for caption, glasses in zip(true_captions(drawn), drawn.values["glasses"].tolist(), strict=True):
        assert caption.startswith("image of a ")
        assert not {"old", "young", "middle-aged"} & set(caption.replace(",", "").split())
        assert ("with glasses" if glasses else "without glasses") in caption


def test_the_methods_of_the_config_are_built() -> None:
    config = composed("paper/photographs", "out=outputs/test")
    methods = {name: build(node, f"methods.{name}.") for name, node in config["methods"].items()}
    assert isinstance(methods.pop("img2img"), Img2ImgEdit)
    assert all(isinstance(method, InversionEdit) for method in methods.values())
    assert (methods["ddim"].fixed_point_iterations, methods["ddim_fixed_point"].fixed_point_iterations) == (0, 3)
    assert Path(config["model"]["path"]).name == "pipeline"
