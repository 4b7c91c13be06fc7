"""Calibrations: units to scales and back, what is refused, and how they lie in slider files."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from slider_lightning.adapters import (
    AdapterConfig,
    Calibration,
    Slider,
    SliderMetadata,
    check_settings,
    common_unit,
    load_slider,
    save_slider,
)
from slider_lightning.backbone import Backbone, SamplerConfig
from slider_lightning.errors import InputError

SCALES = (-2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
FIT = (-1.0, -0.8, 0.0, 0.5, 2.0, 2.0)
CALIBRATION = Calibration(
    target="age",
    unit="standard deviation (probe)",
    scales=SCALES,
    effects=(-1.0, -0.8, 0.0, 0.5, 2.1, 1.9),
    lows=(-1.2, -0.9, 0.0, 0.4, 2.0, 1.7),
    highs=(-0.8, -0.7, 0.0, 0.6, 2.2, 2.1),
    fit=FIT,
    useful_scales=(-2.0, 2.0),
    saturation=(None, 2.0),
    rows=64,
    prompts=("image of a person",),
    sampler={"num_inference_steps": 16, "start_timestep": 750, "schedule": {750.0: 1.0}},
    model="abc",
)
# A slider that begins to act beyond scale 1, upward alone.
LATE = replace(CALIBRATION, fit=(0.0, 0.0, 0.0, 0.0, 2.0, 2.0), useful_scales=(0.0, 2.0))


def test_units_lie_on_the_line_between_the_measured_scales() -> None:
    found = [CALIBRATION.scale_of(units) for units in (-1.0, -0.9, -0.4, 0.0, 0.25, 0.5, 1.25, 2.0)]
    assert found == pytest.approx([-2.0, -1.5, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0])


@pytest.mark.parametrize("calibration", [CALIBRATION, LATE])
def test_the_effect_at_the_scale_of_a_unit_is_that_unit(calibration: Calibration) -> None:
    low, high = calibration.useful_effects
    for units in (low, 0.7 * low, 0.01 * high, 0.3 * high, 0.8 * high, high):
        assert calibration.effect_of(calibration.scale_of(units)) == pytest.approx(units)


def test_a_late_slider_is_off_at_no_units_and_starts_where_it_acts() -> None:
    assert LATE.useful_effects == (0.0, 2.0)
    assert LATE.scale_of(0.0) == 0
    assert LATE.scale_of(0.02) == pytest.approx(1.01)


@pytest.mark.parametrize("units", [-1.01, 2.01, 5.0, float("nan")])
def test_units_beyond_the_useful_range_are_refused_with_the_range(units: float) -> None:
    with pytest.raises(InputError, match=r"-1\.\.2, .*\(scales -2\.\.2\)"):
        CALIBRATION.scale_of(units)
    with pytest.raises(InputError, match=r"-2\.\.3"):
        CALIBRATION.effect_of(3.5)


def test_a_slider_without_effect_says_so() -> None:
    nothing = replace(CALIBRATION, fit=(0.0,) * 6, useful_scales=(0.0, 0.0))
    with pytest.raises(InputError, match="no effect was measured"):
        nothing.scale_of(0.5)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"scales": (-2.0, -1.0, 0.5, 1.0, 2.0, 3.0)}, "0 among them"),
        ({"scales": (-2.0, -1.0, 0.0, 2.0, 1.0, 3.0)}, "to rise"),
        ({"lows": (0.0,) * 5}, "every scale"),
        ({"effects": (0.0, 0.0, 0.0, 0.0, 0.0, float("inf"))}, "finite"),
        ({"fit": (-1.0, -0.8, 0.0, 0.5, 0.4, 2.0)}, "never to fall"),
        ({"fit": (-1.0, -0.8, 0.1, 0.5, 2.0, 2.0)}, "through 0"),
        ({"useful_scales": (-1.5, 2.0)}, "useful range"),
        ({"useful_scales": (1.0, 2.0)}, "useful range"),
    ],
)
def test_values_that_do_not_belong_together_are_refused(changes: dict[str, tuple[float, ...]], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(CALIBRATION, **changes)


def test_one_unit_for_sliders_that_are_turned_together() -> None:
    smile = replace(CALIBRATION, target="smile")
    assert common_unit([CALIBRATION, smile]) == CALIBRATION.unit
    with pytest.raises(InputError, match=r"standard deviation \(probe\) for age and CLIP score for sky"):
        common_unit([CALIBRATION, replace(CALIBRATION, target="sky", unit="CLIP score")])
    with pytest.raises(InputError, match="no calibrated slider"):
        common_unit([])


def test_other_settings_are_told_in_one_sentence() -> None:
    same = SamplerConfig(16, start_timestep=750, schedule={750.0: 1.0})
    assert check_settings(CALIBRATION, "abc", asdict(same)) is None
    assert check_settings(CALIBRATION, "abc", asdict(replace(same, fold="never"))) is None
    told = check_settings(CALIBRATION, "other", asdict(replace(same, num_inference_steps=25)))
    assert told is not None
    assert "num_inference_steps=25 instead of 16, another model" in told


@pytest.fixture
def slider(backbone: Backbone) -> Slider:
    return Slider(backbone.unet, AdapterConfig(rank=1))


def test_a_slider_file_keeps_its_calibration(slider: Slider, tmp_path: Path) -> None:
    for calibration in (CALIBRATION, None):
        path = tmp_path / "slider.safetensors"
        metadata = SliderMetadata.of(slider.config, calibration=calibration, useful_scales=(-2, 2))
        save_slider(path, slider, metadata)
        assert load_slider(path)[1] == metadata


def rewritten(path: Path, change: dict[str, object] | None) -> Path:
    """The same slider file with another calibration in its header; None: as files were before there was any."""
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    fields = json.loads(header["slider_lightning"])
    calibration = fields.pop("calibration")
    if change is not None:
        fields["calibration"] = {**calibration, **change}
    save_file(load_file(path), path, metadata={**header, "slider_lightning": json.dumps(fields)})
    return path


def test_files_without_one_load_and_damaged_ones_are_named(slider: Slider, tmp_path: Path) -> None:
    path = tmp_path / "slider.safetensors"
    save_slider(path, slider, SliderMetadata.of(slider.config, calibration=CALIBRATION))
    with pytest.raises(InputError, match="metadata cannot be read"):
        load_slider(rewritten(path, {"scales": [0, 1]}))
    save_slider(path, slider, SliderMetadata.of(slider.config, calibration=CALIBRATION))
    assert load_slider(rewritten(path, None))[1].calibration is None
