"""The training of table 2's slider: on the same pairs and the same background as the baselines."""

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from rich.console import Console

from experiments.paper.pairs import PairEnds
from experiments.paper.stage import Stage
from experiments.paper.table2 import learnt_background, slider_scales, slider_training
from slider_lightning.config import CONF, build, plain_config, register_resolvers
from slider_lightning.errors import InputError
from tests.conftest import composed


def table_and_training(*overrides: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the table's command line composes, and the training of its slider."""
    register_resolvers()
    given = ["out=x", *overrides]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        HydraConfig.instance().set_config(compose("paper/table2", given, return_hydra_config=True))
        table = plain_config(compose("paper/table2", given))
        return table, slider_training(Stage(table, Console()))


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["pairs=eye_size_levels"],
        ["pairs.count=4", "pairs.levels={-1:0.2,2:1}"],
        ["pairs=folder", "pairs.folder='/some where/a=b'"],
        [
            *("pairs=stylegan", "pairs.channels.layers={4:[847]}", "generator@pairs.generator=stylegan"),
            *("pairs.generator.pickle=a.pkl", "pairs.generator.code=b"),
        ],
    ],
)
def test_the_training_below_is_the_one_that_is_told_of_the_same_pairs(overrides: list[str]) -> None:
    table, below = table_and_training(*overrides)
    direct = composed("train", "experiment=eye_size", *overrides)
    assert below["pairs"] == table["pairs"] == direct["pairs"]
    assert below["run"] == direct["run"]


def test_a_tables_own_file_may_decide_its_pairs(tmp_path: Path) -> None:
    source = {"_target_": "slider_lightning.data.pairs.PairTable", "path": "mine.csv"}
    written = {**composed("paper/table2", "out=x"), "pairs": source}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        HydraConfig.instance().set_config(compose("paper/table2", ["out=x"], return_hydra_config=True))
        assert slider_training(Stage(written, Console()))["pairs"] == source


def test_the_pairs_are_read_on_the_background_that_the_slider_learns_them_on() -> None:
    assert learnt_background(table_and_training()[1]) == "white"
    assert learnt_background(table_and_training("training=['data.source.background=black']")[1]) == "black"
    with pytest.raises(InputError, match="image pairs, but age does not; choose one with data=pairs"):
        learnt_background(table_and_training("visual_experiment=age")[1])


@pytest.mark.parametrize(
    ("ends", "expected"), [((-1.0, 1.0), (-2, -1, 1, 2)), ((-1.5, 3.0), (-2, -1.5, -1, 0.5, 1, 2, 3))]
)
def test_sliders_have_images_where_pairs_were_trained_and_tables_compare(
    ends: tuple[float, float], expected: tuple[float, ...]
) -> None:
    protocol = build(composed("paper/table2", "out=x")["protocol"])
    scale = 0.5 if 0.5 in expected else 1.0
    assert slider_scales(protocol, scale, PairEnds(Path("low"), Path("high"), ends)) == expected
