"""What trainings and evaluations leave on W&B, read with its own reader from what it keeps on disk."""

import json
from pathlib import Path

import pytest
import wandb
import yaml
from PIL import Image

from evaluation.evaluate import run_config
from evaluation.grids import SliderMethod
from evaluation.measures import slider_measures
from evaluation.setup import build_setup
from evaluation.statistics import Measure
from evaluation.wandb_report import log_evaluation
from slider_lightning.adapters import SliderMetadata, load_slider
from slider_lightning.errors import InputError
from slider_lightning.grid import grid_folder, train_grid
from slider_lightning.train import train
from slider_lightning.training import RunCard, RunFolder, WandbConfig
from slider_lightning.training.wandb_run import WANDB_FILE, open_again
from tests.conftest import composed, quick_training
from tests.test_grid import points_of
from tests.wandb_file import LoggedRun, logged_runs

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def quick(pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides of a quick training on the smallest model, logged to W&B offline."""
    folder = tmp_path_factory.mktemp("wandb")
    return [
        *quick_training(pipeline_folder, folder),
        "evaluation.prompts.seeds_per_prompt=2",
        "evaluation.scales=[-1,0,1]",
        "logger=wandb",
        "logger.offline=true",
    ]


@pytest.fixture(scope="module")
def run(quick: list[str]) -> RunFolder:
    """One training."""
    return train(composed("train", *quick, "logger.tags=[first_try]", "logger.project=sliders"))


@pytest.fixture(scope="module")
def training(run: RunFolder) -> LoggedRun:
    """What it left on W&B."""
    return logged_runs(run.path)[0]


@pytest.fixture(scope="module")
def measures(run: RunFolder) -> dict[str, Measure]:
    """The figures of its evaluation, which is logged."""
    setup = build_setup(run_config(run, {}))
    measurements = setup.measure(SliderMethod("concept_slider", (str(run.slider),)))
    found = slider_measures(measurements, setup.settings.target, setup.settings.protected)
    log_evaluation(run, setup, measurements, found)
    return found


@pytest.fixture(scope="module")
def evaluation(run: RunFolder, measures: dict[str, Measure]) -> LoggedRun:
    """What the evaluation left there."""
    return logged_runs(run.path)[1]


def test_a_run_says_what_it_is(run: RunFolder, training: LoggedRun) -> None:
    assert training.run["display_name"] == "age, lora, rank 4, eta 1, seed 0"
    assert (training.run["project"], training.run["job_type"]) == ("sliders", "train")
    assert set(training.run["tags"]) == {"age", "text_enhance", "lora", "first_try"}
    assert "run_group" not in training.run
    chosen = yaml.safe_load(run.config.read_text())
    assert {key: training.config[key] for key in chosen} == chosen
    manifest = run.read_manifest()
    assert training.config["git"] == manifest["git"]
    assert training.config["versions"].items() <= manifest["versions"].items()
    assert training.exit_code == 0
    assert wandb.run is None


def test_losses_are_drawn_over_the_optimizer_step(run: RunFolder, training: LoggedRun) -> None:
    axes = {metric.get("name") or metric["glob_name"]: metric.get("step_metric") for metric in training.of("metric")}
    assert axes == {"global_step": None, "*": "global_step"}
    curve = [(row["global_step"], row["train/loss"]) for row in training.history if "train/loss" in row]
    assert curve == [(row["step"], pytest.approx(row["train/loss"], rel=1e-6)) for row in run.read_metrics()]
    assert len(curve) == 4


def test_strip_and_figures_are_logged(run: RunFolder, training: LoggedRun) -> None:
    row = next(row for row in training.history if "strip.path" in row)
    assert row["strip.caption"] == "image of a person; scales -1, +1; seeds 0"
    assert (training.files / row["strip.path"]).read_bytes() == run.strip.read_bytes()
    for key, value in run.read_summary().items():
        if not key.startswith("eval/") and isinstance(value, int | float):
            assert training.summary[key] == pytest.approx(value), key


def test_the_slider_is_an_artifact_that_names_what_it_was_made_with(run: RunFolder, training: LoggedRun) -> None:
    artifacts = training.artifacts
    assert set(artifacts) == {"slider", "base-model", "teacher-cache"}
    slider = artifacts["slider"]
    (entry,) = slider["manifest"]["contents"]
    assert Path(entry["local_path"]) == run.slider
    assert int(entry["size"]) == run.slider.stat().st_size
    told = load_slider(run.slider)[1]
    assert SliderMetadata(**{**json.loads(slider["metadata"]), "useful_scales": told.useful_scales}) == told
    assert "use_after_commit" not in slider
    base, cache = artifacts["base-model"], artifacts["teacher-cache"]
    assert json.loads(base["metadata"])["fingerprint"] == told.base_model_hash
    key = json.loads(cache["metadata"])["key"]
    folder = Path(yaml.safe_load(run.config.read_text())["paths"]["cache"]) / key
    assert folder.is_dir()
    assert json.loads(cache["metadata"])["bytes"] > 0
    for origin in (base, cache):  # used, not made; told by a digest, nothing of it uploaded
        assert origin["use_after_commit"] is True
        (entry,) = origin["manifest"]["contents"]
        assert entry["ref"].startswith("sha256:")
        assert "local_path" not in entry


def test_an_evaluation_goes_on_in_the_run_of_its_training(
    training: LoggedRun, evaluation: LoggedRun, measures: dict[str, Measure]
) -> None:
    assert evaluation.run["run_id"] == training.run["run_id"]
    assert evaluation.run["resume"] is True
    assert "resume" not in training.run
    assert set(evaluation.run["tags"]) == {*training.run["tags"], "evaluated"}
    for name, measure in measures.items():
        assert evaluation.summary[name] == pytest.approx(measure.mean, nan_ok=True), name
    paths = {row["key"]: row for row in tables(evaluation.files)}
    lines = {line[0]: line[1:] for line in paths["figures"]["data"]}
    assert lines.keys() == measures.keys()
    shift = measures["eval/attribute_shift/age/+1"]
    assert lines["eval/attribute_shift/age/+1"] == pytest.approx([shift.mean, *shift.ci95, shift.n])
    assert len(paths["measurements"]["data"]) == 2 * 3


def tables(files: Path) -> list[dict[str, object]]:
    found = sorted((files / "media" / "table" / "eval").glob("*.table.json"))
    return [{"key": path.name.partition("_")[0], **json.loads(path.read_text())} for path in found]


def test_its_images_carry_their_scales_and_the_dose_response_is_drawn(evaluation: LoggedRun) -> None:
    images = next(row for row in evaluation.history if "eval/images.captions" in row)
    assert [caption.partition(" |")[0] for caption in images["eval/images.captions"]] == ["-1", "0", "+1"] * 2
    assert all((evaluation.files / name).is_file() for name in images["eval/images.filenames"])
    drawn = next(row for row in evaluation.history if "eval/dose_response.path" in row)
    assert Image.open(evaluation.files / drawn["eval/dose_response.path"]).width > 100


def test_a_run_without_wandb_is_not_evaluated_there(quick: list[str], tmp_path: Path) -> None:
    stale = tmp_path / "run" / WANDB_FILE
    stale.parent.mkdir()
    stale.write_text("{}")
    overrides = [each for each in quick if not each.startswith("logger")] + [f"run={tmp_path}/run"]
    train(composed("train", *overrides))
    assert RunFolder(tmp_path / "run").manifest.is_file()
    assert not stale.exists()
    with open_again(RunFolder(tmp_path / "run")) as logged:
        assert logged is None


def test_a_damaged_wandb_file_is_named(tmp_path: Path) -> None:
    (tmp_path / WANDB_FILE).write_text("{}")
    with pytest.raises(InputError, match=r"wandb\.json"), open_again(RunFolder(tmp_path)):
        pass


def test_a_training_that_is_refused_ends_as_failed(quick: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lower optimizer"):
        train(composed("train", *quick, f"run={tmp_path}/run", "optimizer.lr=1e18"))
    (logged,) = logged_runs(tmp_path)
    assert logged.exit_code == 1
    assert "slider" not in logged.artifacts


def test_every_slider_of_a_grid_has_a_run_of_its_own(quick: list[str], tmp_path: Path) -> None:
    points = points_of({"adapter.rank": [1, 2]}, quick)
    runs = train_grid(points, tmp_path)
    logged = [logged_runs(run.path)[0] for run in runs]
    assert len({each.run["run_id"] for each in logged}) == 2
    assert {each.run["run_group"] for each in logged} == {grid_folder(points, tmp_path).path.name}
    for rank, run, each in zip((1, 2), runs, logged, strict=True):
        assert each.run["display_name"] == f"age, lora, rank {rank}, eta 1, seed 0"
        curve = [row["train/loss"] for row in each.history if "train/loss" in row]
        assert curve == pytest.approx([row["train/loss"] for row in run.read_metrics()], rel=1e-6)
        assert json.loads(each.artifacts["slider"]["metadata"])["rank"] == rank
        assert each.exit_code == 0
    assert logged[0].artifacts["teacher-cache"]["digest"] == logged[1].artifacts["teacher-cache"]["digest"]


def test_an_id_follows_what_decides_the_result() -> None:
    config = {"name": "my age", "concept": {"name": "age"}, "seed": 0}
    told = SliderMetadata(layers="noxattn")
    ids = [RunCard.of(config, deciding, told).id for deciding in ("a", "a", "b")]
    assert ids[0] == ids[1] != ids[2]
    assert ids[0].startswith("my-age-")


@pytest.mark.parametrize("name", ["init_timeout", "finish_timeout"])
def test_a_timeout_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"logger.{name}"):
        WandbConfig(**{name: 0.0})
