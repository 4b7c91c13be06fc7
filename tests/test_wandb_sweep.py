"""Sweeps that W&B directs: what is shipped fits its reader, and its agent's command trains and measures a trial."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from evaluation.wandb_trial import wandb_trial
from slider_lightning.config import CONF
from slider_lightning.errors import InputError
from tests.conftest import composed
from tests.wandb_file import logged_runs

REPOSITORY = Path(__file__).parent.parent
SWEEPS = sorted((CONF / "wandb_sweep").glob("*.yaml"))
QUICK = (
    "trainer.max_steps=4",
    "trainer.progress_bar=false",
    "data.source.num_rollouts=1",
    "data.source.rollout.num_inference_steps=3",
    "data.batch_size=2",
    "sampler.num_inference_steps=3",
    "strip=none",
    "measure.evaluation.prompts.seeds_per_prompt=2",
)


def agents_command(sweep: dict[str, Any], parameters: dict[str, Any]) -> list[str]:
    """What the agent starts for a set of parameters, as its `_command_run` puts it together."""
    told = create_sweep_command_args({"args": {key: {"value": value} for key, value in parameters.items()}})
    told |= {"interpreter": ["python"], "program": [sweep["program"]], "env": ["/usr/bin/env"]}
    parts = [str(part) for part in create_sweep_command(list(sweep["command"]))]
    return [word for part in parts for word in (told[part[2:-1]] if part.startswith("${") else [part])]


def drawn(sweep: dict[str, Any]) -> dict[str, Any]:
    """One point of the sweep's space: the last of the values, or the middle of a logarithmic range."""
    assert sweep["metric"]["goal"] in ("minimize", "maximize")
    found = {}
    for name, space in sweep["parameters"].items():
        if "values" in space:
            found[name] = space["values"][-1]
        else:
            assert space["distribution"] == "log_uniform_values"
            assert 0 < space["min"] < space["max"]
            found[name] = math.sqrt(space["min"] * space["max"])
    return found


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_shipped_sweep_draws_overrides_that_compose(path: Path) -> None:
    sweep = yaml.safe_load(path.read_text())
    assert sweep["method"] in ("grid", "bayes", "random")
    parameters = drawn(sweep)
    assert parameters.keys() == sweep["parameters"].keys()
    *start, experiment = agents_command(sweep, {})
    assert start == ["/usr/bin/env", "python", "-m", "evaluation.wandb_trial"]
    command = agents_command(sweep, parameters)
    config = composed("wandb_trial", *command[len(start) :])
    assert experiment == "experiment=age"
    for key, value in parameters.items():
        node: Any = config
        for name in key.split("."):
            node = node[name]
        assert node == pytest.approx(value), key


def test_the_agents_command_trains_a_trial_and_logs_its_metric(pipeline_folder: Path, tmp_path: Path) -> None:
    sweep = yaml.safe_load((CONF / "wandb_sweep" / "rank_eta.yaml").read_text())
    parameters = {"adapter.rank": 2, "objective.eta": 1.5, "optimizer.lr": 0.003}
    places = (f"model.path={pipeline_folder}", f"paths.outputs={tmp_path}/outputs", f"paths.cache={tmp_path}/cache")
    command = [*agents_command(sweep, parameters), *QUICK, *places]
    agents = {
        "WANDB_SWEEP_ID": "sweep1",
        "WANDB_RUN_ID": "given1",
        "WANDB_PROJECT": "theirs",
        "WANDB_DIR": str(tmp_path),
    }
    environment = {**os.environ, **agents, "WANDB_MODE": "offline", "PATH": f"{Path(sys.executable).parent}:/usr/bin"}
    subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, capture_output=True)
    runs = logged_runs(tmp_path / "outputs")
    assert {(each.run["run_id"], each.run["project"]) for each in runs} == {("given1", "theirs")}
    assert runs[0].config["adapter"]["rank"] == 2
    assert runs[0].config["objective"]["eta"] == 1.5
    folder = runs[0].path.parents[2]
    told = json.loads((folder / "summary.json").read_text())
    assert len(runs) == 2
    assert runs[1].summary[sweep["metric"]["name"]] == pytest.approx(told[sweep["metric"]["name"]]["mean"])


@pytest.mark.parametrize("override", ["grid.eta=[1,2]", "trainer.devices=2"])
def test_a_trial_is_one_slider_in_one_process(override: str) -> None:
    with pytest.raises(InputError, match="Expected one"):
        wandb_trial(composed("wandb_trial", "experiment=age", override))
