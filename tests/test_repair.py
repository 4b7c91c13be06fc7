"""Repair: shares before and after, distances to good images, and what the command refuses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from evaluation.attributes import Attribute, schema_to_json
from evaluation.grids import GridSpec
from evaluation.measurements import Measurements
from evaluation.report import csv_text, markdown
from experiments.paper.protocol import Protocol
from experiments.paper.repair_figure import share_figure
from experiments.paper.repair_images import well_drawn_faces
from experiments.paper.repair_tables import (
    RepairPlan,
    bad_rows,
    distance_table,
    faulty,
    repair_table,
    set_distances,
)
from slider_lightning.config import CONF, build
from slider_lightning.errors import InputError
from tests.conftest import composed
from tests.report_measurements import linear_slider

FAULT = "gender=woman"
SCALES = (-2.0, 0.0, 1.0, 2.0)


def repaired(flip_from: float = 2.0) -> Measurements:
    """Rows 0, 1, 4 and 5 of 8 are women at 0; from |scale| `flip_from` on rows 0, 2, 4 and 6 are turned around."""
    return linear_slider(flip_from=flip_from, scales=SCALES)


def test_bad_images_are_those_of_the_faults_class() -> None:
    bad = faulty(repaired(), FAULT)
    assert bad[:, 1].tolist() == [True, True, False, False] * 2
    assert bad[:, 3].tolist() == [False, True, True, False] * 2
    assert (bad != faulty(repaired(), "gender=man")).all()


def test_the_table_tells_shares_what_was_mended_and_what_was_spoilt() -> None:
    table = repair_table({"repair": repaired()}, {"repair": FAULT})
    rows = {(row.group, row.name): row.cells for row in table.rows}
    before, after = rows["repair, all prompts", "at 0"], rows["repair, all prompts", "at +2"]
    assert before[0].measure
    assert before[0].measure.mean == 0.5
    assert before[0].test is None
    share, mended, spoilt, distance = (cell.measure for cell in after)
    assert share
    assert mended
    assert spoilt
    assert distance
    assert (share.mean, mended.mean, spoilt.mean, distance.mean) == (0.5, 0.5, 0.5, 0.125)
    assert (mended.n, spoilt.n) == (4, 4)
    assert after[0].test
    assert after[0].test.difference.mean == 0
    assert after[0].test.p_value == 1, "two rows mended, two spoilt"
    names = [row.name for row in table.rows if row.group == "repair, a man"]
    assert names == ["at 0", "at -2", "at +1", "at +2"]
    assert "0.62 (2)" in markdown(table)


def test_the_paired_test_on_shares_is_mcnemars() -> None:
    """Two rows of eight change, both from bad to good: p = 2 x (1/2)^2."""
    readings = repaired()
    women = readings.frame["attribute/gender=woman"].to_numpy().reshape(-1, len(SCALES)).copy()
    women[:] = women[:, [1]]
    women[:2, 3] = 0.1
    frame = readings.frame.assign(
        **{"attribute/gender=woman": women.reshape(-1), "attribute/gender=man": 1 - women.reshape(-1)}
    )
    table = repair_table({"repair": Measurements(readings.header, frame)}, {"repair": FAULT})
    (cell,) = (row.cells[0] for row in table.rows if (row.group, row.name) == ("repair, all prompts", "at +2"))
    assert cell.test
    assert cell.test.difference.mean == -0.25
    assert cell.test.p_value == 0.5


def test_a_set_without_bad_images_says_so() -> None:
    readings = repaired(flip_from=9.0)
    frame = readings.frame.assign(**{"attribute/gender=woman": 0.1, "attribute/gender=man": 0.9})
    good = Measurements(readings.header, frame)
    text = csv_text(repair_table({"repair": good}, {"repair": FAULT}))
    assert "0 such images" in text
    assert bad_rows(good, FAULT, 4) == []


def test_bad_rows_come_from_every_noun() -> None:
    assert bad_rows(repaired(), FAULT, 4) == [0, 1, 4, 5]
    assert bad_rows(repaired(), FAULT, 2) == [0, 4]


def test_distances_fall_where_images_near_the_reference() -> None:
    generator = torch.Generator().manual_seed(0)
    reference, rows = (torch.randn(n, 3, generator=generator).double() for n in (200, 40))
    found = set_distances({-2.0: rows + 2, 0.0: rows + 1, 2.0: rows}, reference)
    for name in ("FID", "KID"):
        assert found[f"{name}/+2"].mean < found[f"{name}/+0"].mean < found[f"{name}/-2"].mean
        change = found[f"{name}_change/+2"]
        assert change.mean == pytest.approx(found[f"{name}/+2"].mean - found[f"{name}/+0"].mean)
        assert change.ci95[1] < 0 < found[f"{name}_change/-2"].ci95[0]
    gap = (rows.mean(0) - reference.mean(0)).square().sum()
    shifted = (rows.mean(0) + 1 - reference.mean(0)).square().sum()
    assert found["FID_change/+2"].mean == pytest.approx(float(gap - shifted)), "a shift changes the means alone"


def test_the_table_of_distances_has_every_scale() -> None:
    rows = torch.randn(6, 2, generator=torch.Generator().manual_seed(1)).double()
    found = set_distances({0.0: rows, 1.0: rows + 1}, rows)
    table = distance_table({"repair": found}, (0.0, 1.0), repaired(), "test features")
    assert [row.name for row in table.rows] == ["at 0", "at +1"]
    assert [cell.text for cell in table.rows[0].cells] == ["", "-", "", "-"]
    assert any("test features" in note for note in table.notes)


def test_the_figure_has_a_line_per_noun() -> None:
    (panel,) = share_figure({"repair": repaired()}, {"repair": FAULT}).axes
    lines = [container[0] for container in panel.containers]
    assert [line.get_xdata().tolist() for line in lines] == [list(SCALES)] * 2
    assert np.allclose(lines[0].get_ydata(), [0.5, 0.5, 0.5, 0.5])


def test_reference_faces_are_well_drawn_and_a_function_of_their_seed() -> None:
    faces = well_drawn_faces(6, 3, 32)
    assert faces.shape == (6, 3, 32, 32)
    assert torch.equal(faces, well_drawn_faces(6, 3, 32))
    with pytest.raises(InputError, match="count"):
        well_drawn_faces(1, 3, 32)


@pytest.mark.parametrize("model", ["tiny_faces", "sdxl"])
def test_the_plan_of_a_model_names_concepts_prompts_and_classes_that_there_are(model: str) -> None:
    config = composed("paper/repair", f"model={model}", "out=outputs/test")
    plan: RepairPlan = build(config["repair"])
    protocol: Protocol = build(config["protocol"])
    for name in plan.faults:
        concept = protocol.concepts[name]
        assert composed("train", f"model={model}", f"experiment={concept.experiment}")["concept"]["positive"]
        prompts: GridSpec = build(yaml.safe_load((CONF / "prompts" / f"{concept.prompts}.yaml").read_text()))
        assert len(prompts.rows) >= 64
    if model == "sdxl":
        attributes = config["judges"]["classifier"]["attributes"]
        schema = tuple(Attribute(name, "class", tuple(classes)) for name, classes in attributes.items())
        plan.check(schema)
    else:
        plan.check(build(config["judges"]["classifier"]).schema)


def test_faults_that_the_judges_do_not_read_are_refused() -> None:
    with pytest.raises(InputError, match="quality=bad"):
        RepairPlan({"repair": "quality=bad"}, (1.0,)).check(repaired().header.attributes)


@pytest.mark.parametrize(("faults", "scales"), [({}, (1.0,)), ({"repair": FAULT}, ()), ({"repair": FAULT}, (0.0, 1.0))])
def test_a_plan_without_concepts_or_scales_is_refused(faults: dict[str, str], scales: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="repair"):
        RepairPlan(faults, scales)


def test_a_class_attribute_with_more_classes_is_read_by_its_largest() -> None:
    readings = repaired()
    header = replace(readings.header, schema=schema_to_json(readings.header.attributes))
    assert faulty(Measurements(header, readings.frame), "hair=black").all()
    assert not faulty(Measurements(header, readings.frame), "hair=red").any()
