"""The paper's tables from training to Markdown, on the smallest settings of the shipped world."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from evaluation.baselines.personal import folder_digest
from evaluation.measurements import read_measurements
from experiments.paper import table2
from experiments.paper.protocol import Protocol, TableConcept
from slider_lightning.assets import sha256_file
from slider_lightning.config import CONF, ROOT, plain_config, register_resolvers
from slider_lightning.errors import InputError
from tests.conftest import composed

SMALL = (
    "protocol.seeds_per_prompt=2",
    "protocol.batch_size=4",
    "protocol.concepts={age:{experiment:age,prompts:tiny_faces}}",
    "sampler.num_inference_steps=2",
    "training=['data.source.num_rollouts=1','data.source.rollout.num_inference_steps=2',"
    "'trainer.max_steps=1','trainer.progress_bar=false']",
)
VISUAL = (
    "protocol.seeds_per_prompt=1",
    "protocol.slider_scales=[-1,1]",
    "protocol.baseline_scales=[-1,1]",
    "pairs.count=2",
    "pairs.levels={-1:0.1,1:0.9}",
    "training=['data.batch_size=2','trainer.max_steps=1','trainer.progress_bar=false','sampler.num_inference_steps=2',"
    "'strip.seeds=[0]','strip.scales=[1]']",
    "baselines=[textual_inversion]",
    "baseline_training=['personal.batch_size=1','trainer.max_steps=1','trainer.progress_bar=false',"
    "'sampler.num_inference_steps=2','strip.seeds=[0]']",
)
AGE = TableConcept("age", "tiny_faces")


def run_table(name: str, outputs: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"experiments.paper.{name}", *SMALL, f"paths.outputs={outputs}", *overrides]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished table 3 of one variant."""
    folder = tmp_path_factory.mktemp("outputs")
    only = "protocol.variants={without_disentanglement:age_unpreserved}"
    result = run_table("table3", folder, "~protocol.variants", f"+{only}", f"paths.cache={folder / 'cache'}")
    assert result.returncode == 0, result.stderr
    return folder


def test_table_3_is_written_with_its_measurements(outputs: Path) -> None:
    folder = outputs / "paper" / "table3-tiny_faces"
    text = (folder / "table3.md").read_text()
    for words in ("Concept Slider", "w/o disentanglement", "Prompt-to-Prompt", "Composition", "n = 6", "3.93 (2)"):
        assert words in text
    for kind in ("tex", "csv"):
        assert (folder / f"table3.{kind}").is_file()
    names = {path.stem for path in (folder / "measurements").glob("*.jsonl")}
    assert names == {
        f"age-{m}" for m in ("concept_slider", "without_disentanglement", "prompt_to_prompt", "composition")
    }
    assert (folder / "interference_by_noun.png").is_file()
    assert json.loads((folder / "manifest.json").read_text())["git"] is not None


def test_a_second_time_the_numbers_are_the_same_and_nothing_is_generated(outputs: Path) -> None:
    folder = outputs / "paper" / "table3-tiny_faces"
    before = (folder / "table3.csv").read_bytes()
    only = "protocol.variants={without_disentanglement:age_unpreserved}"
    result = run_table("table3", outputs, "~protocol.variants", f"+{only}", f"paths.cache={outputs / 'cache'}")
    assert result.returncode == 0, result.stderr
    assert (folder / "table3.csv").read_bytes() == before
    assert " 0 UNet sample-forwards" in " ".join(result.stdout.split())


def test_scales_that_do_not_meet_are_refused() -> None:
    with pytest.raises(InputError, match="same two scales"):
        Protocol({"age": AGE}, "age", {}, "tiny_faces", baseline_scales=(-1.0, 2.0))
    with pytest.raises(InputError, match=r"protocol\.ablated"):
        Protocol({"age": AGE}, "smile", {}, "tiny_faces")


@pytest.mark.parametrize("table", ["table1", "table2", "table3", "figures"])
@pytest.mark.parametrize("model", ["tiny_faces", "sdxl"])
def test_every_table_composes_for_both_models(table: str, model: str) -> None:
    config = composed(
        f"paper/{table}",
        f"model={model}",
        "out=x",
        *(["pairs.folder=x"] if (table, model) == ("table2", "sdxl") else []),
    )
    assert config["protocol"]["ablated"] in config["protocol"]["concepts"]


@pytest.fixture(scope="module")
def visual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished table 2: a slider and one baseline, trained for one step on two drawn pairs."""
    folder = tmp_path_factory.mktemp("visual")
    given = [*SMALL, f"paths.outputs={folder}", f"paths.cache={folder / 'cache'}", *VISUAL]
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        # In this process: half of the time of a command is its imports.
        HydraConfig.instance().set_config(compose("paper/table2", given, return_hydra_config=True))
        inspect.unwrap(table2.main)(plain_config(compose("paper/table2", given)))
    return folder


def test_table_2_trains_slider_and_baseline_on_its_own_pairs(visual: Path) -> None:
    folder = visual / "paper" / "table2-tiny_faces"
    text = (folder / "table2.md").read_text()
    for words in ("training pairs", "Textual Inversion", "Visual slider", "n = 3", "1.75 (2)"):
        assert words in text
    for table in ("claims", "attributes"):
        assert (folder / f"{table}.md").is_file()
    methods = ("training_pairs", "textual_inversion", "visual_slider")
    found = {name: read_measurements(folder / "measurements" / f"eye_size-{name}.jsonl") for name in methods}
    assert len(found["training_pairs"].rows) == 2
    assert found["textual_inversion"].rows == found["visual_slider"].rows, "paired"
    assert found["visual_slider"].header.scales == (-1, 0, 1)
    run = next((visual / "eye_size").iterdir())
    pairs = yaml.safe_load((run / "config.yaml").read_text())["pairs"]
    assert (pairs["count"], pairs["levels"]) == (2, {-1: 0.1, 1: 0.9})
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["seeds"] == {"images": 1000}
    (ends,) = (visual / "pairs").glob("ends-*")
    assert manifest["assets"].items() >= {
        ("visual slider", sha256_file(run / "slider.safetensors")),
        ("training pairs, lowest level", folder_digest(ends / "low")),
        ("training pairs, highest level", folder_digest(ends / "high")),
    }
    learnt = yaml.safe_load((next((visual / "textual_inversion").iterdir()) / "config.yaml").read_text())
    assert Path(learnt["images"]) == ends / "high"
