"""The config of a run folder from a stranger: it runs nothing, fetches nothing and writes nowhere else."""

import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from evaluation.evaluate import SECTIONS, evaluate, run_config
from evaluation.sweep_points import read_sweep
from slider_lightning.errors import InputError
from slider_lightning.multirun import CONFIG_FILE, FINISHED, SweepPoint, add_point
from slider_lightning.training import RunFolder
from tests.conftest import composed


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of results, and no network."""

    def refused(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "outputs"


def run_with(outputs: Path, *place: str, value: Any) -> RunFolder:
    """A run of age whose stored config has a value at a place."""
    config = composed("train", "experiment=age", f"paths.outputs={outputs}")
    *parents, last = place
    node = config
    for name in parents:
        node = node[name]
    node[last] = value
    run = RunFolder(outputs / "age" / "0a1b2c3d")
    run.path.mkdir(parents=True)
    run.write_config(yaml.safe_dump(config))
    return run


def test_an_honest_config_is_taken_as_it_is(outputs: Path) -> None:
    run = run_with(outputs, "seed", value=0)
    assert run_config(run, {})["evaluation"]["grids"] == str(outputs / "grids")


@pytest.mark.parametrize("section", SECTIONS)
def test_code_that_a_config_names_is_not_run(section: str, outputs: Path, tmp_path: Path) -> None:
    victim = tmp_path / "ran"
    run = run_with(outputs, section, value={"_target_": "pathlib.Path.touch", "self": str(victim)})
    with pytest.raises(InputError, match=r"names 'pathlib\.Path\.touch'; nothing of it was run"):
        evaluate(run)
    assert not victim.exists()


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "slider_lightning.runs.shutil.rmtree",
        "slider_lightning.data.stylegan_pickle.open_stylegan",
        "evaluation.grids.read_image_folder",
    ],
)
def test_only_what_conf_ships_for_these_sections_is_built(target: str, outputs: Path) -> None:
    run = run_with(outputs, "judges", "clip", value={"_target_": target, "command": "true"})
    with pytest.raises(InputError, match=r"judges\.clip\._target_"):
        run_config(run, {})


def test_code_in_what_a_sweep_lays_over_its_runs_is_not_run(outputs: Path) -> None:
    run = run_with(outputs, "seed", value=0)
    with pytest.raises(InputError, match=r"sampler\._target_"):
        run_config(run, {"sampler": {"_target_": "os.system", "command": "true"}})


@pytest.mark.parametrize("place", [("model", "path"), ("judges", "parser", "source")])
def test_a_hub_id_is_fetched_only_when_the_user_names_it(place: tuple[str, ...], outputs: Path) -> None:
    run = run_with(outputs, *place, value="somebody/something")
    with pytest.raises(InputError, match="nothing was fetched") as caught:
        run_config(run, {})
    assert f"+{'.'.join(place)}=somebody/something" in str(caught.value)
    section, *rest = place
    named: Any = "somebody/something"
    for name in reversed(rest):
        named = {name: named}
    assert run_config(run, {section: named})


def test_a_shipped_hub_id_and_a_local_folder_are_known_places(outputs: Path, tmp_path: Path) -> None:
    sdxl = "stabilityai/stable-diffusion-xl-base-1.0"
    assert run_config(run_with(outputs, "model", "path", value=sdxl), {})["model"]["path"] == sdxl


@pytest.mark.parametrize("grids", ["/", "/somewhere/else", "../../elsewhere"])
def test_images_are_written_below_the_results_only(grids: str, outputs: Path) -> None:
    run = run_with(outputs, "evaluation", "grids", value=grids)
    with pytest.raises(InputError, match=r"\+evaluation\.grids=DIR"):
        run_config(run, {})
    assert run_config(run, {"evaluation": {"grids": grids}})["evaluation"]["grids"] == grids


@pytest.mark.parametrize(
    "measure",
    [
        {"model": {"path": "somebody/something"}},
        {"evaluation": {"grids": "/elsewhere"}},
        {"judges": {"_target_": "os"}},
    ],
)
def test_a_sweep_says_with_sampler_and_evaluation_alone_how_runs_are_measured(
    measure: dict[str, Any], outputs: Path
) -> None:
    folder = outputs / "sweeps" / "one"
    folder.mkdir(parents=True)
    add_point(folder, SweepPoint({"seed": "0"}, str(outputs / "age" / "0a1b2c3d"), FINISHED))
    (folder / CONFIG_FILE).write_text(yaml.safe_dump({"measure": measure}))
    with pytest.raises(InputError, match="with sampler and evaluation alone"):
        read_sweep(folder)
    (folder / CONFIG_FILE).write_text(yaml.safe_dump({"measure": {"evaluation": {"scales": [-1, 0, 1]}}}))
    assert read_sweep(folder).measure == {"evaluation": {"scales": [-1, 0, 1]}}


def test_no_environment_variable_is_read_for_a_stored_config(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hidden")
    run = run_with(outputs, "evaluation", "edit_prompt", value="${oc.env:SECRET}")
    assert run_config(run, {})["evaluation"]["edit_prompt"] == "${oc.env:SECRET}"
