"""Configs: everything shipped composes and fits its classes; a typo or a wrong type is one sentence."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir

from slider_lightning.concepts import Concept, VisualConcept
from slider_lightning.config import CONF, ROOT, build, register_resolvers, run_id
from slider_lightning.data import PairsConfig
from slider_lightning.errors import InputError
from slider_lightning.objectives import ImagePairObjective
from slider_lightning.runs import identity
from tests.conftest import composed


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


# What these experiments leave to their user.
REQUIRED = {
    "drawn_pairs": ("pairs.attribute=glasses",),
    "image_pairs": ("concept.name=test", "pairs.folder=DIR"),
    "sdxl_image_pairs": ("concept.name=test", "pairs.folder=DIR"),
    "sdxl_eye_size": ("pairs.folder=DIR",),
    "sdxl_stylegan": ("pairs.generator.pickle=FILE", "pairs.generator.code=DIR", "pairs.channels.layers={4:[847]}"),
}


@pytest.mark.parametrize(
    "group", ["model", "adapter", "objective", "data", "optimizer", "trainer", "logger", "sampler", "strip"]
)
def test_every_option_of_a_group_fits_its_class(group: str) -> None:
    assert options(group)
    for option in options(group):
        composed("train", "concept=age", f"{group}={option}", "run=outputs/test")


@pytest.mark.parametrize("option", options("pairs"))
def test_every_source_of_pairs_fits_its_class(option: str) -> None:
    given = {"folder": ["pairs.folder=DIR"], "sdxl": ["pairs.folder=DIR"], "table": ["pairs.path=CSV"]}
    given["drawn"] = ["pairs.attribute=smile"]
    given["stylegan"] = ["pairs.channels.layers={4:[847]}"]
    config = composed("train", "experiment=eye_size", f"pairs={option}", *given.get(option, []), "run=outputs/test")
    assert config["pairs"]["_target_"]


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_composes_and_builds(experiment: str) -> None:
    config = composed("train", f"experiment={experiment}", "run=outputs/test", *REQUIRED.get(experiment, ()))
    on_sdxl = "stable-diffusion-xl" in config["model"]["path"] and config["trainer"]["max_steps"] == 1000
    assert on_sdxl == experiment.startswith("sdxl_")
    for part in ("concept", "adapter", "objective", "optimizer", "trainer", "strip", "sampler", "evaluation"):
        build(config[part], f"{part}.")
    pairs = isinstance(build(config["objective"]), ImagePairObjective)
    assert pairs == isinstance(build(config["data"]["source"]), PairsConfig) == bool(config["pairs"])


@pytest.mark.parametrize("name", options("concept"))
def test_every_concept_builds_and_is_named_after_its_file(name: str) -> None:
    concept = build({**shipped_concept(name), "name": name})
    assert isinstance(concept, Concept | VisualConcept)
    assert shipped_concept(name)["name"] in (name, "???")


def shipped_concept(name: str) -> dict[str, Any]:
    return yaml.safe_load((CONF / "concept" / f"{name}.yaml").read_text())


def test_concepts_about_people_preserve_something() -> None:
    for name in options("concept"):
        concept = build({**shipped_concept(name), "name": name})
        if isinstance(concept, VisualConcept):
            continue
        assert concept.preserve or concept.target not in ("a person", "a man", "a woman")


def test_build_of_the_world_composes() -> None:
    settings = build(composed("build", "unet.steps=7"))
    assert settings.unet.steps == 7


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("+adapter.rnak=4", "Unknown setting adapter.rnak; did you mean adapter.rank?"),
        ("adapter.rank=four", "Expected adapter.rank to be a whole number, but got 'four'; change it."),
        ("data.source.rollout.num_inference_steps=2.5", "data.source.rollout.num_inference_steps"),
        ("objective.mode=[1]", "objective.mode"),
    ],
)
def test_a_typo_or_a_wrong_type_is_one_sentence(override: str, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        composed("train", "experiment=age", "run=outputs/test", override)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_value_is_named() -> None:
    with pytest.raises(InputError, match="sliders"):
        composed("generate", "prompt=a person")


def test_run_id_follows_what_decides_the_result() -> None:
    register_resolvers()
    names = ("adapter", "seed")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        ids = [
            run_id(*names, _root_=compose("train", ["experiment=age", *o]))
            for o in ([], ["resume=true"], ["seed=1"], ["adapter.rank=8"])
        ]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


DECIDES = (
    "seed=1",
    "adapter.rank=8",
    "objective.eta=2.0",
    "data.batch_size=2",
    "data.source.num_rollouts=4",
    "optimizer.lr=1e-3",
    "trainer.max_steps=7",
    "trainer.precision=bf16-mixed",
    "trainer.devices=2",
    "model.dtype=bfloat16",
    "sampler.start_timestep=600",
    "concept.positive=old",
)
DECIDES_NOTHING = (
    "resume=true",
    "trainer.progress_bar=false",
    "trainer.log_every_n_steps=1",
    "trainer.checkpoint_every_n_steps=7",
    "trainer.accelerator=cpu",
    "strip=none",
    "strip.seeds=[7]",
    "evaluation.batch_size=1",
    "evaluation.prompts.seeds_per_prompt=3",
    "evaluation.target=smile",
    "judges.clip.name=other",
    "model.device=auto",
    "model.speed.channels_last=true",
    "data.source.rollout.rows_per_forward=3",
    "sampler.num_inference_steps=3",
    "logger=wandb",
    "paths.cache=elsewhere",
)


def run_and_identity(*overrides: str) -> tuple[str, str]:
    config = composed("train", "experiment=age", *overrides)
    return config["run"], identity(config)


def test_a_run_is_found_again_whatever_decides_nothing_of_its_slider() -> None:
    plain = run_and_identity()
    assert {override: run_and_identity(override) for override in DECIDES_NOTHING} == dict.fromkeys(
        DECIDES_NOTHING, plain
    )


def test_whatever_decides_a_slider_makes_another_run() -> None:
    runs = [run_and_identity(), *(run_and_identity(override) for override in DECIDES)]
    for each in zip(*runs, strict=True):
        assert len(set(each)) == len(runs)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["slider_lightning.train", "experiment=age", "adapter.rnak=4"], "adapter.rnak"),
        (["slider_lightning.train", "experiment=agee"], "agee"),
        (["slider_lightning.train", "experiment=age", "adapter.rank=0"], "adapter.rank"),
        (["slider_lightning.train", "experiment=age", "resume=maybe"], "resume"),
        (["slider_lightning.train", "experiment=age", "trainer.accelerator=nonsense"], "nonsense"),
        (["slider_lightning.train", "experiment=age", "+data.foo=3"], "data.foo"),
        (["experiments.tiny_faces.build", "+size.imagesize=128"], "size.imagesize"),
        (["slider_lightning.generate"], "sliders"),
        (["slider_lightning.train", "experiment=age", "objective.eta=-1"], "objective.mode=erase"),
        (["slider_lightning.train", "experiment=age", "objective=image_pairs"], "data=pairs"),
        (["slider_lightning.train", "experiment=age", "objective=image_pairs", "data=pairs"], "pairs=folder"),
        (["slider_lightning.train", "experiment=eye_size", "pairs=folder", "pairs.folder=nowhere"], "nowhere"),
        (["slider_lightning.train", "experiment=eye_size", "objective=text"], "objective=text"),
        (["slider_lightning.train", "experiment=eye_size", "objective=image_pairs_text"], "positive and negative"),
        (["slider_lightning.train", "experiment=age", "adapter.layers=everything"], "everything"),
        (["slider_lightning.train", "experiment=age", "model.path=nowhere/at/all"], "nowhere/at/all"),
        (
            ["slider_lightning.generate", "sliders=[none.safetensors]", "prompt=a person", "model.path=nowhere/at/all"],
            "nowhere/at/all",
        ),
        (["evaluation.evaluate", "run=nowhere"], "nowhere"),
    ],
)
def test_bad_input_ends_with_one_line_and_status_2(
    arguments: list[str], word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    module, *given = arguments
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # which a command sets
    monkeypatch.setattr(sys, "argv", [module, *given])
    with pytest.raises(SystemExit) as ended:
        import_module(module).main()
    check_told(ended.value.code, capfd.readouterr().err, word, tmp_path)


def test_a_process_that_is_given_bad_input_says_so_and_nothing_else(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "slider_lightning.train", "experiment=age", "model.path=nowhere/at/all"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    check_told(ended.returncode, ended.stderr, "nowhere/at/all", tmp_path)


def check_told(status: object, stderr: str, word: str, folder: Path) -> None:
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert status == 2, stderr
    assert len(errors) == 1
    assert word in errors[0]
    assert "Traceback" not in stderr
    assert folder.is_dir()
    assert not any(path.is_file() for path in folder.rglob("*")), "something half-written was left behind"
