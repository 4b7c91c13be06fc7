"""Calibrating a run on the shipped world: what it stores, what it makes anew, and the check on other seeds."""

import pytest
import torch

from evaluation.calibrate import METHOD, calibrate
from evaluation.calibration import CalibrationConfig
from evaluation.calibration_check import CALIBRATED, RAW, Knob, check_figure, check_record, check_table, disagreement
from evaluation.check_calibration import calibration_in, check_slider
from evaluation.dose import Response, UsefulRule, allowed, joined
from evaluation.evaluate import run_config
from evaluation.grids import SliderMethod
from evaluation.measurements import Measurements
from evaluation.report import markdown
from evaluation.scale_sweeps import attribute_shift
from evaluation.setup import build_setup
from slider_lightning.adapters import Calibration, load_slider
from slider_lightning.config import build
from slider_lightning.errors import InputError
from slider_lightning.train import train
from slider_lightning.training import RunFolder
from tests.conftest import composed

# A few steps of a slider that is strong by its alpha, so that 4 seeds show its effect.
QUICK = (
    "trainer.max_steps=6",
    "trainer.progress_bar=false",
    "adapter.alpha=64",
    "data.source.num_rollouts=2",
    "data.source.rollout.num_inference_steps=6",
    "sampler.num_inference_steps=4",
    "strip=none",
    "evaluation.prompts.seeds_per_prompt=4",
)
CONFIG = CalibrationConfig(scales=(-2.0, -1.0, 0.0, 1.0, 2.0))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("calibrate")
    places = (f"run={folder}/run", f"paths.cache={folder}/cache", f"paths.outputs={folder}")
    return train(composed("train", "experiment=age", *QUICK, *places))


@pytest.fixture(scope="module")
def before(run: RunFolder) -> dict[str, object]:
    """What the slider file said before the calibration."""
    slider, metadata = load_slider(run.slider)
    key = SliderMethod(METHOD, (str(run.slider),)).depends_on()
    assert metadata.calibration is None
    with pytest.raises(InputError, match=r"evaluation\.calibrate run="):
        calibration_in(run)
    return {"weights": slider.state_dict(), "rank": metadata.rank, "key": key}


@pytest.fixture(scope="module")
def calibration(run: RunFolder, before: dict[str, object]) -> Calibration:
    return calibrate(run, CONFIG)


@pytest.fixture(scope="module")
def measurements(run: RunFolder, calibration: Calibration) -> Measurements:
    return build_setup(run_config(run, {})).measure(SliderMethod(METHOD, (str(run.slider),)))


def test_the_slider_file_keeps_its_weights_and_gains_a_calibration(
    run: RunFolder, before: dict[str, object], calibration: Calibration
) -> None:
    slider, metadata = load_slider(run.slider)
    weights = before["weights"]
    assert isinstance(weights, dict)
    assert all(torch.equal(value, weights[name]) for name, value in slider.state_dict().items())
    assert metadata.calibration == calibration
    assert metadata.useful_scales == calibration.useful_scales
    assert metadata.rank == before["rank"]
    assert SliderMethod(METHOD, (str(run.slider),)).depends_on() == before["key"]
    assert calibration.sampler["num_inference_steps"] == 4
    assert (calibration.rows, calibration.prompts) == (4, ("image of a person",))


def test_effects_are_the_shifts_that_an_evaluation_measures(
    run: RunFolder, calibration: Calibration, measurements: Measurements
) -> None:
    assert calibration.unit == "standard deviation (tiny_faces probe)"
    for column, effect in enumerate(calibration.effects):
        assert effect == pytest.approx(attribute_shift(measurements.sweep(), "age", column).mean, abs=1e-9)
    summary = run.read_summary()
    assert summary["calibration/effect/+1"]["mean"] == calibration.effects[3]
    assert summary["calibration/useful_scales"] == list(calibration.useful_scales)
    assert (run.path / "calibration.png").is_file()


def test_a_second_time_nothing_is_generated(run: RunFolder, calibration: Calibration) -> None:
    assert run.read_summary()["cost/sample_forwards/calibration"] > 0
    assert calibrate(run, CONFIG) == calibration
    assert run.read_summary()["cost/sample_forwards/calibration"] == 0


def test_rounds_of_scales_join_to_one_measurement(measurements: Measurements) -> None:
    inner, outer = measurements.at_scales((-1.0, 1.0)), measurements.at_scales((-2.0, 2.0))
    whole = joined(inner, outer)
    assert whole.header.scales == measurements.header.scales
    assert whole.frame.equals(measurements.frame)


def test_without_a_target_the_clip_scores_measure(measurements: Measurements) -> None:
    response = Response.of(measurements, None, UsefulRule())
    assert response.unit.startswith("CLIP score, positive minus negative prompt (")
    difference = measurements.change("clip/positive", 2.0) - measurements.change("clip/negative", 2.0)
    torch.testing.assert_close(response.changes[:, -1], difference)


def test_limits_forbid_the_scales_that_break_them(measurements: Measurements) -> None:
    distance = measurements.values("distance").mean(0)
    limit = float(distance[[1, 3]].max())
    assert allowed(measurements, UsefulRule(largest_distance=limit), "age") == tuple((distance <= limit).tolist())
    strict = allowed(measurements, UsefulRule(largest_drift=1e-9), "age")
    assert strict == (False, False, True, False, False)


def test_a_check_measures_what_units_do_on_other_seeds(run: RunFolder, calibration: Calibration) -> None:
    places = (-0.5, 0.0, 0.5)
    knobs = check_slider(run, calibration, places, 5000, {})
    assert knobs[RAW].asked == knobs[CALIBRATED].asked == places
    scales = [calibration.scale_of(at) for at in places]
    held_out = {"evaluation": {"prompts": {"first_seed": 5000}, "scales": scales}}
    again = build_setup(run_config(run, held_out)).measure(SliderMethod(METHOD, (str(run.slider),)))
    shift = attribute_shift(again.sweep(), "age", 2).mean
    # Images of 8 bits made in other batches.
    assert knobs[CALIBRATED].effects[0.5].mean == pytest.approx(shift, abs=0.05)
    with pytest.raises(InputError, match="apart from the run's"):
        check_slider(run, calibration, places, 1003, {})


def knob(*effects: float, asked: tuple[float, ...] = (-1.0, 0.0, 1.0)) -> Knob:
    return Knob(asked, torch.tensor([effects, effects], dtype=torch.double))


def test_uneven_and_disagreeing_knobs_are_told_by_ratios() -> None:
    assert knob(-0.5, 0.0, 2.0).unevenness == 4
    assert knob(0.5, 0.0, 2.0).unevenness == float("inf")
    assert disagreement([knob(-1.0, 0.0, 0.5), knob(-2.0, 0.0, 1.5)], 1.0) == 3
    assert disagreement([knob(-1.0, 0.0, 0.5), knob(-2.0, 0.0, 1.5)], -1.0) == 2
    short = knob(0.0, 0.9, asked=(0.0, 1.0))
    checked = {
        "age": {RAW: knob(-0.5, 0.0, 2.0), CALIBRATED: knob(-1.0, 0.0, 1.1)},
        "glasses": {RAW: knob(-0.1, 0.0, 0.5), CALIBRATED: short},
    }
    record = check_record(checked)
    assert record["slider_scale/disagreement/+1"] == 4
    assert record["calibrated_units/disagreement/+1"] == pytest.approx(1.1 / 0.9)
    assert record["calibrated_units/largest_miss"] == pytest.approx(0.1)
    assert "calibrated_units/disagreement/-1" not in record
    text = markdown(check_table(checked, "sd", 2))
    assert "out of range" in text
    assert "by slider scale: 5.00 at -1, 4.00 at +1" in text
    assert len(check_figure(checked, "sd").axes) == 2


def test_the_commands_compose() -> None:
    config = build(composed("calibrate", "run=outputs/age/x", "calibration.scales=[-1,0,1]")["calibration"])
    assert config == CalibrationConfig(scales=(-1.0, 0.0, 1.0))
    assert build(composed("calibrate", "run=outputs/age/x")["calibration"]) == CalibrationConfig()
    assert composed("check_calibration", "runs=[outputs/age/x]")["places"] == [-1, -0.5, 0, 0.5, 1]
    with_prompts = composed("calibrate", "run=outputs/age/x", "+prompts@evaluation.prompts=tiny_faces")
    assert with_prompts["evaluation"]["prompts"]["prompts"]["nouns"] == ["a person", "a man", "a woman"]
