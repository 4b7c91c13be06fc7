"""Measurements: what they refuse, what they compute, and that they come back from their file as they went."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from evaluation.attributes import Attribute, schema_to_json
from evaluation.measurements import Measurements, MeasurementsHeader, check_paired, read_measurements
from slider_lightning.errors import InputError

SCHEMA = (Attribute("age", "continuous"), Attribute("gender", "class", ("man", "woman")))
SCALES = (-1.0, 0.0, 1.0)


def measurements(rows: int = 4, method: str = "concept_slider", first_seed: int = 10) -> Measurements:
    """Age is seed + scale; every third image shows a woman; the last row has no eyes at scale 1."""
    header = MeasurementsHeader(
        method=method,
        concept="age",
        model="tiny",
        judges={"clip": "tiny CLIP"},
        scales=SCALES,
        schema=schema_to_json(SCHEMA),
        std={"age": [2.0], "gender": [0.5, 0.5]},
        edit_prompts={"positive": "old", "negative": "young"},
    )
    lines = [
        {
            **{
                "row": row,
                "id": f"{row}{scale:+g}",
                "prompt": f"image of {noun}",
                "noun": noun,
                "seed": first_seed + row,
            },
            **{"scale": scale, "clip/positive": row + scale, "clip/negative": row - scale, "distance": abs(scale)},
            "eye_area": float("nan") if row == rows - 1 and scale == 1 else 5.0,
            "attribute/age": first_seed + row + scale,
            "attribute/gender=man": 0.0 if (row + scale) % 3 == 0 else 1.0,
            "attribute/gender=woman": 1.0 if (row + scale) % 3 == 0 else 0.0,
        }
        for row in range(rows)
        for noun in (["a man", "a woman"][row % 2],)
        for scale in SCALES
    ]
    return Measurements(header, pd.DataFrame(lines))


def test_values_stand_by_row_and_scale() -> None:
    found = measurements()
    expected = torch.tensor([[row + scale for scale in SCALES] for row in range(4)], dtype=torch.double)
    assert torch.equal(found.values("clip/positive"), expected)
    assert torch.equal(found.change("clip/negative", 1.0), torch.full((4,), -1.0, dtype=torch.double))


def test_the_sweep_holds_values_and_probabilities() -> None:
    sweep = measurements().sweep()
    assert sweep.readings["age"].shape == (4, 3)
    assert sweep.readings["gender"].shape == (4, 3, 2)
    assert torch.allclose(sweep.readings["gender"].sum(-1), torch.ones(4, 3, dtype=torch.double))
    assert float(sweep.standard("age")[0, 2, 0] - sweep.standard("age")[0, 1, 0]) == 0.5


def test_a_file_gives_back_the_same_measurements(tmp_path: Path) -> None:
    written = measurements()
    written.write(tmp_path / "m.jsonl")
    read = read_measurements(tmp_path / "m.jsonl")
    assert read.header == written.header
    pd.testing.assert_frame_equal(read.frame, written.frame, check_dtype=False)
    assert read.values("eye_area").isnan().sum() == 1


def test_a_noun_has_its_own_rows() -> None:
    men = measurements().only("a man")
    assert men.rows == [("image of a man", 10), ("image of a man", 12)]
    with pytest.raises(InputError, match="a man, a woman"):
        measurements().only("a doctor")


def test_fewer_scales_keep_the_base_images() -> None:
    assert measurements().at_scales([1]).header.scales == (0.0, 1.0)
    with pytest.raises(InputError, match="at scale 3"):
        measurements().at_scales([3])


def test_missing_images_and_columns_are_refused() -> None:
    whole = measurements()
    with pytest.raises(InputError, match="some images are missing"):
        Measurements(whole.header, whole.frame[:-1])
    with pytest.raises(InputError, match="distance"):
        Measurements(whole.header, whole.frame.drop(columns="distance"))
    with pytest.raises(InputError, match="distance_native"):
        whole.values("distance_native")


def test_only_the_same_rows_and_judges_are_compared() -> None:
    check_paired(measurements(), measurements(method="composition"))
    with pytest.raises(InputError, match=r"same seeds.*differ in 10, 14"):
        check_paired(measurements(), measurements(first_seed=11))
    with pytest.raises(InputError, match=r"same prompts.*image of a woman"):
        check_paired(measurements(), measurements().only("a man"))
    other = measurements()
    other.header.judges["clip"] = "ViT-B-32"
    with pytest.raises(InputError, match="ViT-B-32"):
        check_paired(measurements(), other)


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"method": "x"}\n')
    with pytest.raises(InputError, match="header"):
        read_measurements(path)
