"""`train` and `ensure_trained` as other programs call them, from a composed config to a run folder."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from slider_lightning.adapters import DenseConfig, DenseSlider, Slider, load_slider
from slider_lightning.train import ensure_trained, train
from slider_lightning.training import RunFolder
from tests.conftest import composed


@pytest.fixture
def config_of(pipeline_folder: Path, tmp_path: Path):
    """The config of a quick training on the smallest model."""

    def compose(*overrides: str) -> dict[str, Any]:
        return composed(
            "train",
            f"model.path={pipeline_folder}",
            f"paths.outputs={tmp_path}/outputs",
            f"paths.cache={tmp_path}/cache",
            "trainer.max_steps=2",
            "trainer.progress_bar=false",
            "data.source.num_rollouts=1",
            "data.source.rollout.num_inference_steps=3",
            "sampler.num_inference_steps=3",
            "strip.seeds=[0]",
            "strip.scales=[-1,1]",
            *overrides,
        )

    return compose


def forwards(run: RunFolder, stage: str) -> int:
    return run.read_summary()[f"cost/sample_forwards/{stage}"]


def test_a_projected_slider_tells_its_projection_and_pays_for_its_contrasts(config_of) -> None:
    run = train(config_of("experiment=age_projected_half"))
    slider, metadata = load_slider(run.slider)
    assert isinstance(slider, Slider)
    assert metadata.project == {
        "contrasts": [
            ["a person, male", "a person, female"],
            ["a person, with glasses", "a person, without glasses"],
        ],
        "method": "least_squares",
        "strength": 0.5,
    }
    assert (metadata.objective, metadata.eta, metadata.concept["preserve"]) == ("text_enhance", 1.0, [])
    assert forwards(run, "cache") == 3 * (2 + 2 * 1 + 2 * 2) - 1
    assert load_slider(train(config_of("experiment=age")).slider)[1].project is None


def test_a_dense_slider_is_trained_and_drawn_by_the_same_command(config_of) -> None:
    run = train(config_of("experiment=age_dense"))
    slider, metadata = load_slider(run.slider)
    assert isinstance(slider, DenseSlider)
    assert (metadata.adapter_config, metadata.rank) == (DenseConfig("noxattn"), None)
    assert run.strip.exists()


def test_a_finished_run_is_taken_as_it_is_and_an_unfinished_one_goes_on(config_of) -> None:
    config = config_of("experiment=age")
    run = ensure_trained(config)
    assert run == RunFolder(Path(config["run"]))
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    weights = load_slider(run.slider)[0].state_dict()
    assert ensure_trained(config_of("experiment=age", "trainer.progress_bar=false")) == run
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before

    run.manifest.unlink()
    run.slider.unlink()
    assert ensure_trained(config) == run
    assert run.manifest.exists()
    again = load_slider(run.slider)[0].state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in weights.items())
    assert forwards(run, "train") == 2 * 2 * config["data"]["batch_size"], "nothing was trained again"


def test_a_folder_of_another_config_is_trained_anew(config_of) -> None:
    run = ensure_trained(config_of("experiment=age"))
    other = config_of("experiment=age", f"run={run.path}", "optimizer.lr=1e-3")
    weights = load_slider(run.slider)[0].state_dict()
    assert ensure_trained(other) == run
    again = load_slider(run.slider)[0].state_dict()
    assert not any(torch.equal(again[name], tensor) for name, tensor in weights.items())
    assert yaml.safe_load(run.config.read_text())["optimizer"]["lr"] == 1e-3
