"""The public commands on the shipped world, from a config to a run folder, an evaluation and a strip."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import wandb
import yaml
from PIL import Image

from evaluation.evaluate import evaluate
from slider_lightning.adapters import Calibration, load_slider, save_slider
from slider_lightning.errors import InputError
from slider_lightning.generate import generate
from slider_lightning.generation import LAYOUTS
from slider_lightning.train import train
from slider_lightning.training import RunFolder
from tests.conftest import composed

QUICK = (
    "trainer.max_steps=6",
    "trainer.progress_bar=false",
    "data.source.num_rollouts=2",
    "data.source.rollout.num_inference_steps=6",
    "sampler.num_inference_steps=6",
    "strip.seeds=[0,1]",
    "strip.scales=[-1,0,1]",
    "evaluation.prompts.seeds_per_prompt=4",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A quick training of the age slider, logged to W&B offline."""
    folder = tmp_path_factory.mktemp("command")
    places = (f"run={folder}/run", f"paths.cache={folder}/cache", f"paths.outputs={folder}")
    places += ("logger=wandb", "logger.offline=true")
    return train(composed("train", "experiment=age", *QUICK, *places))


def test_a_run_folder_holds_what_the_design_says(run: RunFolder) -> None:
    for path in (run.config, run.slider, run.checkpoints, run.metrics, run.summary, run.strip, run.manifest):
        assert path.exists(), path.name
    assert yaml.safe_load(run.config.read_text())["concept"]["name"] == "age"
    assert [line["step"] for line in run.read_metrics()] == [4]
    assert {"versions", "seeds", "assets", "seconds"} <= set(run.read_manifest())
    assert list((run.path / "wandb").glob("offline-run-*"))


def test_a_training_that_fails_ends_its_run_of_wandb(tmp_path: Path) -> None:
    places = (f"run={tmp_path}/run", f"paths.cache={tmp_path}/cache", "logger=wandb", "logger.offline=true")
    with pytest.raises(InputError, match="lower optimizer"):
        train(composed("train", "experiment=age", *QUICK, *places, "optimizer.lr=1e18", "trainer.log_every_n_steps=1"))
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert wandb.run is None


def test_costs_are_counted_exactly(run: RunFolder) -> None:
    summary = run.read_summary()
    preserved, rollouts, steps = 4, 2, 6
    assert summary["cost/sample_forwards/cache"] == rollouts * (steps * (2 + 2 * preserved) - 1)
    assert summary["cost/sample_forwards/train"] == 6 * 2 * 4
    assert summary["cost/seconds/train"] > 0


def test_evaluate_fills_the_summary_with_flat_measures(run: RunFolder) -> None:
    measures = evaluate(run, {"evaluation": {"scales": [-1, 0, 1]}})
    summary = json.loads(run.summary.read_text())
    for key in ("eval/attribute_shift/age/+1", "eval/monotone_share", "eval/selectivity", "eval/interference"):
        assert set(summary[key]) >= {"mean", "ci95", "n"}
    assert measures["eval/attribute_shift/age/+1"].n == 4


def test_generate_reads_runs_and_files_and_composes_them(run: RunFolder, tmp_path: Path) -> None:
    out = tmp_path / "strip.png"
    sliders = f"sliders=[{run.path},{run.slider}]"
    options = (
        "prompt='image of a person'",
        "seeds=[0]",
        "scales=[-1,[0,1]]",
        "sampler.num_inference_steps=4",
        f"out={out}",
    )
    assert generate(composed("generate", sliders, *options)) == out
    assert Image.open(out).width > 2 * 96


def test_a_run_without_a_slider_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("{}\n")
    with pytest.raises(InputError, match=r"slider\.safetensors"):
        generate(composed("generate", f"sliders=[{tmp_path}]", "prompt='a person'"))


def test_a_prompt_that_is_too_long_names_the_words_that_are_cut(run: RunFolder) -> None:
    long_prompt = " ".join(["person"] * 90)
    with pytest.raises(InputError, match="person"):
        generate(composed("generate", f"sliders=[{run.path}]", f"prompt='{long_prompt}'"))


def calibrated(run: RunFolder, path: Path, unit: str = "standard deviation (a probe)", **sampler: object) -> Path:
    """The run's slider with a response of half a unit per scale, saturated at 2."""
    slider, metadata = load_slider(run.slider)
    calibration = Calibration(
        target="age",
        unit=unit,
        scales=(-2.0, 0.0, 2.0, 4.0),
        effects=(-1.0, 0.0, 1.0, 1.0),
        lows=(-1.1, 0.0, 0.9, 0.9),
        highs=(-0.9, 0.0, 1.1, 1.1),
        fit=(-1.0, 0.0, 1.0, 1.0),
        useful_scales=(-2.0, 2.0),
        sampler=sampler,
    )
    save_slider(path, slider, replace(metadata, calibration=calibration))
    return path


def test_calibrated_units_become_the_scales_of_their_effects(run: RunFolder, tmp_path: Path, caplog) -> None:
    file = calibrated(run, tmp_path / "calibrated.safetensors", num_inference_steps=50)
    common = [f"sliders=[{file},{file}]", "prompt='a person'", "seeds=[0,1]", "sampler.num_inference_steps=2"]
    raw = ["scales=[[0,2],[1,-1]]", f"images={tmp_path}/raw", f"out={tmp_path}/raw.png"]
    units = ["units=calibrated", "scales=[[0,1],[0.5,-0.5]]", f"images={tmp_path}/units", f"out={tmp_path}/units.png"]
    generate(composed("generate", *common, *raw))
    assert "instead of 50" not in caplog.text
    generate(composed("generate", *common, *units))
    assert "num_inference_steps=2 instead of 50" in caplog.text
    names = ["seed0-000.png", "seed0-001.png", "seed1-000.png", "seed1-001.png"]
    for name in names:
        assert (tmp_path / "raw" / name).read_bytes() == (tmp_path / "units" / name).read_bytes()
    told = json.loads((tmp_path / "units" / "scales.json").read_text())
    assert list(told) == names
    assert list(told["seed1-001.png"].values()) == [1.0, -1.0]
    with pytest.raises(InputError, match=r"-1\.\.1"):
        generate(composed("generate", *common, "units=calibrated", "scales=[1.5]"))


def test_units_need_calibrations_in_one_unit(run: RunFolder, tmp_path: Path) -> None:
    common = ["prompt='a person'", "units=calibrated", "scales=[0.5]"]
    with pytest.raises(InputError, match=r"evaluation\.calibrate"):
        generate(composed("generate", f"sliders=[{run.path}]", *common))
    files = [calibrated(run, tmp_path / f"{unit}.safetensors", unit) for unit in ("probe", "CLIP")]
    with pytest.raises(InputError, match="one unit"):
        generate(composed("generate", f"sliders=[{files[0]},{files[1]}]", *common))


def test_layouts_and_a_slider_that_never_acts(run: RunFolder, tmp_path: Path, caplog) -> None:
    common = [
        f"sliders=[{run.path},{run.path}]",
        "prompt=['a person','a man']",
        "seeds=[0,1]",
        "scales=[-1,1]",
        "sampler.num_inference_steps=2",
    ]
    sizes = {}
    for layout in LAYOUTS:
        out = tmp_path / f"{layout}.png"
        generate(composed("generate", *common, f"layout={layout}", f"out={out}"))
        sizes[layout] = Image.open(out).size
    assert sizes["grid"][1] > 1.8 * sizes["strip"][1], "two lines per seed"
    assert sizes["progressive"][0] > sizes["strip"][0], "three columns"
    assert "No slider acts" not in caplog.text
    late = ["sampler.schedule={400:0}", f"out={tmp_path}/late.png"]
    generate(composed("generate", *common, *late))
    assert "No slider acts: all 2 timesteps" in caplog.text
    with pytest.raises(InputError, match="layout among"):
        generate(composed("generate", *common, "layout=row"))
