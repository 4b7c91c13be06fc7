"""The public commands on the shipped world, from a config to a run folder, an evaluation and a strip."""

import json
from pathlib import Path

import pytest
import wandb
import yaml
from PIL import Image

from evaluation.evaluate import evaluate
from slider_lightning.errors import InputError
from slider_lightning.generate import generate
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
