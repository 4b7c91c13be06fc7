"""Ablations: the axes give the points they promise, records gather them, and table and figure follow from records."""

import csv
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments.paper.ablation import main
from experiments.paper.ablation_figure import ablation_figure
from experiments.paper.ablation_records import (
    RECORDS_FILE,
    AblationConfig,
    Point,
    PointRecord,
    Setting,
    point_of,
    read_points,
    setting_of,
    sweep_folder,
    write_point,
)
from experiments.paper.ablation_report import ablation_table, write_report
from slider_lightning.adapters import LAYER_SETS
from slider_lightning.config import CONF, build, register_resolvers
from slider_lightning.errors import InputError
from tests.conftest import composed
from tests.report_measurements import linear_slider

AXES = sorted(path.stem for path in (CONF / "ablation").glob("*.yaml"))
COMBINATIONS = ["male, with glasses", "male, without glasses", "female, with glasses", "female, without glasses"]
REPORT = ("table.md", "table.tex", "table.csv", "figure.png", "figure.pdf")
RANK, ETA = "adapter.rank", "objective.eta"
SETTING = Setting("Rank and eta", {RANK: "rank", ETA: "eta"}, {RANK: 4, ETA: 1.0}, "age", "age", ("gender",))
ALPHA = replace(SETTING, title="Alpha", axes={"adapter.alpha": "alpha"}, reference={"adapter.alpha": 4.0})


def swept(axis: str) -> list[list[str]]:
    """The command lines of an axis' points, as Hydra's own sweeper makes them."""
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("ablation", [f"ablation={axis}"], return_hydra_config=True)
        assert config.hydra.mode.name == "MULTIRUN"
        params = [f"{key}={values}" for key, values in config.hydra.sweeper.params.items()]
        (batch,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(params), None)
    return batch


@cache
def point_configs(axis: str) -> list[dict[str, Any]]:
    return [composed("ablation", f"ablation={axis}", *overrides) for overrides in swept(axis)]


def points(axis: str) -> list[Any]:
    values = [list(point_of(config, config["ablation"]["axes"]).values()) for config in point_configs(axis)]
    return [value[0] if len(value) == 1 else tuple(value) for value in values]


def point(setting: Setting, *values: Any, slope: float = 0.0, flip_from: float | None = None) -> Point:
    """A point whose slider moves age by 4 x `slope` standard deviations between -2 and +2."""
    record = PointRecord(dict(zip(setting.axes, values, strict=True)), setting, run="outputs/age/12345678")
    return Point(record, linear_slider(slope, flip_from, scales=(-2.0, 0.0, 2.0)))


def failed(setting: Setting, *values: Any) -> Point:
    return Point(PointRecord(dict(zip(setting.axes, values, strict=True)), setting, error="Expected more room."), None)


def write(folder: Path, *points: Point) -> None:
    for each in points:
        write_point(folder, each.record, each.measurements)


def run_command(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> None:
    """The command, in a folder of its own."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["ablation", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        ("rank_eta", [(rank, eta) for rank in (1, 4, 16) for eta in (0.5, 1.0, 2.0)]),
        ("alpha", [1, 2, 4, 8]),
        ("layers", ["noxattn", "xattn", "selfattn", "full"]),
        ("start_timestep", [500, 600, 700, 750, 800, 850, 1000]),
        ("preserve", [[], ["male"], ["male", "female"], COMBINATIONS]),
        ("rollouts", [16, 8, 4, 2, 1]),
        ("slider_on", ["both", "conditional"]),
    ],
)
def test_an_axis_gives_its_points(axis: str, expected: list[Any]) -> None:
    assert points(axis) == expected


def test_every_axis_is_tested_and_the_layer_axis_is_whole() -> None:
    assert {"rank_eta", "alpha", "layers", "start_timestep", "preserve", "rollouts", "slider_on"} == set(AXES)
    assert set(points("layers")) == set(LAYER_SETS)


@pytest.mark.parametrize("axis", AXES)
def test_the_points_of_an_axis_meet_in_one_folder_and_hold_the_reference(axis: str) -> None:
    configs = point_configs(axis)
    ablations: list[AblationConfig] = [build(config["ablation"]) for config in configs]
    folders = {sweep_folder(config, a) for config, a in zip(configs, ablations, strict=True)}
    assert len(folders) == 1
    assert ablations[0].reference in [point_of(config, ablations[0].axes) for config in configs]
    trained = composed("train", "experiment=age")["run"]
    assert trained in {config["run"] for config in configs}, "the reference is the run that experiment=age trains"


def test_another_sampler_or_concept_has_a_folder_of_its_own() -> None:
    scales = "ablation.measure.evaluation.scales=[-1,0,1]"
    others = ([], ["sampler.num_inference_steps=7"], ["experiment=smile"], [scales])
    configs = [composed("ablation", "ablation=layers", *other) for other in others]
    assert len({sweep_folder(config, build(config["ablation"])) for config in configs}) == len(others)


@pytest.mark.parametrize("axis", ["start_timestep", "slider_on"])
def test_axes_of_generation_train_one_slider(axis: str) -> None:
    configs = point_configs(axis)
    assert len({config["run"] for config in configs}) == 1
    assert [config["ablation"]["measure"]["sampler"][axis] for config in configs] == points(axis)


def test_the_setting_says_what_is_measured() -> None:
    config = composed("ablation", "ablation=alpha", "adapter.alpha=1.0")
    setting = setting_of(config, build(config["ablation"]))
    assert (setting.concept, setting.target, setting.protected) == ("age", "age", ("gender", "glasses"))
    assert setting.title == "LoRA alpha at rank 4"


def test_an_axis_that_is_no_key_is_named() -> None:
    config = composed("ablation", "ablation=alpha", "adapter.alpha=1.0")
    config["ablation"] |= {"axes": {"adapter.beta": "beta"}, "reference": {"adapter.beta": 1}}
    with pytest.raises(InputError, match=r"adapter\.beta"):
        sweep_folder(config, build(config["ablation"]))


@pytest.mark.parametrize(
    ("axes", "reference", "word"), [({}, {}, "one or two"), ({RANK: "rank"}, {ETA: 1.0}, RANK), ({RANK: "r"}, {}, RANK)]
)
def test_an_ablation_without_axis_or_reference_is_refused(
    axes: dict[str, str], reference: dict[str, Any], word: str
) -> None:
    with pytest.raises(InputError, match=word):
        AblationConfig("name", "title", axes, reference, {})


def test_scales_that_are_not_even_are_refused() -> None:
    config = composed("ablation", "ablation=layers", "ablation.measure.evaluation.scales=[0,1,2]")
    with pytest.raises(InputError, match="scales"):
        setting_of(config, build(config["ablation"]))


def test_points_come_back_in_order_and_a_point_again_replaces_itself(tmp_path: Path) -> None:
    values = ((16, 0.5, 0.1), (1, 2.0, 0.2), (4, 1.0, 0.3), (16, 0.5, 0.4))
    write(tmp_path, *(point(SETTING, rank, eta, slope=slope) for rank, eta, slope in values))
    found = read_points(tmp_path)
    assert [tuple(p.record.point.values()) for p in found] == [(1, 2.0), (4, 1.0), (16, 0.5)]
    assert found[-1].measurements
    assert found[-1].measurements.frame.equals(linear_slider(0.4, scales=(-2.0, 0.0, 2.0)).frame)
    assert len(list((tmp_path / "measurements").iterdir())) == 3


@pytest.mark.parametrize("line", ['{"point": {}}\n', "{\n", '{"setting": {}, "error": ""}\n'])
def test_a_damaged_record_names_the_file(tmp_path: Path, line: str) -> None:
    (tmp_path / RECORDS_FILE).write_text(line)
    with pytest.raises(InputError, match=RECORDS_FILE):
        read_points(tmp_path)


def test_the_table_compares_every_point_with_the_reference_row_by_row() -> None:
    table = ablation_table([point(SETTING, 1, 1.0, slope=0.5, flip_from=1), point(SETTING, 4, 1.0, slope=1.5)])
    assert (table.rows[0].group, table.rows[0].name, table.heads) == ("1", "1", ("rank", "eta"))
    assert table.reference == "rank = 4, eta = 1"
    assert all(cell.test is None for cell in table.rows[1].cells), "the reference is compared with nothing"
    effect, flipped = table.rows[0].cells[:2]
    assert effect.measure
    assert effect.test
    assert effect.measure.mean == pytest.approx(4 * 0.5)
    assert effect.test.difference.mean == pytest.approx(4 * (0.5 - 1.5))
    assert effect.test.difference.ci95 == pytest.approx((-4.0, -4.0)), "rows that all change alike leave no doubt"
    assert flipped.test
    assert flipped.test.difference.mean == pytest.approx(0.5), "every second row flips at both ends, none before"
    assert (flipped.test.difference.n, effect.test.difference.n) == (16, 8)


def test_without_the_reference_nothing_is_compared_and_without_target_no_effect_is_told() -> None:
    blind = replace(ALPHA, target=None, protected=())
    table = ablation_table([point(blind, 1.0), point(blind, 2.0)])
    assert [column.name for column in table.columns] == ["test distance at +2", "dCLIP at +2"]
    assert all(cell.test is None for row in table.rows for cell in row.cells)


def test_points_on_other_rows_are_refused() -> None:
    other = Point(point(ALPHA, 1.0).record, linear_slider(0.5, rows=4, scales=(-2.0, 0.0, 2.0)))
    with pytest.raises(InputError, match="seeds"):
        ablation_table([other, point(ALPHA, 4.0)])


def test_a_point_that_failed_says_so_and_the_rest_is_reported(tmp_path: Path) -> None:
    write(tmp_path, point(ALPHA, 4.0, slope=1.0), failed(ALPHA, -1.0))
    write_report(tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert "Failed: alpha = -1: Expected more room." in text
    assert "| -1 | failed | failed |" in text
    assert "| 4 | 4.00 [" in text


def test_a_sweep_of_which_every_point_failed_has_a_table(tmp_path: Path) -> None:
    write(tmp_path, failed(ALPHA, -1.0))
    write_report(tmp_path)
    assert "Expected more room." in (tmp_path / "table.md").read_text()


def test_the_report_is_rebuilt_from_the_records_alone(tmp_path: Path) -> None:
    write(tmp_path, *(point(ALPHA, alpha, slope=alpha) for alpha in (1.0, 4.0, 8.0)))
    write_report(tmp_path)
    first = {name: (tmp_path / name).read_bytes() for name in REPORT}
    for name in REPORT:
        (tmp_path / name).unlink()
    write_report(tmp_path)
    assert first == {name: (tmp_path / name).read_bytes() for name in REPORT}
    rows = list(csv.DictReader(first["table.csv"].decode().splitlines()))
    measured = [row for row in rows if row["block"] == "measured" and row["column"].startswith("effect")]
    assert {row["row"]: float(row["mean"]) for row in measured} == pytest.approx({"1": 4.0, "4": 16.0, "8": 32.0})


def test_a_curve_shows_figures_with_their_intervals() -> None:
    points = [point(ALPHA, alpha, slope=alpha, flip_from=1 if alpha == 8 else None) for alpha in (1.0, 2.0, 8.0)]
    effect, flipped = ablation_figure(points).axes[:2]
    line = effect.containers[0][0]
    assert line.get_xdata().tolist() == [1.0, 2.0, 8.0]
    assert line.get_ydata() == pytest.approx([4.0, 8.0, 32.0])
    (bars,) = flipped.containers[0][2]
    low, high = bars.get_segments()[2][:, 1]
    assert 0 < low < 0.5 < high < 1, "half of the rows flip"
    assert np.allclose(bars.get_segments()[0][:, 1], 0)
    assert (effect.get_xlabel(), effect.get_xscale()) == ("alpha", "log")


def test_a_heatmap_places_figures_and_leaves_failed_points_blank() -> None:
    slopes = {(1, 0.5): 0.25, (1, 2.0): 0.5, (4, 0.5): 0.75}
    points = [point(SETTING, rank, eta, slope=slope) for (rank, eta), slope in slopes.items()]
    panel = ablation_figure([*points, failed(SETTING, 4, 2.0)]).axes[0]
    shown = panel.images[0].get_array().filled(np.nan)
    assert np.allclose(shown, [[1.0, 2.0], [3.0, np.nan]], equal_nan=True)
    assert [tick.get_text() for tick in panel.get_xticklabels()] == ["0.5", "2"]
    assert [tick.get_text() for tick in panel.get_yticklabels()] == ["1", "4"]
    assert len(panel.texts) == 3


def test_an_axis_of_words_or_lists_is_drawn_in_places() -> None:
    key = "concept.preserve"
    setting = replace(SETTING, axes={key: "phrases"}, reference={key: []})
    points = [point(setting, phrases, slope=1.0) for phrases in ([], ["male"], COMBINATIONS)]
    panel = ablation_figure(points).axes[0]
    assert [tick.get_text() for tick in panel.get_xticklabels()] == ["0", "1", "4"]
    assert "phrases = 1: 'male'." in ablation_table(points).notes


@pytest.mark.parametrize("arguments", [["ablation=rnak"], []])
def test_an_unknown_axis_is_one_line_with_the_known_ones(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_command(monkeypatch, tmp_path, *arguments)
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert "rank_eta" in error


def test_a_sweep_reports_what_it_can_and_ends_with_the_point_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = (
        "trainer.max_steps=2",
        "trainer.progress_bar=false",
        "data.source.num_rollouts=1",
        "data.source.rollout.num_inference_steps=3",
        "sampler.num_inference_steps=3",
        "strip.seeds=[0]",
        "strip.scales=[0,1]",
        "ablation.measure.evaluation.prompts.seeds_per_prompt=3",
    )
    run_command(monkeypatch, tmp_path, "ablation=rank_eta", "adapter.rank=0,2", "objective.eta=1.0", *quick)
    assert "adapter.rank=0 (Expected adapter.rank" in capsys.readouterr().err
    (records,) = (tmp_path / "outputs/ablations/rank_eta").glob(f"*/{RECORDS_FILE}")
    broken, measured = read_points(records.parent)
    assert broken.record.point[RANK] == 0
    assert "adapter.rank" in broken.record.error
    assert measured.record.point[RANK] == 2
    assert measured.measurements
    assert (len(measured.measurements.rows), measured.measurements.header.scales) == (3, (-2.0, 0.0, 2.0))
    assert (tmp_path / measured.record.run / "slider.safetensors").is_file()
    assert set(REPORT) <= {path.name for path in records.parent.iterdir()}
