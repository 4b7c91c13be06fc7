"""The benchmark of composition for real, at the smallest size."""

import json
import sys
from pathlib import Path

import pytest

from experiments.benchmarks import compose
from experiments.benchmarks.compose_sides import ComposeConfig, Composition
from slider_lightning.backbone import Backbone
from slider_lightning.config import build
from slider_lightning.errors import InputError
from tests.conftest import composed


def test_the_three_ways_do_the_same_work(backbone: Backbone) -> None:
    config = ComposeConfig(counts=(0, 1, 3), images=3, repetitions=1, num_inference_steps=2, rank=2)
    calls: list[tuple[int, int]] = []
    result = compose.measure(Composition(backbone, config), lambda done, total: calls.append((done, total)))
    assert calls == [(done + 1, 18) for done in range(18)]
    for count in ("0", "1", "3"):
        assert {result["sample_forwards"][name][count] for name in compose.TITLES} == {2 * 2 * 3}
        differences = result["largest_difference"][count]
        assert max(differences["folded_diffusers"], differences["folded_per_sample"]) < 1e-4
        assert (differences["folded_none"] > 1e-3) == (count != "0")
        assert all(len(result["seconds"][name][count]) == 1 for name in compose.TITLES)
    assert all(result["ratio"][name]["0"] == 1 for name in compose.TITLES)
    assert not any(module._forward_hooks for module in backbone.unet.modules() if module is not backbone.unet)


def test_the_command_prints_a_table_and_writes_the_figures(
    pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = ["counts=[0,2]", "images=1", "repetitions=1", "num_inference_steps=1"]
    overrides = [f"model.path={pipeline_folder}", f"paths.outputs={tmp_path}", *(f"compose.{v}" for v in values)]
    monkeypatch.setattr(sys, "argv", ["compose", *overrides])
    compose.main()
    written = json.loads((tmp_path / "benchmarks" / "compose.json").read_text())
    assert {"settings", "seconds", "ratio", "sample_forwards", "largest_difference", "machine"} <= set(written)
    assert "sliders" in capsys.readouterr().out


def test_the_shipped_settings_are_the_defaults() -> None:
    assert build(composed("benchmark/compose")["compose"]) == ComposeConfig()


@pytest.mark.parametrize("values", [{"counts": (1, 10)}, {"counts": (0, 10, 1)}, {"images": 0}, {"repetitions": 0}])
def test_settings_out_of_range_are_refused(values: dict) -> None:
    with pytest.raises(InputError, match="Expected"):
        ComposeConfig(**values)
