"""The commands that export and inspect sliders."""

from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from slider_lightning.adapters import SliderMetadata, load_slider, save_slider
from slider_lightning.adapters.calibration import Calibration
from slider_lightning.adapters.layouts import LAYOUTS
from slider_lightning.adapters.reading import read_slider_file
from slider_lightning.adapters.slider import Slider
from slider_lightning.errors import InputError
from slider_lightning.export import ExportConfig, export
from slider_lightning.inspect import delta_norms, run
from tests.conftest import composed
from tests.test_adapters_files import METADATA, saved, slider, unet  # noqa: F401


@pytest.fixture
def run_folder(saved: Path) -> Path:  # noqa: F811
    (saved.parent / "config.yaml").write_text("name: age\n")
    return saved.parent


def shown(*arguments: str) -> str:
    output = StringIO()
    assert run(arguments, Console(file=output, width=160)) == 0
    return output.getvalue()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_export_writes_a_run_and_its_exports_in_every_layout(run_folder: Path, layout: str) -> None:
    first = export(ExportConfig(str(run_folder), layout, dtype="bf16"))
    assert first.parent == run_folder
    assert f"slider-{layout}-bf16" in first.name
    assert (read_slider_file(first).layout, read_slider_file(first).dtype) == (layout, "bf16")
    again = export(ExportConfig(str(first), "native", out=str(run_folder / "again.safetensors")))
    (slider, metadata), (expected, _) = load_slider(again), load_slider(first)  # noqa: F811
    assert all(torch.equal(slider.state_dict()[name], t) for name, t in expected.state_dict().items())
    assert metadata == (METADATA if layout != "released" else SliderMetadata(rank=3, alpha=1.5, layers="full"))


def test_export_refuses_what_it_cannot_do(run_folder: Path) -> None:
    for wrong in ({"layout": "a1111"}, {"layout": "peft", "dtype": "int8"}):
        with pytest.raises(InputError, match="among"):
            ExportConfig(str(run_folder), **wrong)
    with pytest.raises(InputError, match="another file"):
        export(ExportConfig(str(run_folder), "native", out=str(run_folder / "slider.safetensors")))
    with pytest.raises(InputError, match="no config"):
        export(ExportConfig(str(run_folder.parent), "native"))


def test_export_config_composes() -> None:
    config = composed("export", "slider=RUN", "layout=kohya", "dtype=fp16")
    assert (config["dtype"], config["out"]) == ("fp16", None)


def test_inspect_shows_what_the_file_says_and_what_its_tensors_are(run_folder: Path, slider: Slider) -> None:  # noqa: F811
    text = shown(str(run_folder), f"slider={run_folder / 'slider.safetensors'}")
    assert text.count("native") == 2
    resnets = sum("resnets" in path for path in slider.layer_paths)
    convolutions = sum(len(slider.weight_shape(path)) == 4 for path in slider.layer_paths)
    known = (f"{resnets} resnet", f"{convolutions} conv", "2 sampler", "3, 1.5", "fp32", "matches the weights")
    known += ("man; woman", "text_enhance", "-2 to +2", "750", "tiny_faces", "(full)", f"{slider.num_parameters():,}")
    assert not [word for word in known if word not in text]
    norms = {path: float(slider.delta_weight(path).detach().norm()) for path in slider.layer_paths}
    largest = max(norms, key=norms.__getitem__)
    assert f"{norms[largest]:.4g}  {largest}" in text
    assert next(iter(delta_norms(slider))) == largest


def test_inspect_shows_a_calibration(tmp_path: Path, slider: Slider) -> None:  # noqa: F811
    values = (-2.0, 0.0, 3.25)
    calibration = Calibration("age", "years", (-1, 0, 1), values, values, values, values, (-1, 1))
    metadata = SliderMetadata.of(slider.config, calibration=calibration)
    save_slider(tmp_path / "a.safetensors", slider, metadata, layout="kohya")
    text = shown(str(tmp_path / "a.safetensors"))
    assert "age in years; -1: -2.00, +1: +3.25" in text
    assert "objective          │ not known" in text


def test_inspect_goes_on_after_a_file_that_cannot_be_read(run_folder: Path) -> None:
    (run_folder / "cut.safetensors").write_bytes(b"")
    output = StringIO()
    places = [str(run_folder / "cut.safetensors"), str(run_folder)]
    assert run(places, Console(file=output, width=200)) == 2
    assert "whole slider file" in output.getvalue()
    assert "matches the weights" in output.getvalue()
    with pytest.raises(InputError, match="RUN_OR_FILE"):
        run([], Console(file=output))
