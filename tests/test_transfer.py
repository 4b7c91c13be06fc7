"""Transfer: what is planned and measured, and what the tables and the figure say of it."""

import io
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

from evaluation.attributes import Schema, schema_to_json
from evaluation.grids import GridRow, GridSpec
from evaluation.judges.panel import Judges
from evaluation.measurements import Measurements
from evaluation.measuring import EditPrompts, Examiner
from evaluation.report import Column, csv_text, markdown
from experiments.paper.claims import FAILS, HOLDS
from experiments.paper.stage import Stage
from experiments.paper.transfer import GeneratorMove, TransferPlan, measured_faces, read_plan
from experiments.paper.transfer_figure import transfer_figure
from experiments.paper.transfer_tables import (
    ALL,
    EYE_AREA,
    by_prompts,
    similarities,
    similarity_table,
    summary,
    target_effect,
    vector_table,
)
from experiments.paper.transfer_vectors import (
    effect_rows,
)
from experiments.tiny_faces.captions import VOCABULARY
from experiments.tiny_faces.panel import load_judges
from slider_lightning.config import CONF, ROOT, build
from slider_lightning.data.style_pairs import NamedChannels, StyleGanPairs
from slider_lightning.data.style_space import StyleSpace
from slider_lightning.errors import InputError
from tests.conftest import composed
from tests.planted_generator import BOTH, EYES, OPENED, SMILE, PlantedGenerator
from tests.report_measurements import SCHEMA, linear_slider

TEXTS = EditPrompts("a person", "a person")


@pytest.fixture(scope="module")
def judges() -> Judges:
    return load_judges(ROOT / "assets/tiny_faces")


@pytest.fixture(scope="module")
def space() -> StyleSpace:
    return StyleSpace(PlantedGenerator(), "planted")


def move_of(space: StyleSpace, channel: int, weight: float) -> GeneratorMove:
    pairs = StyleGanPairs(space, NamedChannels({0: {channel: weight}}), {-1.0: -2.0, 1.0: 2.0, 2.0: 3.0})
    return GeneratorMove(pairs, (-1.0, 1.0))


def examiner(judges: Judges) -> Examiner:
    return Examiner(judges, {}, "eyes", TEXTS, "planted")


@pytest.fixture(scope="module")
def gan(space: StyleSpace, judges: Judges) -> Measurements:
    return move_of(space, EYES, -1).measure(range(6), examiner(judges))


def as_slider(space: StyleSpace, judges: Judges, channel: int, weight: float) -> Measurements:
    """A slider that does to images of two nouns what a channel does to faces of other seeds."""
    move = move_of(space, channel, weight)
    nouns = ["a man"] * 4 + ["a woman"] * 4
    rows = [GridRow(f"image of {noun}", noun, seed) for seed, noun in enumerate(nouns, start=20)]

    def images(scale: float, some: slice) -> torch.Tensor:
        return move.render([row.seed for row in rows[some]], scale)

    return examiner(judges).examine("stylegan_slider", rows, (-1.0, 0.0, 1.0), images, {})


@pytest.fixture(scope="module")
def faithful(space: StyleSpace, judges: Judges) -> Measurements:
    return as_slider(space, judges, EYES, -0.5)


def test_a_slider_that_does_what_the_channel_does_correlates(gan: Measurements, faithful: Measurements) -> None:
    found = similarities(effect_rows(gan), effect_rows(faithful), "eye_size")
    assert next(iter(found)) == "Pearson, all"
    assert found["Pearson, all"].ci95[0] > 0.9
    assert target_effect(faithful, "eye_size").ci95[0] > 0
    assert target_effect(gan, "eye_size").mean > 1.3 * target_effect(faithful, "eye_size").mean
    table = similarity_table(gan, faithful, "eye_size")
    assert [row.name for row in table.rows] == [ALL, "a man", "a woman"]
    assert {row.cells[table.columns.index(Column("target rises"))].text for row in table.rows} == {HOLDS}
    assert Column("Pearson, all") in table.columns


@pytest.mark.parametrize(("channel", "weight", "rises"), [(EYES, 1, FAILS), (BOTH, -1, HOLDS)])
def test_one_that_does_something_else_is_told_apart(
    space: StyleSpace, judges: Judges, gan: Measurements, channel: int, weight: float, rises: str
) -> None:
    other = as_slider(space, judges, channel, weight)
    table = similarity_table(gan, other, "eye_size")
    assert table.rows[0].cells[1].text == rises
    found = similarities(effect_rows(gan), effect_rows(other), "eye_size")["Pearson, all"]
    assert found.mean < (-0.9 if rises == FAILS else 0.9)


def test_a_move_of_another_attribute_does_not_correlate(space: StyleSpace, judges: Judges, gan: Measurements) -> None:
    smile = as_slider(space, judges, SMILE, 1)
    assert abs(similarities(effect_rows(gan), effect_rows(smile), None)["Pearson, without the target"].mean) < 0.4


def test_the_table_of_vectors_holds_both_side_by_side(gan: Measurements, faithful: Measurements) -> None:
    table = vector_table(gan, faithful, "channel 0")
    assert [column.name for column in table.columns] == [
        "StyleGAN",
        "slider, all prompts",
        "slider, a man",
        "slider, a woman",
    ]
    names = [row.name for row in table.rows]
    assert names == [*effect_rows(gan).entries, EYE_AREA]
    row = next(row for row in table.rows if row.name == "eye_size")
    assert [cell.measure.n for cell in row.cells if cell.measure] == [6, 8, 4, 4]
    assert "channel 0" in markdown(table)
    assert "eye_size" in csv_text(table)


def test_without_a_target_only_likeness_is_told(gan: Measurements, faithful: Measurements) -> None:
    table = similarity_table(gan, faithful, None)
    names = ("Pearson", "Spearman", "correlates")
    assert [column.name for column in table.columns] == [f"{name}, without the target" for name in names]
    assert "do not read the target" in markdown(table)
    found = {
        name: similarities(effect_rows(gan), effect_rows(some), None) for name, some in by_prompts(faithful).items()
    }
    assert "transfer/Pearson, without the target/a man" in summary(found)


def test_the_figure_has_a_panel_per_noun_and_a_point_per_entry(gan: Measurements, faithful: Measurements) -> None:
    figure = transfer_figure(gan, faithful, "eye_size")
    panels = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title().split(",")[0] for axes in panels] == [ALL, "a man", "a woman"]
    assert {len(axes.containers) for axes in panels} == {len(effect_rows(gan).entries)}


def test_a_single_noun_is_not_told_twice() -> None:
    slider = linear_slider()
    one = Measurements(slider.header, slider.frame.assign(noun="a man"))
    assert list(by_prompts(one)) == [ALL]


def test_the_move_is_that_of_the_pairs(space: StyleSpace, gan: Measurements) -> None:
    move = move_of(space, EYES, -1)
    assert "layer 0 (-1) by -2 at scale -1, +2 at scale +1" in move.words
    channel, weight = move.channels[0]
    ws = space.latents([3], 0.7)
    assert torch.equal(move.render([3], 1.0), space.render(ws, {channel: 2 * weight}))
    assert torch.equal(move.render([3], 0), space.render(ws))
    assert move.strip([0, 1]).width > 0
    assert gan.header.settings["moved"] == move.words


@cache
def configs() -> tuple[dict[str, Any], dict[str, Any]]:
    """The command's config, and the pairs of the shipped experiment, whose generator lies nowhere."""
    training = composed("train", "experiment=stylegan_transfer", "pairs.generator.folder=nowhere")
    return composed("paper/transfer", "out=x"), training["pairs"]


def planned(target: str | None = "eye_size", schema: Schema = SCHEMA, **changes: Any) -> TransferPlan:
    config, pairs = configs()
    return read_plan(config | changes, pairs, target, schema)


def test_a_plan_is_read_without_opening_the_generator() -> None:
    plan = planned(target="age")
    assert (plan.scales, plan.seeds, plan.target) == ((-2.0, 2.0), range(50000, 50128), "age")
    assert planned().target is None, "these judges read no eye_size"
    assert planned(target=None).target is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scales": [-3, 1]}, r"out of \[-2\.0, -1\.0, 1\.0, 2\.0\]"),
        ({"scales": [1, 2]}, "both sides of 0"),
        ({"scales": []}, "both sides of 0"),
        ({"faces": 1}, "2 or more faces"),
        ({"target": "hair=green"}, "class of 'hair'"),
        ({"target": "hair"}, "name the class"),
        ({"target": "age", "schema": SCHEMA[:2]}, "3 or more attributes"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_trained(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        planned(**changes)


def test_pairs_of_another_kind_are_refused(tmp_path: Path) -> None:
    for node in (None, {"_target_": "slider_lightning.data.pairs.sources.LevelFolder", "folder": str(tmp_path)}):
        with pytest.raises(InputError, match="pairs of a StyleGAN"):
            read_plan(configs()[0], node, None, SCHEMA)


def test_no_generator_is_left_when_its_faces_are_measured(judges: Judges) -> None:
    node = {
        "_target_": "slider_lightning.data.style_pairs.StyleGanPairs",
        "generator": {"_target_": "tests.planted_generator.open_planted"},
        "channels": {"_target_": "slider_lightning.data.style_pairs.NamedChannels", "layers": {0: {EYES: -1}}},
        "strengths": {-1: -2, 1: 2},
    }
    faces = measured_faces(TransferPlan(node, (-1.0, 1.0), range(30, 32), None), examiner(judges))
    assert not OPENED
    assert (faces.name, len(faces.measurements.rows)) == ("planted", 2)
    assert faces.fingerprint == StyleSpace(PlantedGenerator(), "planted").fingerprint


def test_the_manifest_names_the_seeds_and_hashes_that_a_table_adds(tmp_path: Path) -> None:
    config = composed("paper/transfer", f"out={tmp_path}")
    run = Stage(config, Console(file=io.StringIO())).publish({}, [], seeds={"faces": 7}, assets={"GAN": "ab"})
    manifest = run.read_manifest()
    assert manifest["seeds"] == {"faces": 7}
    assert manifest["assets"]["GAN"] == "ab"
    assert len(manifest["assets"]) == 2, "and the model's"


def test_measurements_of_other_classifiers_are_not_compared(gan: Measurements) -> None:
    slider = linear_slider()
    assert slider.header.schema == schema_to_json(SCHEMA)
    with pytest.raises(InputError, match="one classifier"):
        similarity_table(gan, replace(slider), None)


def test_the_command_composes_and_its_prompts_are_words_of_the_world() -> None:
    config = composed("paper/transfer", "out=x")
    spec: GridSpec = build(yaml.safe_load((CONF / "prompts" / f"{config['prompts']}.yaml").read_text()), "prompts.")
    words = {word for prompt, _ in spec.prompts.prompts for word in prompt.replace(",", "").split()}
    assert words <= set(VOCABULARY)
    assert len(spec.rows) >= 100
