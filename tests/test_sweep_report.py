"""The report of a sweep: pure functions of points, and folders that are none."""

import json
from pathlib import Path

import pytest

from evaluation.report import csv_text, markdown
from evaluation.search import check_study, objectives
from evaluation.statistics import Measure
from evaluation.sweep import folder_first
from evaluation.sweep_figures import sweep_figures
from evaluation.sweep_points import Point, measured_points, read_sweep
from evaluation.sweep_report import pareto_front, quantities, sweep_table
from slider_lightning.errors import InputError

RANK, ETA, SEED = "adapter.rank", "objective.eta", "seed"


def measure(mean: float) -> Measure:
    return Measure(mean, (mean - 0.1, mean + 0.1), 8)


def point(shift: float, interference: float, **values: float) -> Point:
    names = {"rank": RANK, "eta": ETA, "seed": SEED}
    figures = {
        "eval/attribute_range/age": measure(shift),
        "eval/monotone_share": measure(0.9),
        "eval/selectivity": measure(3.0),
        "eval/interference": measure(interference),
        "eval/distance/+2": measure(0.2),
        "eval/distance/+1": measure(0.7),
    }
    costs = {"cost/seconds/cache": 2.0, "cost/seconds/train": 5.0, "cost/sample_forwards/train": 40.0}
    axes = {names[key]: float(value) for key, value in values.items()}
    settings = {"scales": [-2, 0, 1, 2], "target": "age"}
    return Point(axes, f"outputs/age/{len(axes)}{shift:g}", "finished", "", figures, costs, "age", settings)


def failed(**values: float) -> Point:
    return Point({RANK: float(values["rank"]), ETA: float(values["eta"])}, "", "failed", "Expected a rank.")


GRID = [point(rank * eta, 0.1 * eta, rank=rank, eta=eta) for rank in (1, 4) for eta in (1, 2, 4)]


def test_the_front_is_what_no_other_point_beats() -> None:
    low, high, beaten, twin = (point(*each, rank=1) for each in ((1, 0.1), (3, 0.4), (2, 0.5), (3, 0.4)))
    assert pareto_front([low, high, beaten, twin]) == (low, high, twin)
    assert pareto_front([failed(rank=1, eta=1)]) == ()


def test_a_table_has_every_axis_figure_cost_and_failure() -> None:
    table = sweep_table("Sweep", [*GRID, failed(rank=-1, eta=1)])
    names = [column.name for column in table.columns]
    assert names[:2] == [RANK, ETA]
    assert {"target shift", "monotone share", "selectivity", "interference", "distance"} < set(names)
    text = markdown(table)
    assert "Expected a rank." in text
    first = dict(zip(names, table.rows[0].cells, strict=True))
    assert first["seconds"].text == "7"
    assert first["sample-forwards"].text == "40"
    assert first["distance"].measure == measure(0.2), "at the highest scale"
    assert "failed" in csv_text(table)


def test_every_pair_of_axes_has_a_heatmap_and_one_axis_a_curve() -> None:
    assert set(sweep_figures([*GRID, failed(rank=-1, eta=1)])) == {"trade_off", f"heatmap-{RANK}-{ETA}"}
    assert set(sweep_figures([point(eta, 0.1, eta=eta) for eta in (1, 2)])) == {"trade_off", "curve"}
    three = [point(r * e * s, 0.1, rank=r, eta=e, seed=s) for r in (1, 2) for e in (1, 2) for s in (1, 2, 3)]
    figures = sweep_figures(three)
    assert {name for name in figures if name != "trade_off"} == {
        f"heatmap-{a}-{b}" for a, b in ((RANK, ETA), (RANK, SEED), (ETA, SEED))
    }
    assert len(figures[f"heatmap-{RANK}-{ETA}"].axes) == 3 * len(quantities(three[0])), "one panel per seed"
    scattered = [point(i, 0.1, rank=i, eta=10 - i) for i in range(6)]
    assert set(sweep_figures(scattered)) == {"trade_off"}, "a search has no grid to draw"
    assert sweep_figures([failed(rank=1, eta=1)]) == {}


def test_a_grid_is_read_and_a_missing_run_fails_alone(tmp_path: Path) -> None:
    runs = [{"overrides": {RANK: rank}, "run": str(tmp_path / str(rank))} for rank in (16, 4)]
    (tmp_path / "grid.json").write_text(json.dumps({"axes": {RANK: [16, 4]}, "runs": runs}))
    sweep = read_sweep(tmp_path)
    assert sweep.axes == (RANK,)
    points = measured_points(sweep, {}, True, lambda done, total: None)
    assert [p.values[RANK] for p in points] == [4.0, 16.0]
    assert all(p.status == "failed" and "does not exist" in p.error for p in points)
    (tmp_path / "grid.json").write_text("{}")
    with pytest.raises(InputError, match=r"grid\.json"):
        read_sweep(tmp_path)


def test_a_folder_that_is_no_sweep_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"points\.jsonl nor grid\.json"):
        read_sweep(tmp_path)
    assert folder_first(["outputs/sweeps/x", "evaluate=false", "-h"]) == [
        "folder='outputs/sweeps/x'",
        "evaluate=false",
        "-h",
    ]


def test_a_study_goes_on_with_its_own_settings_only(tmp_path: Path) -> None:
    config = {"adapter": {"rank": 1, "alpha": 1.0}, "seed": 0, "paths": {"outputs": "a"}}
    check_study(tmp_path, config, [RANK])
    check_study(tmp_path, {**config, "adapter": {"rank": 2, "alpha": 1.0}, "paths": {"outputs": "b"}}, [RANK])
    with pytest.raises(InputError, match="study=NAME"):
        check_study(tmp_path, {**config, "seed": 1}, [RANK])
    assert objectives(point(2.0, 0.25, rank=1).figures or {}, "age") == (2.0, 0.25)
