"""The paper's tables from stored measurements, against closed forms."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from evaluation.measurements import Measurements
from evaluation.report import Table, csv_text, markdown
from evaluation.statistics import Measure, PairedTest
from experiments.paper.claims import FAILS, HOLDS, UNDECIDED, claims_table, combined, verdict
from experiments.paper.published import TABLE1, TABLE2, TABLE3, comparability
from experiments.paper.response_rows import dose_response_table, interference_by_noun
from experiments.paper.rows import table1, table2, table3
from slider_lightning.errors import InputError
from tests.report_measurements import FIXTURES, fixture, linear_slider, with_header

METHODS = ("concept_slider", "prompt_to_prompt")


def stored() -> dict[str, Measurements]:
    return {method: fixture(method) for method in METHODS}


def by_concept() -> dict[tuple[str, str], Measurements]:
    return {("age", method): found for method, found in stored().items()}


def cell_of(table: Table, row: str, column: str, group: str = "") -> Measure | str:
    """A figure of a table by the beginnings of its names, or its text."""
    number = next(i for i, c in enumerate(table.columns) if c.name.startswith(column))
    found = next(r for r in table.rows if r.name.startswith(row) and r.group.startswith(group)).cells[number]
    return found.measure or found.text


def test_stored_measurements_give_the_expected_pages() -> None:
    assert markdown(table1(by_concept(), 2.0, {"age": "age"})) == (FIXTURES / "table1.md").read_text()
    assert csv_text(table3(stored(), 2.0, "age", ["gender"])) == (FIXTURES / "table3.csv").read_text()


def test_a_concept_without_target_leaves_its_cell_open() -> None:
    found = by_concept() | {("sky", "concept_slider"): with_header(fixture("concept_slider"), concept="sky")}
    table = table1(found, 2.0, {"age": "age", "sky": None})
    assert cell_of(table, "Concept Slider", "target shift", "age") == Measure(2.0, (2.0, 2.0), 4)
    assert cell_of(table, "Concept Slider", "target shift", "sky") == "-"
    assert all(not c.name.startswith("target") for c in table1(found, 2.0, {}).columns)


def test_a_second_judge_of_distance_gets_a_column_of_its_own() -> None:
    found = {key: native(m) for key, m in by_concept().items()}
    table = table1(found, 2.0, {})
    assert [column.name for column in table.columns] == ["dCLIP at +2", "test distance at +2", "LPIPS native at +2"]
    assert cell_of(table, "Prompt", "LPIPS native") == Measure(0.25, (0.25, 0.25), 4)


def native(m: Measurements) -> Measurements:
    judges = m.header.judges | {"distance_native": "LPIPS native"}
    return Measurements(replace(m.header, judges=judges), m.frame.assign(distance_native=2 * m.frame["distance"]))


def test_table2_counts_faces_without_eyes_and_compares_on_the_others() -> None:
    names = dict(zip(("textual_inversion", "custom_diffusion"), stored().values(), strict=True))
    table = table2(names, 2.0, (-2.0, 2.0), "eye_size")
    assert cell_of(table, "Textual Inversion", "change of eye area").mean == pytest.approx(0.2)
    assert cell_of(table, "Custom Diffusion", "change of eye area").n == 3
    assert table.rows[1].cells[0].test.difference.n == 3
    assert any("Textual Inversion 0 of 4; Custom Diffusion 1 of 4" in note for note in table.notes)


def test_the_visual_slider_is_the_reference_once_it_is_there_and_pairs_are_compared_with_nothing() -> None:
    slider, other = stored().values()
    shifted = Measurements(slider.header, slider.frame.assign(seed=slider.frame["seed"] + 99))
    table = table2(
        {"custom_diffusion": other, "visual_slider": slider, "training_pairs": shifted}, 2.0, (-2.0, 2.0), "age"
    )
    assert [row.name for row in table.rows] == ["training pairs", "Custom Diffusion", "Visual slider"]
    assert table.reference == "Visual slider"
    assert [row.cells[1].test is None for row in table.rows] == [True, False, True]
    assert table.rows[1].cells[1].test.difference == Measure(0.0625, (0.0625, 0.0625), 4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: table1({}, 2.0, {}),
        lambda: table2({}, 2.0, (-2.0, 2.0), "eye_size"),
        lambda: table3({}, 2.0, "age", ["gender"]),
        lambda: dose_response_table({}, {}),
        lambda: interference_by_noun({}, 2.0, "age", ["gender"]),
        lambda: claims_table({}, 2.0, {}, {}),
    ],
)
def test_no_measurements_are_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(InputError, match="at least one method first"):
        make()


def test_methods_on_other_rows_are_refused() -> None:
    found = stored()
    other = found["prompt_to_prompt"]
    found["prompt_to_prompt"] = Measurements(other.header, other.frame.assign(seed=other.frame["seed"] + 1))
    with pytest.raises(InputError, match="same seeds"):
        table3(found, 2.0, "age", ["gender"])
    with pytest.raises(InputError, match="same seeds"):
        claims_table({("age", name): m for name, m in found.items()}, 2.0, {}, {"age": ["gender"]})


def test_a_single_row_is_refused() -> None:
    slider = fixture("concept_slider")
    single = Measurements(slider.header, slider.frame[slider.frame["row"] == 0].reset_index(drop=True))
    with pytest.raises(InputError, match="at least 2"):
        table3({"concept_slider": single}, 2.0, "age", ["gender"])


def test_a_line_answers_to_its_scale_as_a_line() -> None:
    table = dose_response_table({"age": linear_slider(age=0.75)}, {"age": "age"})
    for figure in ("share of sweeps monotone", "share of sweeps that rise", "Spearman", "R2, mean", "R2 of the mean"):
        assert cell_of(table, figure, "age").mean == pytest.approx(1.0)
    assert cell_of(table, "slope", "age").mean == pytest.approx(0.75)
    assert cell_of(table, "saturated above", "age") == "not saturated"
    assert cell_of(table, "range", "age").mean == pytest.approx(4.0)
    assert cell_of(table, "preservation (test distance)", "age").mean == pytest.approx(0.0625 * 1.5)
    assert cell_of(table, "smoothness", "age").mean == pytest.approx(0.0)
    assert "0.989 (2)" in markdown(table)


def test_a_slider_without_target_still_has_its_clip_figures() -> None:
    table = dose_response_table({"age": linear_slider(), "sky": linear_slider()}, {"age": "age", "sky": None})
    assert cell_of(table, "slope", "sky") == "-"
    assert cell_of(table, "range", "sky").mean == pytest.approx(4.0)


def test_interference_stands_per_noun_and_at_equal_effect() -> None:
    # An effect of 2.5 from -s to +s at a slope of 1 is reached at s = 1.25, where a quarter of the flips that begin
    # between 1 and 2 is counted.
    methods = {"concept_slider": linear_slider(age=1.0, flip_from=2.0), "projected": linear_slider(age=0.5)}
    table = interference_by_noun(methods, 2.0, "age", ["gender"])
    assert [row.group for row in table.rows[::2]] == ["all nouns", "a man", "a woman"]
    for noun, images in (("all nouns", 16), ("a man", 8)):
        share = cell_of(table, "Concept Slider", "interference at ±2", noun)
        assert (share.mean, share.n) == (0.5, images)
        assert cell_of(table, "Concept Slider", "effect from -2 to +2", noun).mean == pytest.approx(4.0)
        assert cell_of(table, "Concept Slider", "interference at an effect of 2.5", noun).mean == pytest.approx(0.125)
        assert cell_of(table, "Concept Slider", "effect of 2.5 at", noun).mean == pytest.approx(1.25)
        assert cell_of(table, "eq. 4, projected", "interference at an effect", noun) == "not reached"


@pytest.mark.parametrize(
    ("interval", "p_value", "higher", "expected"),
    [
        ((0.1, 0.3), 0.001, True, HOLDS),
        ((0.1, 0.3), 0.001, False, FAILS),
        ((-0.3, -0.1), 0.001, False, HOLDS),
        ((-0.3, -0.1), 0.001, True, FAILS),
        ((-0.1, 0.3), 0.2, True, UNDECIDED),
        ((0.0, 0.3), 0.03, True, UNDECIDED),
        ((0.1, 0.3), 0.07, True, UNDECIDED),
    ],
)
def test_verdicts(interval: tuple[float, float], p_value: float, higher: bool, expected: str) -> None:
    test = PairedTest(Measure(sum(interval) / 2, interval, 9), p_value, "test")
    assert verdict(test, higher) == expected


def test_a_claim_holds_where_all_its_conditions_do() -> None:
    assert combined([HOLDS, HOLDS]) == HOLDS
    assert combined([HOLDS, UNDECIDED]) == UNDECIDED
    assert combined([UNDECIDED, FAILS]) == FAILS


def test_claims_are_judged_on_paired_differences() -> None:
    slider, weak = linear_slider(age=1.0), linear_slider(age=0.5, flip_from=2.0)
    found = {("age", "concept_slider"): slider, ("age", "without_low_rank"): weak, ("age", "prompt_to_prompt"): weak}
    table = claims_table(found, 2.0, {"age": "age"}, {"age": ["gender"]})
    verdicts = {(row.group, row.name.partition(": ")[2] or row.name): row.cells[2].text for row in table.rows}
    rival = "Sliders move the target more than Prompt-to-Prompt at a lower distance, at equal scale (age)"
    assert verdicts[rival, "dCLIP at +2"] == UNDECIDED, "both gain the same"
    assert verdicts[rival, "target shift at +2 (standard deviations)"] == HOLDS
    assert verdicts[rival, "in all"] == UNDECIDED
    assert "Disentanglement (eq. 4 against eq. 3) lowers interference, at equal scale (age)" not in {
        row.group for row in table.rows
    }
    shift = next(row.cells[0].test for row in table.rows if "target shift" in row.name)
    assert shift.difference == Measure(1.0, (1.0, 1.0), 8)


def test_claims_need_two_methods() -> None:
    with pytest.raises(InputError, match="two methods that a claim compares"):
        claims_table({("age", "concept_slider"): fixture("concept_slider")}, 2.0, {}, {})


def test_what_compares_is_read_from_the_printed_names() -> None:
    ours = fixture("concept_slider")
    line = comparability(ours, ("clip", "distance"))
    assert line.startswith("Not comparable in size")
    assert "CLIP (ours: test_CLIP; published: ViT-B/32 of openai)" in line
    assert "n (ours: 4 rows; published: 500 rows)" in line
    judges = {"clip": "CLIP ViT-B/32 (openai)", "distance": "LPIPS (AlexNet, 64 px)", "classifier": "zero-shot"}
    theirs = with_header(
        ours,
        model="stabilityai/stable-diffusion-xl-base-1.0",
        judges=judges,
        settings={
            "sampler": {"num_inference_steps": 50, "guidance_scale": 5.0, "start_timestep": 750},
            "model": {"resolution": 1024},
        },
    )
    line = comparability(theirs, ("clip", "distance"))
    assert "Different: n (ours: 4 rows; published: 500 rows). The same: model" in line
    assert "CLIP (CLIP ViT-B/32 (openai))" in line
    frame = theirs.frame
    parts = [frame.assign(row=frame["row"] + 4 * i, seed=frame["seed"] + 4 * i) for i in range(125)]
    whole = Measurements(theirs.header, pd.concat(parts, ignore_index=True))
    assert comparability(whole, ("clip", "distance")).startswith("Comparable with the published figures")
    assert "classifier" in comparability(whole, ("clip", "distance", "classifier"))


def test_published_figures_carry_the_marks_of_the_reference() -> None:
    assert str(TABLE1.rows["Concept Sliders"][0]) == "3.93 (2)"
    assert str(TABLE1.rows["Prompt-to-Prompt"][0]) == "1.10 (2)"
    assert str(TABLE1.rows["Composition"][0]) == "3.14 (M)"
    assert str(TABLE2.rows["training pairs"][0]) == "1.84 (M)"
    assert [str(figure) for figure in TABLE3.rows["w/o disentanglement (eq. 3)"]] == [
        "3.39 (2)",
        "0.17 (2)",
        "0.36 (2)",
    ]
    assert TABLE3.rows["Composition"][0] is None
    assert "M = remembered, seen nowhere" in TABLE1.legend
