"""Table 2 and its claims on planted data whose figures have closed forms."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from evaluation.attributes import Attribute, schema_to_json
from evaluation.measurements import Measurements, MeasurementsHeader
from evaluation.report import Table, markdown
from evaluation.statistics import Measure
from experiments.paper.claims import FAILS, HOLDS, UNDECIDED
from experiments.paper.quantities import eye_size
from experiments.paper.rows import attributes_table, table2
from experiments.paper.visual_claims import visual_claims_table
from experiments.paper.visual_quantities import (
    at_effect_of,
    at_scale,
    distance_readings,
    others_reading,
    weights_at,
    why_not_compared,
)
from slider_lightning.errors import InputError

SCHEMA = (
    Attribute("age", "continuous"),
    Attribute("eye_size", "continuous"),
    Attribute("gender", "class", ("man", "woman")),
    Attribute("hair", "class", ("black", "brown", "red")),
)
SCALES = (-2.0, -1.0, 0.0, 1.0, 2.0)
ENDS = (-1.0, 1.0)
ROWS = 12


def edited(
    method: str,
    scales: Sequence[float] = (0.0, 1.0),
    eyes: float = 0.4,
    distance: float = 0.03,
    age: float = 0.1,
    noise: float = 0.0,
    seed: int = 0,
    rows: int = ROWS,
) -> Measurements:
    """Rows that all answer alike and linearly to the scale, but for noise.

    Per unit of scale eyes grow by `eyes` of their size at 0, the distance by `distance`, age by `age` standard
    deviations and eye size by one; hair and gender stand still.
    """
    generator = np.random.default_rng(7 + len(method))
    lines: list[dict[str, Any]] = []
    for row in range(rows):
        for scale in scales:
            bend = noise * float(generator.normal()) * (scale != 0)
            lines.append(
                {
                    **{"row": row, "id": f"{row}{scale:+g}", "prompt": f"prompt {row % 3}", "noun": "a person"},
                    **{"seed": seed + row, "scale": scale, "clip/positive": 20.0, "clip/negative": 20.0},
                    **{"distance": distance * abs(scale) + abs(bend) * (scale != 0)},
                    **{"eye_area": (10 + row) * (1 + eyes * scale + bend)},
                    **{"attribute/age": row + 0.5 * age * scale, "attribute/eye_size": 0.25 * scale},
                    **{"attribute/gender=man": 0.5, "attribute/gender=woman": 0.5},
                    **{"attribute/hair=black": 0.8, "attribute/hair=brown": 0.1, "attribute/hair=red": 0.1},
                }
            )
    roles = ("clip", "distance", "classifier", "parser")
    header = MeasurementsHeader(
        method=method,
        concept="eye_size",
        model="tiny",
        judges={role: f"test {role}" for role in roles},
        scales=tuple(scales),
        schema=schema_to_json(SCHEMA),
        std={"age": [0.5], "eye_size": [0.25], "gender": [0.5, 0.5], "hair": [0.4, 0.3, 0.2]},
        edit_prompts={"positive": "a person", "negative": "a person"},
    )
    return Measurements(header, pd.DataFrame(lines))


def planted() -> dict[str, Measurements]:
    """Eyes grow by 40 % per unit of scale under the slider, by 20 % and 10 % under the baselines, by 140 % in pairs."""
    return {
        "training_pairs": edited("training_pairs", eyes=1.4, age=0.0, seed=500, rows=6),
        "textual_inversion": edited("textual_inversion", eyes=0.2, distance=0.2, age=0.8),
        "custom_diffusion": edited("custom_diffusion", eyes=0.1, distance=0.3, age=-1.6),
        "visual_slider": edited("visual_slider", SCALES),
    }


def without_eyes(measurements: Measurements, row: int, scale: float) -> Measurements:
    frame = measurements.frame.copy()
    frame.loc[(frame["row"] == row) & (frame["scale"] == scale), "eye_area"] = float("nan")
    return replace(measurements, frame=frame)


def figures(table: Table, row: str) -> dict[str, Measure | str]:
    """Column to figure, or text."""
    found = next(r for r in table.rows if r.name == row)
    return {c.name: cell.measure or cell.text for c, cell in zip(table.columns, found.cells, strict=True)}


def verdicts(table: Table) -> dict[tuple[str, str], str]:
    """(claim, what of whom) to verdict, the pair of methods left out."""
    return {(row.group, row.name.partition(": ")[2] or row.name): row.cells[2].text for row in table.rows}


def mean_of(figure: Measure | str) -> float:
    assert isinstance(figure, Measure), figure
    return figure.mean


def test_the_table_holds_eyes_distance_and_drift_of_every_method() -> None:
    table = table2(planted(), 1.0, ENDS, "eye_size")
    assert [row.name for row in table.rows] == [
        "training pairs",
        "Textual Inversion",
        "Custom Diffusion",
        "Visual slider",
    ]
    drift = "mean |shift| of the other attributes (standard deviations) at +1"
    for name, eyes, distance, age, whole in (
        ("training pairs", 1.4, 0.03, 0.0, 1.4),
        ("Textual Inversion", 0.2, 0.2, 0.8, None),
        ("Custom Diffusion", 0.1, 0.3, 1.6, None),
        ("Visual slider", 0.4, 0.03, 0.1, 1.4 / 0.6 - 1),
    ):
        found = figures(table, name)
        assert mean_of(found["change of eye area at +1"]) == pytest.approx(eyes)
        assert mean_of(found["test distance at +1"]) == pytest.approx(distance)
        assert mean_of(found["target shift at +1 (standard deviations)"]) == pytest.approx(1.0)
        assert mean_of(found[drift]) == pytest.approx(age / 3), "of age, gender and hair"
        between = found["change of eye area from -1 to +1"]
        assert between == "-" if whole is None else mean_of(between) == pytest.approx(whole)
    compared = [row.cells[0].test for row in table.rows]
    assert [test is None for test in compared] == [True, False, False, True]
    assert compared[1] is not None
    assert compared[1].difference.mean == pytest.approx(-0.2)
    text = markdown(table)
    for words in ("n = 6", "n = 12", "1.75 (2)", "Visual slider 0 of 12"):
        assert words in text


def test_without_the_target_among_the_attributes_its_column_is_left_out() -> None:
    names = [column.name for column in table2(planted(), 1.0, ENDS, "nose_size").columns]
    assert not any(name.startswith("target shift") for name in names)


def test_attributes_stand_method_by_method_the_target_first() -> None:
    table = attributes_table(planted(), 1.0, "eye_size")
    assert [row.name for row in table.rows] == ["eye_size", "age", "gender", "hair"]
    others = [f"Visual slider at {scale}" for scale in ("-2", "-1", "+2")]
    first = [
        "training pairs",
        *(f"{name} at +1" for name in ("Textual Inversion", "Custom Diffusion", "Visual slider")),
    ]
    assert [column.name for column in table.columns] == first + others
    age, eye_size, hair = (figures(table, name) for name in ("age", "eye_size", "hair"))
    assert mean_of(age["Visual slider at -2"]) == pytest.approx(-0.2)
    assert mean_of(eye_size["Visual slider at +2"]) == pytest.approx(2.0)
    assert mean_of(age["Custom Diffusion at +1"]) == pytest.approx(-1.6)
    assert mean_of(hair["Custom Diffusion at +1"]) == 0.0


def test_claims_hold_at_equal_scale_and_at_equal_effect() -> None:
    table = visual_claims_table(planted(), 1.0, ENDS, "eye_size")
    found = verdicts(table)
    for rival in ("Textual Inversion", "Custom Diffusion"):
        more = f"Visual sliders change the eyes more than {rival} at a lower distance, at equal scale (eye_size)"
        assert found[more, "change of eye area at +1"] == HOLDS
        assert found[more, "test distance at +1"] == HOLDS
        assert found[more, "in all"] == HOLDS
        for group, what in (
            (f"Visual sliders change the image less than {rival}, at equal effect (eye_size)", "test distance"),
            (
                f"Visual sliders leave the other attributes alone more than {rival}, at equal effect (eye_size)",
                "mean |shift| of the other attributes (standard deviations)",
            ),
        ):
            assert found[group, f"{what} where the eyes change as by {rival} at +1"] == HOLDS
        alone = f"Visual sliders leave the other attributes alone more than {rival}, at equal scale (eye_size)"
        assert {judged for (group, _), judged in found.items() if group == alone} == {HOLDS}
    # From -1 to +1 the slider changes them by 133 %, within a fifth of the pairs' 140 %; from 0 to +1 by 40 %.
    close = "Visual sliders come close to the change of the training pairs"
    assert found[f"{close}, from -1 to +1 (eye_size)", "in all"] == HOLDS
    assert found[f"{close}, from 0 to +1 (eye_size)", "in all"] == FAILS
    tests = {row.name: row.cells[0].test for row in table.rows}
    alike = "test distance where the eyes change as by Textual Inversion at +1"
    near = tests[f"Visual slider minus Textual Inversion: {alike}"]
    assert near is not None
    assert near.difference.mean == pytest.approx(0.015 - 0.2), "20 % is reached half the way to +1"
    share = tests["Visual slider minus 80% of training pairs: change of eye area from -1 to +1"]
    assert share is not None
    assert share.difference.mean == pytest.approx(1.4 / 0.6 - 1 - 0.8 * 1.4)


def test_claims_fail_and_stay_undecided() -> None:
    found = planted()
    found["textual_inversion"] = edited("textual_inversion", eyes=0.4, distance=0.01, age=0.1)
    found["custom_diffusion"] = edited("custom_diffusion", eyes=0.38, distance=0.03, noise=0.2)
    table = visual_claims_table(found, 1.0, ENDS, "eye_size")
    judged = verdicts(table)
    weaker = "Visual sliders change the eyes more than Textual Inversion at a lower distance, at equal scale (eye_size)"
    assert judged[weaker, "change of eye area at +1"] == UNDECIDED, "both change them alike"
    assert judged[weaker, "test distance at +1"] == FAILS
    assert judged[weaker, "in all"] == FAILS
    noisy = "Visual sliders change the eyes more than Custom Diffusion at a lower distance, at equal scale (eye_size)"
    assert judged[noisy, "change of eye area at +1"] == UNDECIDED


def test_effects_that_are_not_there_or_out_of_reach_are_not_compared() -> None:
    found = planted()
    found["textual_inversion"] = edited("textual_inversion", eyes=0.0)
    found["custom_diffusion"] = edited("custom_diffusion", eyes=1.5)
    slider = found["visual_slider"]
    assert "does not measurably enlarge" in why_not_compared(slider, found["textual_inversion"], 1.0)
    assert why_not_compared(slider, found["custom_diffusion"], 1.0) == "the slider reaches 0.80 of its 1.50"
    table = visual_claims_table(found, 1.0, ENDS, "eye_size")
    assert not any("equal effect" in row.group for row in table.rows)
    assert sum("Not compared at equal effect" in note for note in table.notes) == 2


def test_at_equal_effect_a_rival_is_itself_and_a_slider_is_interpolated() -> None:
    slider = edited("visual_slider", SCALES, noise=0.05)
    rival = edited("textual_inversion", eyes=0.55, distance=0.2, age=0.8, noise=0.05)
    for reading in (*distance_readings(slider), others_reading(slider, "eye_size")):
        quantity = at_effect_of(rival, 1.0, reading, "rival")
        plain = at_scale(reading, 1.0)
        assert quantity.measure(rival) == plain.measure(rival)
        assert quantity.compare(rival, rival).difference == Measure(0.0, (0.0, 0.0), ROWS)
    areas = slider.values("eye_area").mean(0).numpy()[2:]
    aim = float(eye_size(1.0).measure(rival).mean)
    expected = np.interp(aim, areas / areas[0] - 1, slider.values("distance").mean(0).numpy()[2:])
    measured = at_effect_of(rival, 1.0, distance_readings(slider)[0], "rival").measure(slider)
    assert measured.mean == pytest.approx(float(expected))
    assert measured.ci95[0] < measured.mean < measured.ci95[1]


def test_drift_is_the_mean_of_what_the_attribute_table_shows() -> None:
    slider = edited("visual_slider", SCALES, age=-0.6)
    table = attributes_table({"visual_slider": slider}, 2.0, "eye_size")
    shown = {name: figures(table, name)["Visual slider at +2"] for name in ("age", "gender", "hair")}
    drift = at_scale(others_reading(slider, "eye_size"), 2.0).measure(slider).mean
    assert drift == pytest.approx(sum(abs(mean_of(shift)) for shift in shown.values()) / 3)
    assert drift == pytest.approx(0.4)
    with_target = at_scale(others_reading(slider, "unread"), 2.0).measure(slider).mean
    assert with_target == pytest.approx((1.2 + 2.0) / 4)


def test_rows_without_eyes_are_left_out_and_counted() -> None:
    found = planted()
    found["visual_slider"] = without_eyes(without_eyes(found["visual_slider"], 3, 1.0), 5, -1.0)
    table = table2(found, 1.0, ENDS, "eye_size")
    assert figures(table, "Visual slider")["change of eye area at +1"].n == 11
    assert figures(table, "Visual slider")["change of eye area from -1 to +1"].n == 10
    assert any("Visual slider 1 of 12" in note for note in table.notes)
    claims = visual_claims_table(found, 1.0, ENDS, "eye_size")
    sizes = {
        row.group.partition(", ")[2]: row.cells[0].test.difference.n
        for row in claims.rows
        if row.cells[0].test and "distance where" in row.name
    }
    assert set(sizes.values()) == {11}


@pytest.mark.parametrize(
    ("effect", "wanted", "expected"),
    [
        ([0.0, 0.2, 0.6], 0.4, [0.0, 0.5, 0.5]),
        ([0.0, 0.2, 0.6], 0.2, [0.0, 1.0, 0.0]),
        ([0.0, 0.2, 0.6], -0.1, [1.0, 0.0, 0.0]),
        ([0.0, 0.2, 0.6], 0.9, [0.0, 0.0, 1.0]),
        ([0.0, 0.0, 0.5], 0.0, [1.0, 0.0, 0.0]),
        ([0.0, 0.4, 0.2, 0.8], 0.3, [0.25, 0.75, 0.0, 0.0]),
        ([0.0, -0.2, 0.2], 0.1, [0.0, 0.25, 0.75]),
    ],
)
def test_weights_lie_on_the_neighbours_of_the_first_crossing(
    effect: list[float], wanted: float, expected: list[float]
) -> None:
    weights = weights_at(torch.tensor([effect, effect]).double(), torch.tensor([wanted, wanted]).double())
    torch.testing.assert_close(weights, torch.tensor([expected, expected]).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found.pop("visual_slider"), "a visual slider and of another method"),
        (lambda found: [found.pop(name) for name in list(found) if name != "visual_slider"], "another method"),
        (lambda found: found.clear(), "at least one method first"),
        (lambda found: found.update(custom_diffusion=edited("custom_diffusion", seed=9)), "same seeds"),
        (lambda found: found.update(visual_slider=found["visual_slider"].at_scales([1])), "at scale -1"),
    ],
)
def test_what_no_claim_can_be_judged_on_is_refused(
    change: Callable[[dict[str, Measurements]], object], message: str
) -> None:
    found = planted()
    change(found)
    with pytest.raises(InputError, match=message):
        visual_claims_table(found, 1.0, ENDS, "eye_size")


def test_a_classifier_of_the_target_alone_is_refused() -> None:
    slider = edited("visual_slider", SCALES)
    only = replace(slider.header, schema=schema_to_json(SCHEMA[1:2]))
    with pytest.raises(InputError, match="beside eye_size"):
        others_reading(Measurements(only, slider.frame), "eye_size")
